"""A first try of the image: a key and a marked model where nothing is configured, and a refusal everywhere else."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from deploy import processes, serving, trial
from deploy.local import services
from deploy.local.demo import SEED_REQUEST
from deploy.local.services import CODE, Stack, StackError
from fraud.errors import ConfigError
from fraud.scoring import bundle
from fraud.settings import Settings
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.fallback import fallback_answer
from serve_app.model.state import TRIAL_MODEL, ServedModel, State
from tests.deploy.live_stack import eventually

IMAGE = {"FRAUD_MODE": "trial", "FRAUD_BUNDLE": trial.IMAGE_BUNDLE, "FRAUD_API_KEY_FILE": trial.IMAGE_KEYS}


def is_asked(**more: str) -> bool:
    environment = {**IMAGE, "FRAUD_ROOT": "/nowhere", **more}
    return trial.is_asked(Settings.from_environment(environment), environment)


def test_the_image_sets_what_a_trial_looks_for():
    text = (CODE / "Dockerfile").read_text(encoding="utf-8")
    assert all(re.search(rf"\b{name}={value}\b", text) for name, value in IMAGE.items())


@pytest.mark.parametrize(
    "configured",
    [
        {"FRAUD_MODE": "production"},
        {"FRAUD_MODE": "dev"},
        {"FRAUD_MODE": ""},
        {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
        {"FRAUD_API_KEY_HASHES": "0" * 64},
        {"FRAUD_API_KEY_FILE": "/etc/keys"},  # also where it does not exist: somebody wanted it
        {"FRAUD_BUNDLE": "/models/7"},
    ],
)
def test_a_trial_is_only_made_where_nothing_is_configured(configured: dict[str, str]):
    assert is_asked()
    assert not is_asked(**configured)


@pytest.mark.parametrize(("name", "constant"), [("FRAUD_BUNDLE", "IMAGE_BUNDLE"), ("FRAUD_API_KEY_FILE", "IMAGE_KEYS")])
def test_a_mounted_model_or_key_file_ends_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, constant: str
):
    mounted = tmp_path / "mounted"
    monkeypatch.setattr(trial, constant, str(mounted))
    assert is_asked(**{name: str(mounted)})
    mounted.mkdir()
    assert not is_asked(**{name: str(mounted)})


def test_half_a_configuration_is_refused_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    variables = {**IMAGE, "FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": "state", "FRAUD_API_KEY_HASHES": "0" * 64}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StackError, match="there is no model"):
        serving.main([])
    assert not (tmp_path / "state").exists()


def test_trial_mode_still_requires_a_key():
    settings = Settings.from_environment({"FRAUD_MODE": "trial", "FRAUD_ROOT": "/nowhere"})
    with pytest.raises(ConfigError, match="no API key"):
        ApiKeys.from_environment(settings, {})


@pytest.mark.slow
def test_the_key_is_shown_once_and_every_answer_says_what_it_is(tmp_path: Path):
    settings = Settings.from_environment({**IMAGE, "FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": "state"})
    first: list[str] = []
    again: list[str] = []
    variables = trial.prepare(settings, first.append)
    assert trial.prepare(settings, again.append) == variables

    (key,) = re.findall(r"(?m)^KEY=(\S+)", "\n".join(first))
    assert "TRIAL" in first[0] and "TRIAL" in again[0]
    assert key not in "\n".join(again) and key not in Path(variables["FRAUD_API_KEY_FILE"]).read_text()
    assert stat.S_IMODE(Path(variables["FRAUD_API_KEY_FILE"]).stat().st_mode) == 0o600
    loaded = bundle.load(variables["FRAUD_BUNDLE"])
    assert loaded.manifest["metrics"]["joined"]["average_precision"] > 0.3

    model = ServedModel.from_bundle(loaded, name="fraud-detector")
    client = TestClient(
        create_app(State(model), ApiKeys.from_environment(settings, variables)), headers={"X-API-Key": key}
    )
    assert client.post("/score", json=SEED_REQUEST, headers={"X-API-Key": "another"}).status_code == 401
    assert client.get("/model").json()["trial"] is True
    scored = client.post("/score", json=SEED_REQUEST).json()
    batch = client.post("/score/batch", json=[SEED_REQUEST, SEED_REQUEST]).json()["results"]
    explained = client.post("/explain", json=SEED_REQUEST).json()
    for answer in (scored, explained, *batch, fallback_answer("review", model, {})):
        assert TRIAL_MODEL in answer["warnings"]
    untried = replace(model, manifest={**model.manifest, "trial": False})
    assert untried.warnings_of(True, False) == [] and untried.describe()["trial"] is False


@pytest.mark.drill
@pytest.mark.ray
def test_docker_run_alone_serves_with_a_key(tmp_path: Path):
    """`python -m deploy.serving` with the image's variables, on loopback because no container closes it off here."""
    settings = Settings.from_environment({"FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": "state"})
    dropped = ("MLFLOW_TRACKING_URI", "FRAUD_STATE")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    environment = {**inherited, **IMAGE, "FRAUD_ROOT": str(tmp_path), "FRAUD_STATE": "state", "RAY_AUTH_MODE": "token"}
    log = tmp_path / "serving.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "deploy.serving"]
        serves = subprocess.Popen(command, env=environment, cwd=CODE, stdout=output, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: serving.is_ready(settings) or serves.poll() is not None)
        assert serves.poll() is None, log.read_text()
        (key,) = re.findall(r"(?m)^KEY=(\S+)", log.read_text())
        url = f"http://127.0.0.1:{Stack.read(settings).serve_port}"
        body = json.dumps(SEED_REQUEST)
        assert services.ask(f"{url}/score", body=body)[0] == 401
        status, answer = services.ask(f"{url}/score", headers={"X-API-Key": key}, body=body)
        assert status == 200 and TRIAL_MODEL in json.loads(answer)["warnings"]
        serves.send_signal(signal.SIGTERM)
        serves.wait(timeout=300)
    finally:
        serves.kill()
        services.down(settings, [].append)
    assert not processes.find(settings.state)
