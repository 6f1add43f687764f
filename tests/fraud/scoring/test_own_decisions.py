"""The model's own decisions are not verdicts, whatever the file is called; an analyst's file passes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.errors import DataError
from fraud.schema import Schema
from fraud.scoring.own_decisions import refuse
from fraud.scoring.scored import MARK

HANDBOOK = Schema.load("handbook")
IDS = [f"t{n}" for n in range(40)]
SCORES = [n / 40 for n in range(40)]
FLAGGED = [int(score >= 0.9) for score in SCORES]


def write(folder: Path, **columns: object) -> str:
    path = folder / "labels.csv"
    pd.DataFrame({"id": IDS, **columns}).to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize(
    ("columns", "evidence"),
    [
        ({"is_fraud": FLAGGED, "forest_score": SCORES, "model_version": "3"}, "columns forest_score, model_version"),
        ({"is_fraud": FLAGGED, "threshold": 0.9}, "column threshold beside is_fraud"),
        ({"is_fraud": FLAGGED, "score": SCORES}, "is_fraud is 1 exactly where score is 0.9 or more"),
        ({"TX_FRAUD": FLAGGED, "risk_score": SCORES}, "TX_FRAUD is 1 exactly where risk_score is 0.9 or more"),
        ({"is_fraud": 1, "score": SCORES}, "is_fraud is 1 in every row, from a score of 0 on"),
        ({"is_fraud": 0, "score": SCORES}, "is_fraud is 0 in every row, up to a score of 0.975"),
    ],
)
def test_decisions_are_refused_with_what_gave_them_away(tmp_path: Path, columns: dict[str, object], evidence: str):
    path = write(tmp_path, **columns)
    with pytest.raises(DataError, match="model's own decisions, not verdicts") as refused:
        refuse(path, HANDBOOK)
    assert evidence in str(refused.value) and "labels draw" in str(refused.value), "the reason and the remedy"


def test_scored_parquet_is_recognised_by_its_mark_without_its_columns(tmp_path: Path):
    shape = pa.schema([("TRANSACTION_ID", pa.string()), ("is_fraud", pa.bool_())], metadata=MARK)
    path = tmp_path / "few_columns.parquet"
    pq.write_table(pa.table([pa.array(IDS), pa.array([bool(one) for one in FLAGGED])], schema=shape), path)
    with pytest.raises(DataError, match="Parquet metadata say that ray_jobs"):
        refuse(str(path), HANDBOOK)


@pytest.mark.parametrize(
    "columns",
    [
        {"is_fraud": FLAGGED},
        {"is_fraud": [1, *FLAGGED[1:]], "score": SCORES},  # a person called a low score fraud
        {"TX_FRAUD": FLAGGED, "model_version": "3"},  # the data's own label beside our columns
        {"is_fraud": 0, "credit_score": SCORES},  # a stranger's score, and no fraud
        {"is_fraud": FLAGGED, "TX_AMOUNT": SCORES},  # a column of the schema is an input
    ],
)
def test_a_persons_verdicts_pass(tmp_path: Path, columns: dict[str, object]):
    refuse(write(tmp_path, **columns), HANDBOOK)


def test_a_schemas_own_score_column_is_an_input(tmp_path: Path):
    refuse(write(tmp_path, is_fraud=FLAGGED, device_score=SCORES), Schema.load("transactions"))
