"""The same app as callers reach it: replicas of Ray Serve behind HAProxy, on a Ray of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import yaml

from benchmarks.fuzz.server import BODY_TIMEOUT_S, ROOT, Target
from deploy import processes, services
from fraud.errors import DataError
from fraud.settings import Settings
from serve_app.auth import new_key

DEPLOY_S = 240.0
_REPLICA = "ServeReplica:"


@contextmanager
def serving_behind_haproxy(bundle: Path, folder: Path, port: int, say: Callable[[str], None]) -> Iterator[Target]:
    """Start Ray and MLflow as `make up` does, deploy serve_app/config.yaml in production mode, and stop all at the end.

    Raises DataError where there is no HAProxy, or no replica that answers.
    """
    key, digest = new_key()
    for name in [name for name in os.environ if name.startswith(("FRAUD_", "MLFLOW_", "RAY_SERVE_", "RAY_ADDRESS"))]:
        del os.environ[name]
    os.environ |= {
        "FRAUD_ROOT": str(folder), "FRAUD_STATE": str(folder / "state"), "FRAUD_MODE": "production",
        "FRAUD_API_KEY_HASHES": digest, "FRAUD_BODY_TIMEOUT_S": str(BODY_TIMEOUT_S),
    }  # fmt: skip
    settings = Settings.from_environment()
    try:
        stack = services.up(settings, say)
        config = yaml.safe_load((ROOT / "serve_app/config.yaml").read_text(encoding="utf-8"))
        config["http_options"]["port"] = port
        config["applications"][0]["args"] = {"bundle": str(bundle)}
        path = Path(tempfile.mkdtemp(dir=folder)) / "serve.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [str(services.BIN / "serve"), "deploy", "--address", stack.url("dashboard"), str(path)]
        subprocess.run(command, cwd=ROOT, env=stack.environment(), check=True, capture_output=True)
        target = Target("127.0.0.1", port, key, (), is_ingress=True)
        until = time.monotonic() + DEPLOY_S
        while target.ask("/readyz", 5)[0] != 200 or not (found := _processes(settings.state)):
            if time.monotonic() > until:
                raise DataError(f"nothing answers on port {port} after {DEPLOY_S:.0f} s")
            time.sleep(0.5)
        time.sleep(5)  # the second replica
        found = _processes(settings.state)
        if not any(process.name() == "haproxy" for process in found):
            raise DataError("there is no HAProxy here: Serve's own proxy would be attacked")
        yield replace(target, pids=tuple(process.pid for process in found))
    finally:
        services.down(settings, say)


def _processes(state: Path) -> list[psutil.Process]:
    """The replicas and HAProxy."""
    found = []
    for process in processes.ours(state):
        try:
            if process.name() == "haproxy" or _REPLICA in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found if any(process.name() != "haproxy" for process in found) else []
