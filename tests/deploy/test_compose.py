"""deploy/compose.yaml: closed by default, pinned, and every name in it exists; each rule refuses its breach."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.airflow import POOLS
from deploy.local.services import CODE

HERE = CODE / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8"))
CODE_TEXT = "\n".join(path.read_text() for folder in ("fraud", "cluster", "serve_app", "monitoring", "deploy", "dags")
                      for path in (CODE / folder).rglob("*.py"))  # fmt: skip
OTHERS = ("AWS_", "RAY_AUTH_", "MLFLOW_", "PG", "POSTGRES_", "GF_", "AIRFLOW__")
ONE_SHOT = "volumes"  # gives new volumes to the user, and ends


def faults(compose: dict[str, Any]) -> list[str]:
    """What breaks a rule of ours, one line each."""
    messages = []
    for name, service in compose["services"].items():
        if not re.fullmatch(r"[\w./-]+:(\$\{FRAUD_VERSION:-[\d.]+\}|v?\d+(\.\d+)+[\w.-]*)", service["image"]):
            messages.append(f"{name}: image is not pinned")
        if name != ONE_SHOT and service.get("user") != "10001:10001":
            messages.append(f"{name}: user")
        if service.get("read_only") is not True or service.get("cap_drop") != ["ALL"] or service.get("privileged"):
            messages.append(f"{name}: rights")
        if service.get("cap_add", []) != (["CHOWN"] if name == ONE_SHOT else []):
            messages.append(f"{name}: cap_add")
        if "healthcheck" not in service or (name != ONE_SHOT and "test" not in service["healthcheck"]):
            messages.append(f"{name}: no health check")
        messages += [f"{name}: port {p}" for p in service.get("ports", []) if not re.match(r"127\.0\.0\.1:\d+:\d+$", p)]
        for variable, value in service.get("environment", {}).items():
            if (
                variable.startswith("FRAUD_")
                and not re.search(rf"\b{variable}\b", CODE_TEXT)
                and variable != "FRAUD_DASHBOARDS"
            ):
                messages.append(f"{name}: nobody reads {variable}")
            if not variable.startswith(("FRAUD_", *OTHERS)):
                messages.append(f"{name}: unknown {variable}")
            secret = re.search(r"PASSWORD|SECRET|TOKEN|KEY|HISTORY_URL|CONN|STORE_URI", variable)
            is_secret = re.match(r"(cat )?/run/secrets/\w+$|\$\{\w+:\?.+\}$|[\w+]+://\w+@[\w:/]+$", str(value))
            if secret and not is_secret:
                messages.append(f"{name}: {variable} may be a literal secret")
            mounted = re.match(r"(?:cat )?/run/secrets/(\w+)$", str(value))
            if mounted and mounted[1] not in service.get("secrets", []):
                messages.append(f"{name}: {mounted[1]} is not mounted")
        messages += [f"{name}: no secret {s}" for s in service.get("secrets", []) if s not in compose["secrets"]]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                messages += [] if (HERE / source).exists() and volume.endswith(":ro") else [f"{name}: {volume}"]
            elif source not in compose["volumes"]:
                messages.append(f"{name}: no volume {source}")
        messages += [f"{name}: waits for {other}" for other in service.get("depends_on", {}) if other not in
                  compose["services"]]  # fmt: skip
    messages += [
        f"secret {name}" for name, secret in compose["secrets"].items() if secret != {"file": f"./secrets/{name}"}
    ]
    return messages


def test_nothing_in_it_breaks_a_rule():
    assert faults(COMPOSE) == []
    assert set(COMPOSE["services"]) > {"postgres", "redis", "s3", "mlflow", "ray", "serving", "airflow", "grafana"}


BREACHES: dict[str, Callable[[dict[str, Any]], object]] = {
    "port": lambda c: c["ray"].update(ports=["8265:8265"]),
    "every address": lambda c: c["ray"].update(ports=["0.0.0.0:8265:8265"]),
    "latest": lambda c: c["redis"].update(image="redis:latest"),
    "no tag": lambda c: c["redis"].update(image="redis"),
    "root": lambda c: c["mlflow"].pop("user"),
    "writable": lambda c: c["mlflow"].update(read_only=False),
    "capability": lambda c: c["ray"].update(cap_add=["SYS_ADMIN"]),
    "health": lambda c: c["s3"].pop("healthcheck"),
    "typo": lambda c: c["serving"]["environment"].update(FRAUD_HISTORYS="memory"),
    "password": lambda c: c["mlflow"]["environment"].update(
        MLFLOW_BACKEND_STORE_URI="postgresql://mlflow:pw@postgres/mlflow"
    ),
    "token": lambda c: c["ray"]["environment"].update(RAY_AUTH_TOKEN="abc"),
    "unmounted": lambda c: c["ray"].update(secrets=[]),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_noticed(breach: str):
    changed = copy.deepcopy(COMPOSE)
    BREACHES[breach](changed["services"])
    assert faults(changed)


def test_the_script_draws_every_secret_for_its_owner_alone_and_keeps_what_is_there(tmp_path: Path):
    script = tmp_path / "secrets.sh"  # without root it does not chown; with root the folder stays readable to root
    shutil.copy(HERE / "docker" / "secrets.sh", script)
    folder = tmp_path / "held"
    subprocess.run([script, str(folder)], check=True, capture_output=True)
    drawn = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(drawn) == {*COMPOSE["secrets"], "environment"}
    assert all(text.strip() and not path.stat().st_mode & 0o077 for path, text in zip(folder.iterdir(), drawn.values(),
               strict=True))  # fmt: skip
    assert f":{drawn['redis_password']}@redis" in drawn["environment"]
    assert json.loads(drawn["s3_config"])["identities"][0]["credentials"][0]["secretKey"] in drawn["aws_credentials"]
    subprocess.run([script, str(folder)], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == drawn


def test_commands_and_copies_agree_with_the_code():
    assert json.loads((HERE / "docker" / "airflow-pools.json").read_text()) == POOLS
    assert COMPOSE["services"]["serving"]["command"] == ["python", "-m", "deploy.serving"]
    ignored = (CODE / ".dockerignore").read_text().splitlines()
    assert "deploy/secrets" in ignored[ignored.index("!deploy") :]
    for script in ("secrets.sh", "databases.sh", "airflow.sh"):
        subprocess.run(["bash", "-n", str(HERE / "docker" / script)], check=True)
    here = yaml.safe_load((HERE / "prometheus" / "compose.yml").read_text())
    for job in here["scrape_configs"]:
        for target in (t for static in job.get("static_configs", []) for t in static["targets"]):
            assert target.split(":")[0] in COMPOSE["services"]
