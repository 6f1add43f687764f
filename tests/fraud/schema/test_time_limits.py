"""One time far from the rest touches nobody's history: it is refused with a reason."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import logged
from fraud.history.replay import replay
from fraud.schema import Schema
from fraud.schema.columns import Column
from fraud.schema.compatibility import incompatibilities
from fraud.schema.values import TimeLimits

CARDS, A_CARD = 120, 20


@pytest.fixture
def rows() -> pd.DataFrame:
    """2,400 rows of 120 cards, in order of time."""
    rng = np.random.default_rng(3)
    n = CARDS * A_CARD
    times = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 40 * 86_400, n)), unit="s")
    return pd.DataFrame(
        {
            "TRANSACTION_ID": np.arange(n).astype(str), "TX_DATETIME": times.astype(str),
            "CUSTOMER_ID": rng.permutation(n) % CARDS, "TERMINAL_ID": rng.integers(0, 40, n),
            "TX_AMOUNT": rng.gamma(2.0, 20.0, n).round(2), "TX_FRAUD": (rng.random(n) < 0.02).astype(int),
        }
    )  # fmt: skip


@pytest.mark.parametrize("time", ["2099-01-01 00:00:00", "1970-01-21 10:53:51"])
def test_one_row_far_away_changes_nobody_elses_history(
    rows: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture, time: str
):
    schema, logger = Schema.load("handbook"), logging.getLogger("training")
    odd = rows.iloc[[700]].assign(TRANSACTION_ID="odd", TX_DATETIME=time)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    pd.concat([rows[:700], odd, rows[700:]]).to_csv(tmp_path / "odd.csv", index=False)
    alone = logged.load(str(tmp_path / "rows.csv"), schema, logger)
    with caplog.at_level(logging.WARNING):
        beside = logged.load(str(tmp_path / "odd.csv"), schema, logger)

    (features, states), (same, same_states) = (replay(checked.rows, schema) for checked in (alone, beside))

    assert np.array_equal(features, same, equal_nan=True)
    assert [len(state.events) for state in states] == [len(state.events) for state in same_states]
    assert f"1 of {len(rows) + 1:,} rows refused" in caplog.text and "TX_DATETIME: is " in caplog.text


def test_a_model_with_narrower_limits_is_known_to_refuse_requests():
    old = Schema(name="s", columns=(Column(name="t", kind="timestamp", calendar=("hour",), horizon_days=2),))
    (column,) = old.columns
    narrower = replace(old, columns=(replace(column, oldest="2020-01-01", horizon_days=1),))

    assert incompatibilities(old, old) == incompatibilities(old, narrower) == []
    assert incompatibilities(narrower, old) == [
        "t must not be before 2020-01-01, was 1990-01-01", "t may lie 1 day ahead at most, was 2"
    ]  # fmt: skip


def test_a_long_lived_reader_follows_the_clock_back_and_forth():
    clock = [dt.datetime(2026, 6, 15, 12, tzinfo=dt.UTC).timestamp()]
    limits = TimeLimits(Column(name="t", kind="timestamp"), now=lambda: clock[0])
    moment = dt.datetime(2026, 6, 16, 13)

    refused = limits.refusal(moment)
    clock[0] += 3_600
    accepted = limits.refusal(moment)
    clock[0] -= 1_800
    refused_again = limits.refusal(moment)

    assert refused is not None and accepted is None and refused_again is not None
    assert "is later than 2026-06-16T12:30Z" in refused_again.problem
