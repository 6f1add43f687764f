"""The replica's app under uvicorn in its own process, configured as in Ray Serve: production mode, key, bundle."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from fraud.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0
BODY_TIMEOUT_S = 2.0
_MIB = 2.0**20
# The uvicorn settings are those of ray/serve/_private/http_util.py.
_PROGRAM = """
import os, sys, uvicorn
from serve_app.replica import Replica
replica = Replica({**os.environ, "FRAUD_BUNDLE": sys.argv[1]})
try:
    uvicorn.run(replica.app(), host="127.0.0.1", port=int(sys.argv[2]), timeout_keep_alive=5, lifespan="off",
                access_log=False, log_level="warning", timeout_graceful_shutdown=5)
finally:
    replica.close()
"""
_FOREIGN = ("FRAUD_", "MLFLOW_", "RAY_")


@dataclass(frozen=True)
class Target:
    """The server under attack. key: API key; pids: its processes, for memory."""

    host: str
    port: int
    key: str
    pids: tuple[int, ...]
    is_ingress: bool = False

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def rss_mib(self) -> float:
        """Resident memory of all its processes, MiB. Raises DataError if one has died."""
        try:
            return sum(psutil.Process(pid).memory_info().rss for pid in self.pids) / _MIB
        except psutil.NoSuchProcess as error:
            raise DataError(f"the server's process {error.pid} died") from None

    def ask(self, path: str, timeout_s: float = 30.0, body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request with the key. Returns (status, body), or (0, reason) without an answer."""
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=timeout_s) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError as error:
            return 0, str(error).encode()


def environment(state: Path, digest: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of a replica without the caller's settings. digest: hash of the API key."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {
        **own,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "FRAUD_MODE": "production",
        "FRAUD_API_KEY_HASHES": digest,
        "FRAUD_STATE": str(state),
        "FRAUD_BODY_TIMEOUT_S": str(BODY_TIMEOUT_S),
        **(settings or {}),
    }


@contextmanager
def serving(
    bundle: Path, state: Path, port: int, log: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Target]:
    """Run the server while the block runs. state: its state folder; settings: further environment variables.

    Raises DataError with the end of the log if it does not start or exits early.
    """
    key, digest = new_key()
    command = [sys.executable, "-c", _PROGRAM, str(bundle), str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(state, digest, settings), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    target = Target("127.0.0.1", port, key, (process.pid,))
    try:
        until = time.monotonic() + START_S
        while target.ask("/readyz", 5)[0] != 200:
            if process.poll() is not None or time.monotonic() > until:
                raise DataError(f"the server did not start: {_end_of(log)}")
            time.sleep(0.1)
        yield target
        if process.poll() is not None:
            raise DataError(f"the server ended with {process.returncode}: {_end_of(log)}")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def new_key() -> tuple[str, str]:
    """A key and its hash, as made by `python -m serve_app.auth`."""
    key = secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]
