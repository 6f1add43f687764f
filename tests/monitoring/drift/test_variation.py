"""What the reference's own days do is no drift: weekends, weekdays, and nothing else is excused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.days import Zone
from fraud.schema import Schema
from monitoring.drift.comparison import compare
from monitoring.drift.variation import own_variation
from monitoring.drift.verdict import DriftLimits

KINDS = {"amount": "numeric", "weekday": "categorical", "is_weekend": "boolean", "other": "numeric"}
SCHEMA = Schema.from_dict(
    {
        "name": "week",
        "columns": [{"name": "time", "kind": "timestamp"}]
        + [{"name": name, "kind": kind, "nullable": True} for name, kind in KINDS.items()],
    }
)


def week(first: int, days: int, *, a_day: int = 600, shift: float = 0.0, seed: int = 1) -> pd.DataFrame:
    """Days from number `first`, a Monday being 0: on weekends amounts are higher; `shift` moves the other column."""
    rng = np.random.default_rng([seed, first])
    number = np.repeat(np.arange(first, first + days), a_day)
    weekend = number % 7 >= 5
    times = np.datetime64("2026-01-05", "us") + number * np.timedelta64(1, "D")
    return pd.DataFrame(
        {
            "time": times + rng.integers(0, 86_400, len(number)) * np.timedelta64(1_000_000, "us"),
            "amount": rng.normal(0.7 * weekend, 1),
            "weekday": (number % 7).astype(str),
            "is_weekend": weekend.astype(float),
            "other": np.where(rng.random(len(number)) < 0.1, np.nan, rng.normal(shift, 1, len(number))),
        }
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("variation") / "reference.parquet")
    tables.write_parquet(week(0, 14), path)
    return path


def test_weekdays_and_weekends_never_alarm_and_drift_still_does(reference: str, tmp_path: Path):
    for day in range(14, 28):
        tables.write_parquet(week(day, 1), str(tmp_path / "day.parquet"))
        document = compare(reference, str(tmp_path / "day.parquet"), SCHEMA).document
        assert document["verdict"] == "ok", (day, document["reason"])
        assert document["own_variation"] == {"block_days": 1, "blocks": 14}
    tables.write_parquet(week(28, 1, shift=0.8), str(tmp_path / "day.parquet"))
    document = compare(reference, str(tmp_path / "day.parquet"), SCHEMA).document
    assert document["verdict"] == "drift" and [c["column"] for c in document["columns"] if c["drifted"]] == ["other"]
    raised = {c["column"]: c["thresholds"]["psi"]["warning"] for c in document["columns"]}
    assert raised["other"] == 0.1 and raised["amount"] > 0.15


def test_a_whole_week_is_compared_with_whole_weeks(reference: str, tmp_path: Path):
    tables.write_parquet(week(14, 7), str(tmp_path / "week.parquet"))
    document = compare(reference, str(tmp_path / "week.parquet"), SCHEMA).document
    assert document["verdict"] == "ok" and document["own_variation"] is None, "two weeks are too few to vary"


def test_chance_is_taken_off_and_odd_days_excuse_nothing():
    frame = week(0, 28, a_day=200)
    variation = own_variation(frame, "time", KINDS, 1.0, DriftLimits())
    assert variation is not None and variation.blocks == 28
    assert variation.columns["other"].psi < 0.03 and variation.columns["other"].ks < 0.05
    assert variation.columns["is_weekend"].multiplied and not variation.columns["other"].multiplied
    odd = frame.assign(other=frame["other"] + 2.0 * (frame["time"] < np.datetime64("2026-01-07")))
    assert own_variation(odd, "time", KINDS, 1.0, DriftLimits()).columns["other"].psi < 0.1
    assert own_variation(week(0, 4), "time", KINDS, 1.0, DriftLimits()) is None, "too few days"


def test_blocks_are_days_of_the_zone():
    frame = week(0, 28, a_day=200)
    local = frame.assign(time=frame["time"] - pd.Timedelta(hours=9))  # days of Tokyo
    variation = own_variation(local, "time", KINDS, 1.0, DriftLimits(), Zone("Asia/Tokyo"))
    assert variation == own_variation(frame, "time", KINDS, 1.0, DriftLimits())
    assert variation != own_variation(local, "time", KINDS, 1.0, DriftLimits())
