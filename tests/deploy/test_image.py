"""The image: what the Dockerfile promises, and, where asked for, an image that is built and answers /score."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from deploy import serving
from deploy.local.services import CODE, StackError
from fraud.settings import Settings
from tests.deploy.live_stack import Live

DOCKERFILE = (CODE / "Dockerfile").read_text(encoding="utf-8")
LAST_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]


def instructions(text: str, name: str) -> list[str]:
    """The arguments of every instruction of one kind."""
    return re.findall(rf"(?m)^{name} (.+(?:\\\n.+)*)$", text.replace("\\\n", " "))


def test_it_runs_as_nobody_special_on_the_locked_versions():
    assert instructions(LAST_STAGE, "USER") == ["10001:10001"]
    assert re.findall(r"(?m)^FROM (\S+)", DOCKERFILE) == ["${BASE_IMAGE}", "${BASE_IMAGE}"]
    assert "--constraint constraints.txt" in DOCKERFILE and "requirements.lock > constraints.txt" in DOCKERFILE
    assert instructions(LAST_STAGE, "CMD") == ['["python", "-m", "deploy.serving"]']
    assert "deploy.serving" in " ".join(instructions(LAST_STAGE, "HEALTHCHECK"))


def test_only_code_goes_in_and_all_of_it():
    copied = {line.split()[0] for line in instructions(LAST_STAGE, "COPY") if not line.startswith("--from")}
    packages = {path.parent.name for path in CODE.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert copied == packages
    allowed = {line[1:] for line in (CODE / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == copied | {"pyproject.toml", "requirements.lock", "requirements-airflow.lock", "dags"}
    assert not re.search(r"(?i)(https?://|password|secret=|/wheels)", DOCKERFILE)


def test_without_a_model_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FRAUD_BUNDLE", str(tmp_path / "absent"))
    with pytest.raises(StackError, match="FRAUD_BUNDLE"):
        serving.main([])
    assert serving.main(["--check"]) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_its_health_check_holds_while_a_replica_has_a_model(live: Live):
    live.stack.serve_port = live.port
    live.stack.write()
    assert serving.is_ready(live.stack.settings)
    assert not serving.is_ready(Settings.from_environment({"FRAUD_ROOT": str(live.state / "other")}))


@pytest.mark.slow
def test_the_built_image_answers_read_only_and_without_rights(small_bundle: Path):
    image = os.environ.get("FRAUD_IMAGE")
    if not image:
        pytest.skip("building takes minutes and gigabytes: build it with buildah and name it in FRAUD_IMAGE")
    command = [str(CODE / "deploy" / "docker" / "try.sh"), image, str(small_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "user: 10001 10001" in done.stdout and "/score without a key: 401" in done.stdout
    assert "effective capabilities: 0000000000000000" in done.stdout
