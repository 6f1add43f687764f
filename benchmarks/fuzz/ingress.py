"""The app as callers reach it: Ray Serve replicas behind HAProxy, on its own Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import yaml

from benchmarks.fuzz.server import ROOT, Target, environment, new_key
from deploy import processes
from fraud.errors import DataError

DEPLOY_S = 240.0


@contextmanager
def serving_behind_haproxy(bundle: Path, folder: Path, port: int, log: Callable[[str], None]) -> Iterator[Target]:
    """Start Ray and MLflow with the command of `make up`, deploy serve_app/config.yaml in production mode, stop all at
    the end. Raises DataError if something does not start or HAProxy is missing.
    """
    key, digest = new_key()
    state = folder / "state"
    own = {**environment(state, digest), "FRAUD_ROOT": str(folder)}
    try:
        _run(own, log, "-m", "deploy.local", "up")
        record = json.loads((state / "local.json").read_text(encoding="utf-8"))
        dashboard = next(each["ports"]["dashboard"] for each in record["services"] if "dashboard" in each["ports"])
        config = yaml.safe_load((ROOT / "serve_app/config.yaml").read_text(encoding="utf-8"))
        config["http_options"]["port"] = port
        config["applications"][0]["args"] = {"bundle": str(bundle)}
        path = folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(state / "ray_token")}
        serve = str(Path(sys.executable).parent / "serve")
        _run(own, log, serve, "deploy", "--address", f"http://127.0.0.1:{dashboard}", str(path))
        target, deployments = (
            Target("127.0.0.1", port, key, (), is_ingress=True),
            config["applications"][0]["deployments"],
        )
        until = time.monotonic() + DEPLOY_S
        while target.ask("/readyz", 5)[0] != 200 or len(_replicas(state)) < deployments[0]["num_replicas"]:
            if time.monotonic() > until:
                raise DataError(f"the replicas are not ready on port {port} after {DEPLOY_S:.0f} s")
            time.sleep(1)
        if not any(process.name() == "haproxy" for process in processes.find(state)):
            raise DataError("HAProxy is not running: the attacks would hit Serve's own proxy")
        # Not HAProxy's processes: each reload replaces them.
        yield replace(target, pids=tuple(process.pid for process in _replicas(state)))
    finally:
        _run(own, log, "-m", "deploy.local", "down")


def _run(own: dict[str, str], log: Callable[[str], None], *command: str) -> None:
    command = (sys.executable, *command) if command[0] == "-m" else command
    done = subprocess.run(command, cwd=ROOT, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    log(f"  {' '.join(command[1:4])}: done")


def _replicas(state: Path) -> list[psutil.Process]:
    return [process for process in processes.find(state) if "ServeReplica:" in " ".join(process.cmdline())]
