"""Shared by every test: no telemetry, one thread, an own state folder each, and one Ray for the whole session."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fraud.settings import TELEMETRY_OFF, Settings
from tests.__main__ import CORE

# Two threads on a tiny model on two busy cores are many times slower than one; torch reads these when it is imported.
SINGLE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

# A developer's own settings must not steer a test, and a test must never reach a cluster that already runs.
FOREIGN = (
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "FRAUD_ROOT",
    "FRAUD_MODE",
    "FRAUD_STORE",
    "FRAUD_HISTORY",
    "FRAUD_LABELS",
    "FRAUD_DAY_ZONE",
)
FOREIGN_PREFIXES = ("FRAUD_MODEL", "FRAUD_EXPERIMENT", "FRAUD_MLFLOW", "MLFLOW_", "AWS_", "PGPASS")

# Tests that start other processes and wait for them.
WAITING = ("ray", "airflow", "browser", "drill", "slow")
# What the floor of coverage is measured by; the tracer would only slow the others down.
CORE_TESTS = tuple(Path(__file__).parents[1] / path for path in CORE)

_SESSION_STATE = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module imports torch, Ray or MLflow."""
    # A shell starts background commands with Ctrl-C ignored, and the processes that tests stop would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name in FOREIGN or name.startswith(FOREIGN_PREFIXES):
            del os.environ[name]
    os.environ.update(SINGLE_THREAD)
    os.environ.update(TELEMETRY_OFF)
    os.environ["MPLBACKEND"] = "Agg"
    state = Path(tempfile.mkdtemp(prefix="fraud-tests-"))
    config.stash[_SESSION_STATE] = state
    _use_state(os.environ, state)  # for fixtures that live longer than one test


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's state folder."""
    if _SESSION_STATE in config.stash:
        shutil.rmtree(config.stash[_SESSION_STATE], ignore_errors=True)


@pytest.hookimpl(trylast=True)  # after pytest has shown the test's result
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show a failure at once: a run that is cut short never reaches pytest's summary."""
    if report.failed:
        sys.stdout.write(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}\n")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which part of `make test` runs a test, and trace nothing but the core's tests.

    A module with the session-wide Ray stays together, as its other tests would start Rays of their own.
    """
    sharing = {item.path for item in items if "ray_session" in getattr(item, "fixturenames", ())}
    for item in items:
        is_core = any(item.path.is_relative_to(tests) for tests in CORE_TESTS)
        if not is_core and item.path in sharing:
            item.add_marker("shared_ray")
        elif not is_core and any(item.get_closest_marker(name) for name in WAITING):
            item.add_marker("live")
        if not is_core or item.get_closest_marker("slow"):
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def isolated_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test its own FRAUD_STATE folder (beside its tmp_path, which stays empty) and MLflow store."""
    settings: dict[str, str] = {}
    state = tmp_path_factory.mktemp("state")
    _use_state(settings, state)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return state


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray with two CPUs for every test that needs one; it takes seconds to start, so share it."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _use_state(environment: dict[str, str] | os._Environ[str], state: Path) -> None:
    state.mkdir(parents=True, exist_ok=True)
    environment["FRAUD_STATE"] = str(state)
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{state}/mlflow.db"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, to copy: making them takes seconds."""
    from fraud.registry import runs

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    runs.find_runs(replace(Settings.from_environment(), tracking_uri=f"sqlite:///{path}"), {"any": "run"})
    return path


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow database for all tests of a module."""
    return Path(shutil.copy(empty_store, tmp_path_factory.mktemp("store")))


@pytest.fixture
def settings(store: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that lead to the module's store, where each test has names of its own."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    name = request.node.name.replace("[", ".").rstrip("]")
    return replace(Settings.from_environment(), tracking_uri=f"sqlite:///{store}", experiment=name, model_name=name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 500 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
