"""What the demo takes from somebody's own data."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deploy.local.sample import cut_last_day, request_from
from fraud.data.simulation import cards, transactions
from fraud.errors import DataError
from fraud.schema import Schema, validate


def test_the_last_calendar_day_is_cut_off(tmp_path: Path):
    schema = Schema.load("handbook")
    frame = cards(6000, seed=3, fraud_rate=0.02)
    # An unordered file whose last day is known.
    frame["TX_DATETIME"] = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.arange(6000) * 60, unit="s")
    frame.sample(frac=1.0, random_state=0).to_parquet(tmp_path / "cards.parquet")

    cut = cut_last_day(str(tmp_path / "cards.parquet"), schema, tmp_path / "out")

    last = pd.read_parquet(cut.rows)
    assert cut.date == frame["TX_DATETIME"].iloc[-1].date()
    assert set(last["TX_DATETIME"].dt.date) == {cut.date}
    assert len(last) == (frame["TX_DATETIME"].dt.date == cut.date).sum()


def test_without_a_timestamp_the_last_tenth_is_the_day(tmp_path: Path):
    frame = transactions(2000, seed=3)
    frame.to_csv(tmp_path / "t.csv", index=False)
    cut = cut_last_day(str(tmp_path / "t.csv"), Schema.load("transactions"), tmp_path / "out")
    assert cut.date is None
    pd.testing.assert_frame_equal(
        pd.read_parquet(cut.rows), frame.iloc[1800:].reset_index(drop=True), check_dtype=False
    )


def test_too_few_rows_are_refused(tmp_path: Path):
    transactions(50, seed=3).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="50 usable rows"):
        cut_last_day(str(tmp_path / "t.csv"), Schema.load("transactions"), tmp_path / "out")


def test_a_request_is_json_without_the_label_and_passes_the_schema(tmp_path: Path):
    schema = Schema.load("handbook")
    day = tmp_path / "day.parquet"
    cards(300, seed=5).to_parquet(day)
    request = request_from(day, schema)
    assert set(request) == {column.name for column in schema.inputs}
    assert schema.label is not None
    assert schema.label.name not in request
    assert len(validate(pd.DataFrame([json.loads(json.dumps(request))]), schema).rows) == 1


def test_the_last_day_is_the_zones(tmp_path: Path):
    """From 15:00 UTC on it is the next day in Tokyo."""
    frame = cards(6000, seed=3, fraud_rate=0.02)
    frame["TX_DATETIME"] = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.arange(6000) * 60, unit="s")  # to 03:59
    frame.to_parquet(tmp_path / "cards.parquet")
    cut = cut_last_day(
        str(tmp_path / "cards.parquet"), replace(Schema.load("handbook"), day_zone="Asia/Tokyo"), tmp_path
    )
    assert cut.date == dt.date(2024, 3, 5)
    assert pd.read_parquet(cut.rows)["TX_DATETIME"].min() == pd.Timestamp("2024-03-04T15:00")
