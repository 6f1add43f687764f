"""The measured servers, each started as its own documentation says."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.serving import protocols, ray_clusters
from benchmarks.serving.peers import shared_engine
from benchmarks.serving.protocols import Protocols
from benchmarks.serving.ray_clusters import ROOT
from benchmarks.serving.sandbox import Sandbox
from benchmarks.serving.workload import Workload
from deploy.processes import free_port
from fraud.settings import TELEMETRY_OFF

PEERS = "benchmarks.serving.peers"
# Variables of the caller that would point a server to another Ray, MLflow or folder.
_FOREIGN = ("RAY_", "MLFLOW_", "FRAUD_", "BENTOML_")


@dataclass(frozen=True)
class Server:
    """A measured server.

    launch: starts it; returns the headers of a request. peer: name of its requirements file; None: our environment.
    package: package whose version is reported. has_our_engine: its scores must equal ours.
    """

    title: str
    launch: Callable[[Sandbox], Mapping[str, str] | None]
    protocols: Protocols
    package: str
    peer: str | None = None
    has_our_engine: bool = True


@dataclass(frozen=True)
class _Uvicorn:
    """Run an app factory of `PEERS` under uvicorn."""

    app: str
    options: tuple[str, ...] = ()

    def __call__(self, sandbox: Sandbox) -> None:
        rows = {"BENCHMARK_ROWS": str(sandbox.workload.rows)}
        address = ["--host", "127.0.0.1", "--port", str(sandbox.port)]
        sandbox.start("uvicorn", "--factory", f"{PEERS}.{self.app}:create", *address, *self.options, **rows)


@dataclass(frozen=True)
class _Ours:
    """Run ours as `make up` and `serve deploy serve_app/config.yaml` do, in production mode, from a bundle folder."""

    replicas: int

    def __call__(self, sandbox: Sandbox) -> Mapping[str, str]:
        key = secrets.token_urlsafe(32)
        environment = {
            "FRAUD_MODE": "production",
            "FRAUD_API_KEY_HASHES": hashlib.sha256(key.encode()).hexdigest(),
            "FRAUD_STATE": str(sandbox.folder / "state"),
            "FRAUD_ROOT": str(sandbox.folder),
        }
        ray_clusters.start_ours(sandbox, environment, self.replicas)
        return {"X-API-Key": key}


def _mlserver(sandbox: Sandbox) -> None:
    others = {"grpc_port": free_port(sandbox.port + 1), "metrics_port": free_port(sandbox.port + 10)}
    # Not the defaults: one process and no debugging make it faster.
    settings = {"host": "127.0.0.1", "http_port": sandbox.port, "parallel_workers": 0, "debug": False, **others}
    model = {"name": "fraud", "implementation": f"{PEERS}.mlserver_runtime.EngineRuntime"}
    (sandbox.folder / "settings.json").write_text(json.dumps(settings))
    (sandbox.folder / "model-settings.json").write_text(json.dumps(model))
    sandbox.start("mlserver", "start", str(sandbox.folder))


def _bentoml(sandbox: Sandbox) -> None:
    home = {"BENTOML_HOME": str(sandbox.folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    address = ["--host", "127.0.0.1", "--port", str(sandbox.port)]
    sandbox.start("bentoml", "serve", f"{PEERS}.bento:Scorer", "--working-dir", str(ROOT), *address, **home)


def _litserve(sandbox: Sandbox) -> None:
    sandbox.start("python", "-m", f"{PEERS}.lit", str(sandbox.port))


def _mlflow(sandbox: Sandbox) -> None:
    model = sandbox.folder / "model"
    sandbox.start("python", "-m", f"{PEERS}.mlflow_model", str(model))
    saving = sandbox.processes.started.pop()
    if saving.wait(180):
        sandbox.processes.started.append(saving)
        sandbox.processes.check()
    address = ["--host", "127.0.0.1", "--port", str(sandbox.port)]
    sandbox.start("mlflow", "models", "serve", "--model-uri", str(model), "--env-manager", "local", *address)


_FAST = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
OURS = "ours"
SERVERS: Mapping[str, Server] = MappingProxyType(
    {
        "ours": Server("ours, 2 replicas", _Ours(2), protocols.OURS, "ray"),
        "ours-1": Server("ours, 1 replica", _Ours(1), protocols.OURS, "ray"),
        "fastapi": Server(
            "FastAPI by hand, our engine", _Uvicorn("fastapi_engine", _FAST), protocols.FASTAPI, "fastapi"
        ),
        "fastapi-2": Server(
            "the same, 2 workers", _Uvicorn("fastapi_engine", (*_FAST, "--workers", "2")), protocols.FASTAPI, "fastapi"
        ),
        "seed": Server(
            "FastAPI, scikit-learn, torch", _Uvicorn("seed_style"), protocols.PLAIN, "fastapi", has_our_engine=False
        ),
        "serve": Server(
            "Ray Serve's defaults, 2 replicas",
            lambda sandbox: ray_clusters.start_defaults(sandbox, 2),
            protocols.FASTAPI,
            "ray",
        ),
        "serve-1": Server(
            "Ray Serve's defaults, 1 replica",
            lambda sandbox: ray_clusters.start_defaults(sandbox, 1),
            protocols.FASTAPI,
            "ray",
        ),
        "mlserver": Server("MLServer", _mlserver, protocols.V2, "mlserver", peer="mlserver"),
        "bentoml": Server("BentoML", _bentoml, protocols.PLAIN, "bentoml", peer="bentoml"),
        "litserve": Server("LitServe", _litserve, protocols.ONE_PATH, "litserve", peer="litserve"),
        "mlflow": Server("mlflow models serve", _mlflow, protocols.INVOCATIONS, "mlflow"),
    }
)

# With Serve's defaults one replica is as fast as two; skipping it saves three minutes.
USUAL = [name for name in SERVERS if name != "serve-1"]


def environment(workload: Workload, programs: Path, kernels: Path) -> dict[str, str]:
    """Environment of every server: our code, one thread per library, no telemetry. kernels: numba's cache folder."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        **own, **threads, **TELEMETRY_OFF, shared_engine.BUNDLE: str(workload.bundle), "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1", "NUMBA_CACHE_DIR": str(kernels),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }  # fmt: skip
