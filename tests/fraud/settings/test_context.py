"""How a command finds the stack that runs: what it takes from the context, and what its environment decides."""

from __future__ import annotations

import ast
import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fraud.errors import ConfigError, RegistryUnreachableError
from fraud.registry import runs
from fraud.settings import Settings, context
from fraud.settings.context import Context

ROOT = Path(__file__).parents[3]
STACK = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
    "FRAUD_MODEL_NAME": "fraud-detector-handbook",
    "FRAUD_LABELS": "/srv/labels",
    "RAY_ADDRESS": "127.0.0.1:6390",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": "/srv/var/ray_token",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a command beside a running stack."""
    state = tmp_path / "state"
    state.mkdir()
    Context(path=state / context.NAME, variables=STACK).write()
    return {"FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": "state"}


def test_a_command_takes_from_the_context_what_its_environment_does_not_say(environment: dict[str, str]):
    assert context.completed(environment) == {**environment, **STACK}
    own = {**environment, "FRAUD_MODEL_NAME": "mine", "FRAUD_LABELS": ""}  # an empty variable counts as not set
    assert context.completed(own) == {**environment, **STACK, "FRAUD_MODEL_NAME": "mine"}
    assert context.completed({"FRAUD_STATE": "/nowhere"}) == {"FRAUD_STATE": "/nowhere"}


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"])
def test_another_ray_is_not_asked_with_the_stacks_token(environment: dict[str, str], variable: str):
    completed = context.completed({**environment, variable: "other"})
    assert {name for name in completed if name.startswith("RAY_")} == {variable}
    assert completed["FRAUD_MODEL_NAME"] == "fraud-detector-handbook"


def test_another_registry_or_the_switch_turns_the_context_off(environment: dict[str, str]):
    for own in ({"MLFLOW_TRACKING_URI": "http://mlflow.example"}, {"FRAUD_CONTEXT": "off"}):
        assert context.completed({**environment, **own}) == {**environment, **own}
    same = {**environment, "MLFLOW_TRACKING_URI": STACK["MLFLOW_TRACKING_URI"]}
    assert context.completed(same) == {**environment, **STACK}


def test_the_file_is_private_and_replaced_whole(environment: dict[str, str]):
    path = Path(environment["FRAUD_ROOT"], "state", context.NAME)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = context.of_environment(environment)
    assert written is not None
    replace(written, variables={"FRAUD_MODEL_NAME": "next"}).write()
    assert context.completed(environment) == {**environment, "FRAUD_MODEL_NAME": "next"}
    assert [entry.name for entry in path.parent.iterdir()] == [context.NAME]
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"context\.json cannot be read .*make up"):
        context.completed(environment)


def run_promote(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`python -m ray_jobs.promote`, the shortest command that asks the registry."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("FRAUD_STATE", "MLFLOW_TRACKING_URI")
    }
    return subprocess.run(
        [sys.executable, "-m", "ray_jobs.promote"], cwd=ROOT, env={**inherited, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_command_says_which_model_and_registry_it_speaks_of(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
):
    state = Path(environment["FRAUD_ROOT"], "state")
    log = run_promote({**environment, "MLFLOW_TRACKING_URI": f"sqlite:///{state}/other.db"}).stderr
    assert f"model fraud-detector, registry sqlite:///{state}/other.db\n" in log
    with socket.create_server(("127.0.0.1", 0)) as server, caplog.at_level("INFO"):
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        Context(path=state / context.NAME, variables={**STACK, "MLFLOW_TRACKING_URI": uri}).write()
        settings = Settings.from_environment(context.completed(environment))
        runs._announce(settings)
    assert caplog.messages == [f"model fraud-detector-handbook, registry {uri} ({state}/context.json)"]


def test_a_stack_that_does_not_run_is_said_at_once(environment: dict[str, str]):
    with socket.socket() as free:  # bound, but it does not listen
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        state = Path(environment["FRAUD_ROOT"], "state")
        Context(path=state / context.NAME, variables={**STACK, "MLFLOW_TRACKING_URI": uri}).write()
        settings = replace(Settings.from_environment(environment), tracking_uri=uri)
        with pytest.raises(RegistryUnreachableError, match=r"context\.json does not run: start it with `make up`"):
            runs.find_runs(settings, {"any": "run"})
        failed = run_promote(environment)
    assert failed.returncode == 2
    assert failed.stderr.endswith(
        f"error: the stack of {state}/context.json does not run: start it with `make up`, or set MLFLOW_TRACKING_URI\n"
    )


def test_what_makes_or_measures_a_stack_does_not_read_its_context():
    """`make demo` after another demo would add to that one's name; a benchmark would write into its registry."""
    for folder in ("deploy", "benchmarks", "fraud", "cluster", "ray_jobs", "tuning", "serve_app", "monitoring"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run_command":
                    switches = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    expected = {"uses_stack": "False"} if folder in ("deploy", "benchmarks") else {}
                    assert switches == expected, path


def test_no_secret_stands_in_a_context():
    assert {"FRAUD_MODEL_NAME", "FRAUD_LABELS", "FRAUD_DECISIONS", "FRAUD_MODE"} <= set(context.names())
    secrets = {"FRAUD_API_KEY_HASHES", "FRAUD_HISTORY_URL", "FRAUD_DECISIONS_KEY", "FRAUD_MLFLOW_BACKEND"}
    assert not secrets & set(context.names())
