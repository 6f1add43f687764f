"""The drift benchmark: every change of its cases is found, and the page says what the last run measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_drift, bench_drift_rows
from benchmarks.pages import replace_section
from fraud.data import tables


@pytest.mark.parametrize("name", ["", "9 % of a column missing"])
def test_a_case_compares_the_sample_with_all_rows(name: str, tmp_path: Path):
    reference = str(tmp_path / "reference.parquet")
    tables.write_parquet(bench_drift.rows_of(4_000, 1), reference)
    result = bench_drift.case(name, 101, 3_000, reference, str(tmp_path))
    assert (
        result["case"] == (name or "no drift") and result["columns"] == result["columns_alike"] == bench_drift.COLUMNS
    )
    assert result["sampled"] == result["all_rows"] == ("drift" if name else "ok")
    assert [path.name for path in tmp_path.iterdir()] == ["reference.parquet"]


def test_every_change_changes_something_and_the_table_counts_the_cases():
    frame = bench_drift.rows_of(2_000, 1)
    for name, change in bench_drift.CHANGES.items():
        changed = change(frame, np.random.default_rng(1))
        assert 1 <= sum(not changed[c].equals(frame[c]) for c in frame) <= 3, name
    case = {"case": "no drift", "sampled": "ok", "all_rows": "ok", "columns": 30, "columns_alike": 30}
    moved = {**case, "case": "moved", "sampled": "warning", "all_rows": "drift", "columns_alike": 29}
    results = {
        "rows": 9_000,
        "columns": 30,
        "sample": 500,
        "seconds": 12.4,
        "cpu_s": 11.0,
        "peak_mib": 512.3,
        "cases": [case, moved],
    }
    table = bench_drift.table(results)
    assert "| 12 s | 60 s |" in table and "| 512 MiB | 2 GB |" in table
    assert "| 1 of 2 cases | 19 of 20 |" in table and "| 59 of 60 |" in table
    assert "| moved | warning | drift | 29 of 30 |" in table


def test_the_page_says_what_the_last_run_measured():
    page = bench_drift.PAGE.read_text(encoding="utf-8")
    assert bench_drift.BEGIN in page
    if not bench_drift.RESULTS.exists():
        pytest.skip(f"{bench_drift.RESULTS.name} is not measured yet")
    results = json.loads(bench_drift.RESULTS.read_text(encoding="utf-8"))
    updated = replace_section(page, bench_drift.table(results), bench_drift.BEGIN)
    assert updated == page, "run python -m benchmarks.bench_drift --table"


def test_rows_of_a_part_of_a_day_look_like_drift_until_they_are_held_against_the_same_hours():
    (result,) = [one for one in bench_drift_rows.measure(4, 1) if one["rows"] == 200]
    assert result["part"] == 1.0 and result["same_hours"] == result["whole"] == 0.0 and result["moved"] > 0.5
    page = bench_drift_rows.PAGE.read_text(encoding="utf-8")
    measured = bench_drift_rows.table(json.loads(bench_drift_rows.RESULTS.read_text(encoding="utf-8")))
    assert replace_section(page, measured, bench_drift_rows.BEGIN) == page, "bench_drift_rows --table was not run"
