"""Daily snapshots: a day begun from them sees what one replay of everything sees, with labels as of that day."""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.errors import DataError
from fraud.history.records import microseconds_since_epoch
from fraud.history.replay import replay
from fraud.history.snapshots.days import Snapshots, partitions_for
from fraud.history.snapshots.partition import partition_of
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT, SOURCE
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from tests.fraud.histories import SCHEMA, random_rows
from tests.fraud.history.oracle import features_of_days

FIRST = dt.date(2026, 1, 1)
DAY = dt.timedelta(days=1)


def ledger_of(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Labels that come late by different times, some reversed, some reversed twice."""
    frauds = rows[rows["fraud"] == 1]
    lines = []
    for row_id, time in zip(frauds["id"], frauds["time"], strict=True):
        moment = time + pd.Timedelta(days=float(rng.uniform(0.5, 9)))
        lines.append((row_id, True, moment))
        for turn in range(rng.integers(0, 3)):
            moment += pd.Timedelta(days=float(rng.uniform(0.2, 4)))
            lines.append((row_id, turn == 1, moment))
    ledger = pd.DataFrame(lines, columns=[ID, IS_FRAUD, KNOWN_AT]).assign(**{SOURCE: "analyst"})
    return ledger.sort_values(KNOWN_AT, kind="stable").reset_index(drop=True)


def days_of(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    return zone_of(schema).day_of(microseconds_since_epoch(rows["time"]))


def leave(snapshots: Snapshots, day: dt.date, rows: pd.DataFrame, n: int = 1, *, own_labels: bool = False) -> list:
    """Write a day in `n` partitions of its entities, as a job does."""
    parts = []
    for i, plan in enumerate(snapshots.plans):
        partition = partition_of(rows[plan.column], np.arange(len(rows)), n)
        parts.append(
            [snapshots.write_part(i, day, rows[partition == p], (p, n), own_labels=own_labels) for p in range(n)]
        )
    return snapshots.publish(day, parts, made_by="build", own_labels=own_labels)


def leave_all(snapshots: Snapshots, rows: pd.DataFrame, **more: bool) -> None:
    days = days_of(rows, snapshots.schema)
    for day in np.unique(days):
        leave(snapshots, day.astype(dt.date), rows[days == day], **more)


def score_day(snapshots: Snapshots, day: dt.date, rows: pd.DataFrame, ledger: pd.DataFrame | None) -> np.ndarray:
    """The features of a day's rows from the snapshot of the day before."""
    through = day - DAY
    states = tuple(snapshots.events(i, through) for i in range(len(snapshots.plans)))
    frauds = snapshots.known_frauds(through, ledger)
    moments = np.full(len(rows), zone_of(snapshots.schema).start_of(day))
    return replay(rows, snapshots.schema, states, frauds=frauds, moments=moments)[0]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_every_day_sees_what_a_replay_of_everything_sees(tmp_path: Path, zone: str) -> None:
    schema = replace(SCHEMA, day_zone=zone)
    rng = np.random.default_rng(5)
    rows = random_rows(rng, 1500, days=30).sort_values("time", kind="stable")
    ledger = ledger_of(rows, rng)
    expected, days = features_of_days(rows, schema, ledger), days_of(rows, schema)
    snapshots = Snapshots(str(tmp_path), schema)
    for n, day in enumerate(np.unique(days)):
        today, of_day = day.astype(dt.date), days == day
        if n:
            assert snapshots.newest_day() == today - DAY
            np.testing.assert_allclose(
                score_day(snapshots, today, rows[of_day], ledger), expected[of_day], rtol=1e-9, atol=1e-9
            )
        leave(snapshots, today, rows[of_day], n=1 + n % 4)
    assert (expected[:, -5:] != 0).any()


def test_a_backfill_sees_the_labels_of_its_day_and_not_of_today(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    rows = random_rows(rng, 800, days=20).sort_values("time", kind="stable")
    ledger, days = ledger_of(rows, rng), days_of(rows, SCHEMA)
    snapshots = Snapshots(str(tmp_path), SCHEMA)
    leave_all(snapshots, rows)
    day = np.datetime64("2026-01-12")
    later = score_day(snapshots, dt.date(2026, 1, 12), rows[days == day], ledger)
    np.testing.assert_allclose(later, features_of_days(rows, SCHEMA, ledger)[days == day], rtol=1e-9)


def test_partitions_hold_together_what_all_hold(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(7), 900, days=8).sort_values("time", kind="stable")
    snapshots = Snapshots(str(tmp_path), SCHEMA)
    days = days_of(rows, SCHEMA)
    for n, day in enumerate(np.unique(days)):
        leave(snapshots, day.astype(dt.date), rows[days == day], n=(1, 2, 4, 3)[n % 4])
    everything = snapshots.events(0, dt.date(2026, 1, 8))
    for n in (2, 4, 8):
        parts = [snapshots.events(0, dt.date(2026, 1, 8), (p, n)) for p in range(n)]
        assert sorted(key for part in parts for key in part.keys) == sorted(everything.keys)
        assert sum(len(part.events) for part in parts) == len(everything.events)
    assert snapshots.read(snapshots.plans[0], dt.date(2026, 1, 3)).fingerprint == fingerprint_of_day(
        tmp_path, rows, days
    )


def fingerprint_of_day(tmp_path: Path, rows: pd.DataFrame, days: np.ndarray) -> str:
    """The same day in one part and in another order."""
    again = Snapshots(str(tmp_path / "again"), SCHEMA)
    leave(again, dt.date(2026, 1, 3), rows[days == np.datetime64("2026-01-03")].iloc[::-1])
    return again.read(again.plans[0], dt.date(2026, 1, 3)).fingerprint


def test_own_labels_count_until_the_store_has_a_label(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(8), 400, days=6, fraud_rate=0.5).sort_values("time", kind="stable")
    snapshots = Snapshots(str(tmp_path), SCHEMA)
    leave_all(snapshots, rows, own_labels=True)
    through = dt.date(2026, 1, 6)
    assert len(snapshots.known_frauds(through, None)[1]) == (rows["fraud"] == 1).sum()
    fraud = rows[rows["fraud"] == 1].iloc[0]
    ledger = pd.DataFrame({ID: [fraud["id"]], IS_FRAUD: [False], KNOWN_AT: [pd.Timestamp("2026-01-20")], SOURCE: "x"})
    frauds = snapshots.known_frauds(through, ledger)[1]
    assert (frauds.known_until == microseconds_since_epoch(ledger[KNOWN_AT])[0]).sum() == 1
    states = snapshots.states(through, ledger)
    assert len(states[1].frauds) > 0


def test_a_later_training_marks_frauds_of_existing_days(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(14), 300, days=3, fraud_rate=0.3).sort_values("time", kind="stable")
    snapshots, day = Snapshots(str(tmp_path), SCHEMA), dt.date(2026, 1, 2)
    leave_all(snapshots, rows)
    chain = snapshots.chain_of(dt.date(2026, 1, 3))
    frauds = rows[(rows["fraud"] == 1) & (days_of(rows, SCHEMA) == np.datetime64(day))]
    assert len(snapshots.known_frauds(dt.date(2026, 1, 3), None)[1]) == 0
    assert snapshots.mark_frauds(day, frauds) == len(frauds) > 0
    assert snapshots.mark_frauds(day, frauds) == 0
    known = snapshots.known_frauds(dt.date(2026, 1, 3), None)[1]
    assert sorted(known.times) == sorted(microseconds_since_epoch(frauds["time"]))
    assert snapshots.chain_of(dt.date(2026, 1, 3)) == chain, "the transactions are the same"
    leave(snapshots, day, rows[days_of(rows, SCHEMA) == np.datetime64(day)])
    assert len(snapshots.known_frauds(dt.date(2026, 1, 3), None)[1]) == len(frauds), "scored again, it still knows them"


def test_a_changed_day_relinks_the_later_ones_and_names_them(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(9), 600, days=10).sort_values("time", kind="stable")
    snapshots, days = Snapshots(str(tmp_path), SCHEMA), days_of(rows, SCHEMA)
    leave_all(snapshots, rows)
    chain = snapshots.chain_of(dt.date(2026, 1, 10))
    of_day = rows[days == np.datetime64("2026-01-05")]
    assert leave(snapshots, dt.date(2026, 1, 5), of_day) == []
    assert snapshots.chain_of(dt.date(2026, 1, 10)) == chain
    changed = leave(snapshots, dt.date(2026, 1, 5), of_day.iloc[1:])
    assert changed == [dt.date(2026, 1, n) for n in range(6, 11)]
    assert snapshots.newest_day() == dt.date(2026, 1, 10)
    assert snapshots.chain_of(dt.date(2026, 1, 10)) != chain


def test_a_gap_is_refused_and_a_missing_day_breaks_the_history(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(10), 300, days=5).sort_values("time", kind="stable")
    snapshots, days = Snapshots(str(tmp_path), SCHEMA), days_of(rows, SCHEMA)
    leave(snapshots, FIRST, rows[days == np.datetime64(FIRST)])
    with pytest.raises(DataError, match="before a gap to 2026-01-03: build the days between"):
        leave(snapshots, FIRST + 2 * DAY, rows[days == np.datetime64("2026-01-03")])
    leave(snapshots, FIRST + DAY, rows[days == np.datetime64("2026-01-02")])
    leave(snapshots, FIRST + 2 * DAY, rows[days == np.datetime64("2026-01-03")])
    snapshots.drop(FIRST + DAY)
    assert "2026-01-02 is missing" in str(snapshots.gap_before(FIRST + 2 * DAY))
    assert snapshots.newest_day() == FIRST


def test_an_altered_or_foreign_snapshot_is_refused(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(11), 200, days=2).sort_values("time", kind="stable")
    snapshots = Snapshots(str(tmp_path), SCHEMA)
    leave_all(snapshots, rows)
    folder = tmp_path / snapshots.plans[0].fingerprint / "date=2026-01-02"
    events = next(folder.glob("events-*.parquet"))
    content = events.read_bytes()
    events.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(DataError, match="does not match its manifest"):
        snapshots.events(0, dt.date(2026, 1, 2))
    events.write_bytes(content)
    manifest = folder / "_manifest.json"
    plain = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**plain, "rows": 3, "previous": "0" * 64}))
    with pytest.raises(DataError, match="was altered"):
        Snapshots(str(tmp_path), SCHEMA).newest_day()
    manifest.write_text(json.dumps(plain))
    folder.rename(folder.with_name("date=2026-01-03"))
    with pytest.raises(DataError, match="it was moved"):
        Snapshots(str(tmp_path), SCHEMA).read(snapshots.plans[0], dt.date(2026, 1, 3))


def test_find_returns_ids_with_their_entities(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(12), 300, days=4).sort_values("time", kind="stable")
    snapshots = Snapshots(str(tmp_path), SCHEMA)
    leave_all(snapshots, rows)
    some = rows.iloc[[3, 150, 299]]
    transactions = snapshots.find([*some["id"], "nobody"]).set_index("id").loc[some["id"]]
    assert transactions["shop"].tolist() == some["shop"].tolist()
    assert transactions["time"].tolist() == some["time"].tolist()


def test_what_a_killed_run_left_is_tidied(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(13), 100, days=1)
    snapshots = Snapshots(str(tmp_path), SCHEMA)
    snapshots.write_part(0, FIRST, rows.iloc[:10])  # killed before it was published
    assert snapshots.newest_day() is None
    leave(snapshots, FIRST, rows)
    snapshots.tidy(FIRST)
    assert len(list(tmp_path.glob("*/date=2026-01-01/events-*"))) == 3, "another job may be about to publish it"
    for path in tmp_path.rglob("events-*"):
        os.utime(path, (0, 0))
    snapshots.tidy(FIRST)
    assert len(list(tmp_path.glob("*/date=2026-01-01/events-*"))) == 2


def test_partitions_are_powers_of_two() -> None:
    assert [partitions_for([rows], 10) for rows in (0, 1, 10, 11, 20, 21, 100)] == [1, 1, 1, 2, 2, 4, 16]
