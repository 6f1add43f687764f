"""One stack in production mode for several modules: Ray, MLflow, and /score with keys and with secrets to look for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import processes
from deploy.local import access, services
from deploy.local.command import parser
from deploy.local.demo import SEED_REQUEST, Demo
from fraud.data import simulation
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from tests.deploy.live_stack import KEY, SECRETS, Live, eventually, serve_config


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the default schema."""
    schema = Schema.load("transactions")
    rows = validate(simulation.transactions(1500, seed=1, fraud_rate=0.05), schema).rows
    config = from_mapping(TrainConfig, {"forest": {"n_estimators": 10}, "autoencoder": {"epochs": 1}})
    folder = tmp_path_factory.mktemp("small") / "bundle"
    bundle.save(folder, fitting.fit_locally(rows, schema, config)[0])
    return folder


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Iterator[Live]:
    """`make up` in production mode, with /score deployed on it; half a minute."""
    root = tmp_path_factory.mktemp("live")
    settings = Settings.from_environment({"FRAUD_ROOT": str(root), "FRAUD_STATE": "state"})
    settings.state.mkdir(mode=0o700)
    metrics_key = settings.state / "metrics_key"
    access.make_token(metrics_key)
    keys = {"gateway": KEY, "prometheus": metrics_key.read_text()}
    lines = [f"{hashlib.sha256(key.encode()).hexdigest()} {name}\n" for name, key in keys.items()]
    (root / "keys").write_text("".join(lines))
    messages: list[str] = []
    try:
        with pytest.MonkeyPatch.context() as environment:  # other tests shall not find these variables
            for name in ("MLFLOW_TRACKING_URI", "FRAUD_STATE", "FRAUD_ROOT"):
                environment.delenv(name, raising=False)
            variables = {"FRAUD_MODE": "production", "FRAUD_API_KEY_FILE": str(root / "keys"), **SECRETS}
            for name, value in {**variables, "FRAUD_DECISIONS_HASH": "device_score"}.items():
                environment.setenv(name, value)
            stack = services.up(settings, messages.append)
            demo = Demo.from_arguments(parser().parse_args(["demo"]), settings, messages.append)
            demo.stack = stack
            port = processes.free_port(8123)
            environment.setattr(demo, "_config", lambda: serve_config(root, small_bundle, port=port))
            demo.deploy()
        result = Live(stack, port)
        eventually(lambda: result.ask("/score", SEED_REQUEST)[0] == 200)
        yield result
    finally:
        left = processes.stop(settings.state, [])
        services.down(settings, messages.append)
    assert not left
