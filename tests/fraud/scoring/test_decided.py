"""Decisions are read back alike from the decision log and from scored files."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.errors import ConfigError, DataError
from fraud.schema import Schema
from fraud.scoring import decided
from fraud.scoring.scored import arrow_schema
from serve_app.decisions.log import DecisionLog
from tests.serve_app.decision_cases import NOON_US, SCHEMA, a_decision, settings_of

A_DAY_US = 86_400_000_000


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Two files as ray_jobs.score writes them, with what lies beside them."""
    shape = arrow_schema(SCHEMA, with_label=False)
    folder = tmp_path / "scored"
    folder.mkdir()
    for day in (1, 2):
        values = {
            "TRANSACTION_ID": [f"{day}a", f"{day}b"],
            "TX_DATETIME": [dt.datetime(2026, 1, day, hour) for hour in (0, 23)],
            "score": [0.9, 0.1], "is_fraud": [True, False],
        }  # fmt: skip
        columns = [pa.array(values.get(field.name, [None] * 2), field.type) for field in shape]
        pq.write_table(pa.table(columns, schema=shape), folder / f"{day}.parquet")
        (folder / f"{day}.parquet.manifest.json").write_text("{}")
    return folder


def test_scored_files_are_read_by_flag_and_by_day(scored: Path):
    everything = decided.read(str(scored), SCHEMA)
    assert list(everything.columns) == list(decided.COLUMNS) and sorted(everything["id"]) == ["1a", "1b", "2a", "2b"]
    flagged = decided.read(str(scored), SCHEMA, only_flagged=True)
    assert sorted(flagged["id"]) == ["1a", "2a"] and flagged["is_flagged"].all()
    second = decided.read(str(scored), SCHEMA, day=dt.date(2026, 1, 2))
    assert sorted(second["id"]) == ["2a", "2b"] and set(second["day"]) == {dt.date(2026, 1, 2)}
    assert not len(decided.read(str(scored), SCHEMA, day=dt.date(2026, 1, 3)))


def test_a_decision_log_is_read_as_it_lies(tmp_path: Path):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    for number in range(5):
        log.put(a_decision(number, is_fraud=number != 3))
    log.put(a_decision(1, score=0.5))
    log.put(a_decision(4, score=None, is_fraud=None, fallback="review"))
    log.put(a_decision(6, time_us=NOON_US + A_DAY_US))
    log.close()
    flagged = decided.read(str(settings.url), SCHEMA, only_flagged=True)
    assert sorted(flagged["id"]) == ["0", "1", "2", "4", "6"] and flagged.set_index("id")["score"]["1"] == 0.5
    first = decided.read(str(settings.url), SCHEMA, day=dt.date(2025, 6, 15))
    assert sorted(first["id"]) == ["0", "1", "2", "3", "4"]
    assert decided.read(str(settings.url), SCHEMA, day=dt.date(2025, 6, 16))["id"].tolist() == ["6"]
    assert not len(decided.read(str(settings.url), SCHEMA, day=dt.date(2025, 6, 25)))
    east = replace(SCHEMA, day_zone="Asia/Tokyo")  # a day there is in the folders of two UTC days
    (row,) = decided.read(str(settings.url), east, day=dt.date(2025, 6, 17))["id"]
    assert row == "6"


def test_another_models_decisions_in_the_same_log_do_not_hinder(tmp_path: Path):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    log.put(a_decision(1))
    log.close()
    (ours,) = tmp_path.glob("**/date=*/*.parquet")
    table = pq.read_table(ours)
    inputs = pa.array([{"amount": 1.0}], pa.struct([("amount", pa.float64())]))
    other = table.set_column(table.schema.get_field_index("inputs"), "inputs", inputs)
    pq.write_table(other, ours.with_name(f"0{ours.name}"))  # the first that is listed
    later = ours.parent.with_name("date=2027-01-01")
    later.mkdir()
    pq.write_table(other, later / "part.parquet")
    (row,) = table["inputs"].to_pylist()
    assert decided.read(settings.url, SCHEMA)["id"].tolist() == [row["TRANSACTION_ID"]]
    assert not len(decided.read(settings.url, SCHEMA, day=dt.date(2027, 1, 1)))
    assert decided.known_ids(settings.url, SCHEMA, [row["TRANSACTION_ID"], "another"]) == {row["TRANSACTION_ID"]}


def test_what_is_no_decision_and_a_schema_without_ids_are_refused(tmp_path: Path, scored: Path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    for path in ("x.parquet", "absent"):
        with pytest.raises(DataError, match="holds no decisions"):
            decided.read(str(tmp_path / path), SCHEMA)
    with pytest.raises(ConfigError, match="no id column"):
        decided.read(str(scored), Schema.load("transactions"))


def test_a_day_begins_in_the_schemas_zone(tmp_path: Path, scored: Path):
    berlin = replace(SCHEMA, day_zone="Europe/Berlin")
    first = decided.read(str(scored), berlin, day=dt.date(2026, 1, 2))
    assert sorted(first["id"]) == ["1b", "2a"] and set(first["day"]) == {dt.date(2026, 1, 2)}
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    for number, hours in enumerate((0, 6, 7)):  # 15:06, 21:06 and 22:06 UTC
        log.put(a_decision(number, time_us=NOON_US + hours * A_DAY_US // 24))
    log.close()
    days = decided.read(str(settings.url), berlin).set_index("id")["day"].to_dict()
    assert days == {"0": dt.date(2025, 6, 15), "1": dt.date(2025, 6, 15), "2": dt.date(2025, 6, 16)}
    assert decided.read(str(settings.url), berlin, day=dt.date(2025, 6, 16))["id"].tolist() == ["2"]
