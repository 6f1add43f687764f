"""`python -m ray_jobs.labels` as an analyst's export or a chargeback file meets it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.errors import ConfigError, DataError
from fraud.schema import Schema
from fraud.scored import arrow_schema
from ray_jobs.labels import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    (tmp_path / "verdicts.csv").write_text("TRANSACTION_ID,TX_FRAUD\n1,1\n2,0\n3,x\n")
    return tmp_path


def test_a_file_is_taken_in_once_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]):
    command = ["ingest", "verdicts.csv", "--schema", "handbook", "--known-at", "2026-01-31"]
    assert main(command) == 0
    assert "2 labels from analyst, 1 of them frauds: 2 new ids, 0 changed" in (told := capsys.readouterr().out)
    assert "1 rows refused" in told
    (refused,) = (folder / "var/labels/quarantine").glob("*.parquet")
    assert pd.read_parquet(refused)["value"].tolist() == ["x"]
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().out
    assert len(list((folder / "var/labels").glob("*.parquet"))) == 1
    assert main([*command, "--force"]) == 0 and "0 new ids, 0 changed their label, 2 kept it" in capsys.readouterr().out
    assert main([*command, "--source", "chargeback"]) == 0 and "2 kept it" in capsys.readouterr().out
    assert main(["show"]) == 0
    assert "2026-01-31  chargeback              2 labels        1 frauds" in capsys.readouterr().out


def test_show_says_where_there_is_nothing(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show"]) == 0 and "no labels in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ingest"], "needs a file"),
        (["ingest", "verdicts.csv", "--schema", "handbook", "--source", "Charge back"], "--source"),
        (["ingest", "verdicts.csv", "--schema", "handbook", "--known-at", "soon"], "is no time"),
        (["ingest", "verdicts.csv", "--schema", "handbook", "--known-at", "2999-01-01"], "in the future"),
        (["digest", "verdicts.csv"], "invalid choice"),
    ],
)
def test_wrong_commands_say_what_to_do(folder: Path, arguments: list[str], told: str):
    with pytest.raises(ConfigError, match=told):
        main(arguments)


def test_a_file_of_nothing_but_mistakes_is_refused_with_the_first_one(folder: Path):
    (folder / "bad.csv").write_text("TRANSACTION_ID,TX_FRAUD\n1,2\n,1\n")
    with pytest.raises(DataError, match=r"none of 2 rows is a label; row 0, column 'is_fraud': '2'"):
        main(["ingest", "bad.csv", "--schema", "handbook"])


def test_a_day_is_drawn_filled_in_and_taken_in(folder: Path, capsys: pytest.CaptureFixture[str]):
    shape = arrow_schema(Schema.load("handbook"), with_label=False)
    values = {
        "TRANSACTION_ID": [str(n) for n in range(50)], "TX_DATETIME": [dt.datetime(2026, 1, 31, 9)] * 50,
        "score": [n / 50 for n in range(50)], "is_fraud": [n > 40 for n in range(50)],
    }  # fmt: skip
    columns = [pa.array(values.get(field.name, [None] * 50), field.type) for field in shape]
    pq.write_table(pa.table(columns, schema=shape), folder / "day.parquet")
    command = ["draw", "--schema", "handbook", "--decisions", "day.parquet", "--day", "2026-01-31", "--rows", "20"]
    assert main(command) == 0 and "20 of 50 rows of 2026-01-31" in capsys.readouterr().out
    sheet = pd.read_csv(folder / "review.csv", dtype=str)
    assert list(sheet.columns) == ["id", "day", "is_fraud"] and sheet["is_fraud"].isna().all(), (
        "no score to sway who looks"
    )
    sheet.assign(is_fraud="0").to_csv(folder / "review.csv", index=False)
    assert main(["ingest", "review.csv", "--schema", "handbook", "--source", "review"]) == 0
    assert "20 labels from review, 0 of them frauds" in capsys.readouterr().out
    for wrong in (["--rows", "0"], ["--out", "x.parquet"], ["--day", "soon"]):
        with pytest.raises(ConfigError):
            main([*command, *wrong])
    with pytest.raises(DataError, match="nothing to draw from"):
        main([*command, "--day", "2026-02-01"])
