"""Input of every server: one trained bundle, its training rows, and unseen transactions to send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fraud.errors import BundleError
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings

SCHEMA = "transactions"
TRAINING_ROWS, TRAINING_SEED = 20_000, 7
SINGLES, BATCHES, BATCH_ROWS, LOAD_SEED = 2000, 4, 1000, 8


@dataclass(frozen=True)
class Workload:
    """Model, training rows and transactions.

    bundle: folder. rows: Parquet file of the training rows. columns: fields of a transaction. transactions: to send.
    scores: the engine's scores of them, float64 (n,). is_fraud: their labels, bool (n,).
    """

    bundle: Path
    rows: Path
    columns: list[str]
    transactions: list[dict[str, Any]]
    scores: np.ndarray
    is_fraud: np.ndarray

    @property
    def singles(self) -> list[dict[str, Any]]:
        """Transactions for single requests."""
        return self.transactions[:SINGLES]

    @property
    def batches(self) -> list[list[dict[str, Any]]]:
        """Transactions for batch requests, BATCH_ROWS each."""
        starts = range(SINGLES, len(self.transactions), BATCH_ROWS)
        return [self.transactions[start : start + BATCH_ROWS] for start in starts]


def prepare(settings: Settings, *, training_rows: int = TRAINING_ROWS) -> Workload:
    """Load the bundle, training it first if missing (a minute), and draw the transactions to send."""
    from fraud.data.simulation import transactions
    from fraud.schema import Schema
    from fraud.schema.validation import validate

    schema = Schema.load(SCHEMA)
    folder = cache(settings) / f"model-{training_rows}-{TRAINING_SEED}"
    rows = folder / "rows.parquet"
    try:
        loaded = bundle.load(folder / "bundle")
    except BundleError:
        folder.mkdir(parents=True, exist_ok=True)
        training = transactions(training_rows, seed=TRAINING_SEED)
        training.to_parquet(rows)
        _train(folder / "bundle", validate(training, schema).rows, schema)
        loaded = bundle.load(folder / "bundle")
    drawn = transactions(SINGLES + BATCHES * BATCH_ROWS, seed=LOAD_SEED)
    checked = validate(drawn, schema).rows
    names = [column.name for column in schema.inputs]
    sent = drawn[names].to_dict(orient="records")
    scores = Engine(loaded.detector).score_frame(checked)["score"].to_numpy()
    return Workload(folder / "bundle", rows, names, sent, scores, drawn["is_fraud"].to_numpy() == 1)


def cache(settings: Settings) -> Path:
    """Folder reused between runs: model, peers' environments, compiled kernels."""
    return settings.state / "benchmarks"


def _train(folder: Path, rows: Any, schema: Any) -> None:
    from fraud.training import fitting
    from fraud.training.config import TrainConfig

    detector, evaluation = fitting.fit_locally(rows, schema, TrainConfig())
    bundle.save(folder, detector, metrics=evaluation.metrics)
