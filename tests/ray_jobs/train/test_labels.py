"""Which labels a training takes: the data's, the label store's, or both; and that it says so."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pytest

from fraud.data import tables
from fraud.errors import ConfigError
from fraud.labels.store import LabelStore
from fraud.schema import Schema
from fraud.settings import Settings
from fraud.training.config import TrainConfig
from ray_jobs.labels.command import main as labels
from ray_jobs.train.labels import with_labels
from ray_jobs.train.request import Labels, TrainingRequest

HANDBOOK = Schema.load("handbook")
MOMENT = dt.datetime(2026, 1, 20)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten rows, of which the data call 0 and 1 fraud; the store calls 1 legitimate and 2 fraud."""
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    frame = pd.DataFrame(
        {
            "TRANSACTION_ID": [str(n) for n in range(10)],
            "TX_DATETIME": [dt.datetime(2026, 1, 1 + n, 12) for n in range(10)],
            "CUSTOMER_ID": "c", "TERMINAL_ID": "t", "TX_AMOUNT": 1.5, "TX_FRAUD": [1, 1] + [0] * 8,
        }
    )  # fmt: skip
    frame.to_parquet(tmp_path / "own.parquet", index=False)
    frame.drop(columns="TX_FRAUD").to_parquet(tmp_path / "bare.parquet", index=False)
    verdicts = pd.DataFrame({"id": ["1", "2"], "is_fraud": [False, True], "known_at": pd.Timestamp(MOMENT),
                             "source": "analyst"})  # fmt: skip
    LabelStore(str(tmp_path / "var/labels")).add(verdicts, "a", ingested_at=MOMENT)
    return tmp_path


def trained_on(folder: Path, data: str, choice: Labels | None) -> tuple[str, list[str]]:
    """The data that a training with this choice reads, and the ids of its frauds."""
    request = TrainingRequest(
        data=str(folder / data), schema=HANDBOOK, outdir=folder / "out", config=TrainConfig(), labels=choice
    )
    chosen = with_labels(request, Settings.from_environment()).data
    rows = pd.read_parquet(chosen)
    return Path(chosen).name, rows.loc[rows["TX_FRAUD"] == 1, "TRANSACTION_ID"].tolist() if "TX_FRAUD" in rows else []


@pytest.mark.parametrize(
    ("data", "choice", "file", "frauds", "said"),
    [
        ("own.parquet", "data", "own.parquet", ["0", "1"], "the store's 2 labels are not used (as --labels says)"),
        ("own.parquet", "store", "training.parquet", ["2"], "the data's own label column is not used"),
        ("own.parquet", "both", "training.parquet", ["0", "2"], "labels of the store (both)"),
        ("own.parquet", None, "training.parquet", ["0", "2"], "labels of the store (both)"),
        ("bare.parquet", None, "training.parquet", ["2"], "labels of the store (store)"),
    ],
)
def test_labels_are_taken_as_chosen(
    folder: Path, caplog: pytest.LogCaptureFixture, data: str, choice: Labels | None, file: str, frauds: list[str],
    said: str,
):  # fmt: skip
    caplog.set_level("INFO")
    assert trained_on(folder, data, choice) == (file, frauds)
    assert said in caplog.text


def test_joined_data_are_trained_on_as_they_are(folder: Path, caplog: pytest.LogCaptureFixture):
    join = ["join", "--schema", "handbook", "--data", "own.parquet", "--out", "joined.parquet", "--as-of", "2026-01-15"]
    assert labels(join) == 0
    assert trained_on(folder, "joined.parquet", None) == ("joined.parquet", []), "what was known on the 15th"
    assert "labels join has written these data" in caplog.text
    rows = pd.read_parquet(folder / "joined.parquet")
    tables.write_parquet(rows.iloc[:-1], str(folder / "joined.parquet"))
    assert trained_on(folder, "joined.parquet", None)[0] == "training.parquet", "no longer what the join wrote"


def test_labels_of_an_empty_store_cannot_be_asked_for(folder: Path):
    (folder / "var/labels/a.parquet").unlink()
    assert trained_on(folder, "own.parquet", None)[0] == "own.parquet"
    with pytest.raises(ConfigError, match=r"--labels store: there are no labels in .*labels ingest FILE"):
        trained_on(folder, "own.parquet", "store")
