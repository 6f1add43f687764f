"""Two Ray Serve clusters: ours with HAProxy, started as by `make up`, and one with Serve's defaults."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.serving.sandbox import Sandbox
from cluster import ingress
from deploy.processes import free_port
from fraud.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
REPLICA_PORT = 31_000
DEPLOY_TIMEOUT_S = 180.0
OBJECT_STORE_BYTES = 500_000_000


def start_ours(sandbox: Sandbox, environment: Mapping[str, str], replicas: int) -> None:
    """Deploy serve_app/config.yaml behind HAProxy; overrides port, number of replicas and bundle."""
    folder = Path(tempfile.mkdtemp(prefix="bench-ha-"))
    sandbox.processes.folders.append(folder)
    variables = ingress.environment(
        folder,
        metrics_port=free_port(sandbox.port + 20),
        stats_port=free_port(sandbox.port + 30),
        replica_port=REPLICA_PORT,
    )
    if not variables:
        raise DataError("HAProxy is missing: ours would be measured behind Serve's own proxy")
    config = yaml.safe_load((ROOT / "serve_app/config.yaml").read_text())
    (application,) = config["applications"]
    application["args"] = {"bundle": str(sandbox.workload.bundle)}
    application["deployments"][0]["num_replicas"] = replicas
    config["http_options"]["port"] = sandbox.port
    _start(sandbox, {**variables, **environment})
    _deploy(sandbox, config)


def start_defaults(sandbox: Sandbox, replicas: int) -> None:
    """Deploy the plain app behind Serve's own proxy; overrides only port and number of replicas."""
    deployment = {"name": "Scorer", "num_replicas": replicas}
    application = {"name": "fraud", "import_path": "benchmarks.serving.peers.ray_serve:app", "route_prefix": "/"}
    options = {"host": "127.0.0.1", "port": sandbox.port}
    _start(sandbox, {})
    _deploy(sandbox, {"http_options": options, "applications": [{**application, "deployments": [deployment]}]})


def _start(sandbox: Sandbox, environment: Mapping[str, str]) -> None:
    """Start Ray as deploy/local/services.py does: on loopback, with a token, at least 4 logical CPUs."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-ray-"))  # short: socket paths are limited to 107 bytes
    sandbox.processes.folders.append(scratch)
    token = sandbox.folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ports = {name: free_port(sandbox.port + 100 + 20 * i) for i, name in enumerate(_PORTS)}
    (sandbox.folder / "dashboard").write_text(f"http://127.0.0.1:{ports['dashboard']}")
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--log-color", "false"]
    command += ["--num-cpus", str(max(4, os.cpu_count() or 1)), "--temp-dir", str(scratch)]
    command += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--min-worker-port", "0", "--max-worker-port", "0"]
    command += ["--port", str(ports["gcs"]), "--ray-client-server-port", str(ports["client"])]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(ports["dashboard"])]
    command += ["--dashboard-agent-listen-port", str(ports["agent"])]
    sandbox.start(
        *command,
        **environment,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="1",
        AUTOSCALER_METRIC_PORT=str(ports["autoscaler"]),
        DASHBOARD_METRIC_PORT=str(ports["metrics"]),
    )


_PORTS = ("gcs", "client", "dashboard", "agent", "autoscaler", "metrics")


def _deploy(sandbox: Sandbox, config: Mapping[str, Any]) -> None:
    """Deploy through the API of `serve deploy` and wait until the application runs. Raises DataError if it does not."""
    began, state = time.monotonic(), "no answer"
    is_deployed = False
    while time.monotonic() - began < DEPLOY_TIMEOUT_S:
        sandbox.processes.check()
        try:
            if not is_deployed:
                _ask(sandbox, "PUT", config)
                is_deployed = True
            applications = _ask(sandbox, "GET").get("applications", {})
        except (OSError, ValueError) as error:
            state = str(error)
        else:
            for application in applications.values():
                state = application["status"]
                if state in ("DEPLOY_FAILED", "UNHEALTHY"):
                    raise DataError(f"the application is {state}: {application['message'].strip()[-1000:]}")
                if state == "RUNNING":
                    return
        time.sleep(0.3)
    raise DataError(f"the application is not running after {DEPLOY_TIMEOUT_S:.0f} s: {state}")


def _ask(sandbox: Sandbox, method: str, content: object = None) -> Any:
    token = (sandbox.folder / "token").read_text()
    request = urllib.request.Request(
        (sandbox.folder / "dashboard").read_text() + "/api/serve/applications/",
        data=None if content is None else json.dumps(content).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=20) as answer:
        return json.loads(answer.read() or b"{}")
