"""Three small bundles, fitted once a session: the default schema, one with history, one with every kind of column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import yaml
from starlette.testclient import TestClient

from fraud.data import simulation
from fraud.schema import Schema, infer, validate
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import ServedModel, State
from serve_app.request.reader import TransactionReader

MIXED = """
name: mixed
columns:
  - {name: reference, kind: id, nullable: true}
  - {name: seconds, kind: timestamp, unit: s, calendar: [hour]}
  - {name: class, kind: categorical, categories: [atm, shop, web]}
  - {name: "Unnamed: 0", kind: categorical, nullable: true}
  - {name: model_config, kind: numeric, nullable: true}
  - {name: _score, kind: numeric, minimum: -5, maximum: 5, integer: true}
  - {name: is_new, kind: boolean, nullable: true}
  - {name: is_fraud, kind: label}
ignore: [left_out]
"""


def mixed_rows(n: int = 400) -> pd.DataFrame:
    """Raw rows for the schema MIXED."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "reference": np.arange(n),
            "seconds": np.sort(rng.integers(0, 1_000_000, n)),
            "class": rng.choice(["atm", "shop", "web"], n),
            "Unnamed: 0": rng.choice(["a", "b", "c"], n),
            "model_config": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
            "_score": rng.integers(-5, 6, n),
            "is_new": rng.choice(["true", "false", ""], n),
            "is_fraud": (rng.random(n) < 0.1).astype(int),
        }
    )


REQUESTS: dict[str, dict[str, object]] = {
    "transactions": {"amount": 220, "hour": 3, "distance": 12, "device_score": 0.92, "country_mismatch": 1},
    "handbook": {
        "TRANSACTION_ID": 17,
        "TX_DATETIME": "2018-09-01T10:15:00",
        "CUSTOMER_ID": 5,
        "TERMINAL_ID": "3",
        "TX_AMOUNT": 57.1,
    },
    "mixed": {"seconds": 1_000_100, "class": "web", "_score": -2},
}


@pytest.fixture(scope="session")
def requests() -> dict[str, Mapping[str, object]]:
    """{schema name: a good request}, read-only."""
    return {name: MappingProxyType(request) for name, request in REQUESTS.items()}


@pytest.fixture(scope="session")
def schemas() -> dict[str, Schema]:
    """{name: schema}."""
    shipped = {name: Schema.load(name) for name in ("transactions", "handbook")}
    return {**shipped, "mixed": Schema.from_dict(yaml.safe_load(MIXED))}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, schemas: dict[str, Schema]) -> dict[str, Path]:
    """{schema name: bundle folder}."""
    folder = tmp_path_factory.mktemp("serving")
    frames = {
        "transactions": simulation.transactions(2000, seed=1, fraud_rate=0.05),
        "handbook": simulation.cards(2000, seed=1),
        "mixed": mixed_rows(),
    }
    sources = {name: (schemas[name], frame) for name, frame in frames.items()}
    small = {"forest": {"n_estimators": 20}, "autoencoder": {"epochs": 2}, "head": {"iterations": 30}}
    config = from_mapping(TrainConfig, small)
    for name, (schema, frame) in sources.items():
        detector, evaluation = fitting.fit_locally(validate(frame, schema).rows, schema, config)
        bundle.save(folder / name, detector, metrics=evaluation.metrics, windows=[{"name": "test", "rows": 500}])
    return {name: folder / name for name in sources}


@pytest.fixture(scope="session")
def models(bundles: dict[str, Path]) -> dict[str, ServedModel]:
    """{schema name: loaded model}."""
    return {
        name: ServedModel.from_bundle(bundle.load(path), name="fraud-detector", version="7")
        for name, path in bundles.items()
    }


@pytest.fixture(scope="session")
def guessed() -> ServedModel:
    """A model of a stranger's file, whose schema was guessed."""
    frame = simulation.cards(1500, seed=2).rename(
        columns={
            "TRANSACTION_ID": "reference", "TX_DATETIME": "paid_at", "CUSTOMER_ID": "card_id", "TERMINAL_ID": "shop_id",
            "TX_AMOUNT": "amount", "TX_FRAUD": "is_fraud",
        }
    )  # fmt: skip
    frame["channel"] = np.where(np.arange(len(frame)) % 3, "web", "shop")
    frame["is_abroad"] = np.arange(len(frame)) % 5 == 0
    schema = infer(frame, "guessed")
    small = {"forest": {"n_estimators": 20}, "autoencoder": {"epochs": 2}, "head": {"iterations": 30}}
    detector, _ = fitting.fit_locally(validate(frame, schema).rows, schema, from_mapping(TrainConfig, small))
    engine = Engine(detector)
    return ServedModel(engine, TransactionReader(schema), "guessed", "1", "0" * 64, {})


@pytest.fixture(scope="session")
def clients(models: dict[str, ServedModel]) -> dict[str, TestClient]:
    """{schema name: a client of the app around that model}, without API keys."""
    return {name: TestClient(create_app(State(model), ApiKeys())) for name, model in models.items()}


@pytest.fixture(scope="session")
def client(clients: dict[str, TestClient]) -> TestClient:
    """The client of the default schema."""
    return clients["transactions"]
