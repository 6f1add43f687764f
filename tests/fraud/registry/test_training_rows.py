"""The rows of a training are recognised in any file by 8 bytes each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.simulation import cards, transactions
from fraud.registry import training_rows
from fraud.registry.training_rows import TrainingRows, row_hashes
from fraud.schema import Schema, validate

HANDBOOK = Schema.load("handbook")
GOLDEN = [5226101093919910755, 17041263243518222439, 4094241134562089213]


def read(path: Path, sha256: str = "b") -> TrainingRows:
    known = training_rows._read(path, sha256)
    assert known is not None
    return known


def test_hashes_are_those_of_any_machine_and_version():
    rows = validate(cards(3, seed=1), HANDBOOK).rows
    assert row_hashes(rows, HANDBOOK).tolist() == GOLDEN


def test_a_row_is_the_same_in_csv_and_parquet_and_with_another_label(tmp_path: Path):
    frame = cards(500, seed=1)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.assign(TX_FRAUD=1 - frame["TX_FRAUD"]).to_parquet(tmp_path / "rows.parquet", index=False)
    by_kind = [
        row_hashes(tables.load(str(tmp_path / f"rows.{kind}"), HANDBOOK).rows, HANDBOOK) for kind in ("csv", "parquet")
    ]
    assert np.array_equal(*by_kind) and len(set(by_kind[0])) == 500
    changed = frame.assign(TX_AMOUNT=frame["TX_AMOUNT"] + 0.01)
    assert not np.isin(row_hashes(validate(changed, HANDBOOK).rows, HANDBOOK), by_kind[0]).any()


def test_training_rows_are_found_among_others(tmp_path: Path):
    schema = Schema.load("transactions")
    rows = validate(transactions(3_000, seed=1), schema).rows
    path = tmp_path / training_rows.NAME
    training_rows.write(path, rows.iloc[:2_000], schema, "b")
    known = read(path)
    is_known, estimate = known.among(rows.iloc[::-1], schema)
    assert is_known[::-1].tolist() == [True] * 2_000 + [False] * 1_000 and estimate == 2_000
    assert known.identifies and known.is_complete
    assert path.stat().st_size < 2_000 * 8 + 1_500
    assert training_rows._read(path, "another bundle") is None
    assert training_rows._read(tmp_path / "absent.parquet", "b") is None


def test_of_many_rows_a_sample_is_kept_and_the_overlap_is_estimated(tmp_path: Path):
    schema = Schema.load("transactions")
    rows = validate(transactions(20_000, seed=2), schema).rows
    path = tmp_path / training_rows.NAME
    training_rows.write(path, rows.iloc[:16_000], schema, "b", most=4_000)
    known = read(path)
    is_known, estimate = known.among(rows.iloc[8_000:], schema)
    assert len(known.hashes) == 4_000 and not known.is_complete
    assert is_known.sum() < 2_500 and estimate == pytest.approx(8_000, rel=0.1)
    assert known.among(rows.iloc[16_000:], schema) == (pytest.approx(np.zeros(4_000, bool)), 0.0)


def test_rows_that_repeat_by_nature_identify_nothing(tmp_path: Path):
    schema = Schema.load("transactions")
    rows = validate(transactions(100, seed=1), schema).rows
    path = tmp_path / training_rows.NAME
    training_rows.write(path, pd.concat([rows, rows]), schema, "b")
    assert not read(path).identifies
