"""Real servers for tests: PostgreSQL, Redis and S3 on loopback, and an MLflow server on the first and the last."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy import processes
from deploy.backends.servers import Servers, binary
from deploy.local import services
from deploy.local.services import Stack
from fraud.errors import ConfigError
from fraud.settings import Settings

PROGRAMS = {"postgresql": "initdb", "redis": "redis-server", "s3": "weed"}
FIRST_PORT = 23_000  # away from what a developer's own servers take


@contextmanager
def running(*names: str) -> Iterator[Servers]:
    """Some of the three servers, or all; a skip where a program is missing. They are gone afterwards."""
    names = names or tuple(PROGRAMS)
    for name in names:
        try:
            binary(PROGRAMS[name])
        except ConfigError as error:
            pytest.skip(str(error))
    servers = Servers.read(Path(tempfile.mkdtemp(prefix="fraud-backends-")))
    try:
        for index, name in enumerate(names):
            servers.start(lambda _: None, only=name, ports={name: FIRST_PORT + 100 * index})
        yield servers
    finally:
        servers.stop()
        servers.wipe()


@contextmanager
def mlflow_on(settings: Settings) -> Iterator[str]:
    """An MLflow server as `make up` starts it with the environment as it is; its address."""
    settings.state.mkdir(parents=True, exist_ok=True)
    stack = Stack(settings)
    try:
        stack.services["mlflow"] = services._start_mlflow(stack, {"mlflow": FIRST_PORT + 500}, lambda _: None)
        services.wait(stack, "mlflow", lambda: services.ask(f"{stack.url('mlflow')}/health")[0] == 200, lambda _: None)
        yield stack.url("mlflow")
    finally:
        assert not processes.stop(settings.state, stack.services.values())
        shutil.rmtree(settings.state / "log", ignore_errors=True)
