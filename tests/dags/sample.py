"""Small data for whole runs of the DAGs: cards for 120 days, a file a day at the end, late labels, quick trainings."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import yaml

from fraud.data import simulation

QUICK = {"forest": {"n_estimators": 20}, "autoencoder": {"epochs": 1, "score": "mse"}}
VARIABLES = {
    "FRAUD_SCHEMA": "handbook",
    "FRAUD_HISTORY_DATA": "data/history.parquet",
    "FRAUD_CONFIG": "quick.yaml",
    "FRAUD_SPACE": "space.yaml",
    "FRAUD_TRIALS": "2",
    "FRAUD_RETRIES": "0",
}


def write(root: Path, last: dt.date, *, rows: int = 9_000, days: int = 2) -> None:
    """Write data below `root` whose last day is `last`."""
    cards = simulation.cards(rows, seed=3, fraud_rate=0.05)
    cards["TX_DATETIME"] += pd.Timestamp(last) - cards.TX_DATETIME.iloc[-1].floor("D")
    (root / "data" / "daily").mkdir(parents=True)
    cards.to_parquet(root / "data" / "history.parquet", index=False)
    for number in range(days):
        day = last - dt.timedelta(days=number)
        rows_of_day = cards[cards.TX_DATETIME.dt.date == day].drop(columns="TX_FRAUD")
        rows_of_day.to_parquet(root / "data" / "daily" / f"{day}.parquet", index=False)
    labels = cards[["TRANSACTION_ID", "TX_FRAUD"]].assign(known_at=cards.TX_DATETIME + pd.Timedelta(days=2))
    (root / "labels" / "incoming").mkdir(parents=True)
    labels = labels[labels.known_at < pd.Timestamp.now(tz="UTC").tz_localize(None)]
    labels.to_csv(root / "labels" / "incoming" / "first.csv", index=False)
    (root / "quick.yaml").write_text(yaml.safe_dump(QUICK))
    space = {
        "forest": {"max_samples": {"choice": [64, 256]}},
        "autoencoder": {"epochs": 1, "lr": {"choice": [0.001, 0.002]}},
    }
    (root / "space.yaml").write_text(yaml.safe_dump(space))
