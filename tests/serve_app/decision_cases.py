"""What the tests of the decision log and of the shadow share: decisions, a counter of what happened, a patient wait."""

from __future__ import annotations

import datetime as dt
import glob
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fraud.schema import Schema
from fraud.settings import Settings
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.log import Decision
from serve_app.decisions.settings import read_settings

SCHEMA = Schema.load("handbook")
FINGERPRINT = SCHEMA.fingerprint
NOON_US = 1_750_000_000_000_000  # 2025-06-15 15:06:40 UTC
REASON = {
    "column": "TX_AMOUNT",
    "feature": "TX_AMOUNT",
    "value": 57.1,
    "typical": 20.0,
    "contribution": 1.25,
    "text": "TX_AMOUNT 57.1 is above the usual 20",
}


class Counts:
    """Metrics of the log and the shadow, as serve_app.metrics.counters counts them."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()
        self.shadow: Counter[str] = Counter()
        self.depth = 0

    def count_decisions(self, outcome: str, n: int) -> None:
        self.decisions[outcome] += n

    def count_shadow(self, outcome: str) -> None:
        self.shadow[outcome] += 1

    def set_queue(self, depth: int) -> None:
        self.depth = depth


def a_decision(number: int, **changes: Any) -> Decision:
    """Decision `number` of the handbook schema; its request id is the number."""
    values: dict[str, Any] = {
        "request_id": str(number),
        "time_us": NOON_US + number,
        "model_name": "fraud-detector",
        "version": "7",
        "sha256": "ab" * 32,
        "schema_fingerprint": FINGERPRINT,
        "threshold": 0.9,
        "score": 0.97,
        "is_fraud": True,
        "scores": {"forest_score": 0.95, "autoencoder_score": 0.96},
        "reasons": [REASON],
        "warnings": [],
        "inputs": {
            "TRANSACTION_ID": str(number),
            "TX_DATETIME": dt.datetime(2025, 6, 15, 15, 6, 40, 123456),
            "CUSTOMER_ID": "5",
            "TERMINAL_ID": "3",
            "TX_AMOUNT": 57.1,
        },
        "key_name": "gateway",
    }
    return Decision(**values | changes)


def settings_of(state: Path, **environment: str) -> DecisionSettings:
    """The log's settings with its state below `state`."""
    env = {"FRAUD_STATE": str(state), "FRAUD_ROOT": str(state), **environment}
    return read_settings(Settings.from_environment(env), env)


def files_of(settings: DecisionSettings) -> list[Path]:
    """The Parquet files there are, by name."""
    assert settings.url is not None
    return sorted(Path(settings.url).glob("date=*/*.parquet"))


def journals_of(settings: DecisionSettings) -> list[Path]:
    """The journals there are. Unlike `Path.glob`, it does not mind a folder that goes while it looks."""
    return [Path(path) for path in glob.glob(f"{settings.journal}/*/*.jsonl")]  # noqa: PTH207


def rows_of(settings: DecisionSettings) -> list[dict[str, Any]]:
    """Every row of every file."""
    return [row for path in files_of(settings) for row in pq.read_table(path, partitioning=None).to_pylist()]


def ids_of(settings: DecisionSettings) -> list[int]:
    """The request ids of all rows, sorted as numbers."""
    return sorted(int(row["request_id"]) for row in rows_of(settings))


def eventually(holds: Callable[[], object], seconds: float = 180.0) -> None:
    """Wait until `holds()`; fail when it never does."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never came about"
        time.sleep(0.01)
