"""The schema: what YAML is accepted, what a shipped one says, what the command line answers."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud.errors import DataError, SchemaError
from fraud.schema import LARGEST_NUMBER, Column, Schema, shipped_names
from fraud.schema import __main__ as command

GOOD = "amount,hour,distance,device_score,country_mismatch,is_fraud\n220,3,12,0.92,1,1\n10,4,1,0.2,0,0\n"


def raw(**changes: Any) -> dict[str, Any]:
    """A small valid schema as plain data, with `changes` on top."""
    columns = [
        {"name": "when", "kind": "timestamp"},
        {"name": "card", "kind": "entity"},
        {"name": "amount", "kind": "numeric", "minimum": 0, "transform": "log"},
        {"name": "fraud", "kind": "label"},
    ]
    return {"name": "small", "columns": columns, **changes}


BY_CARD = {"entity": "card", "windows": ["1d"]}


def column(**keys: Any) -> dict[str, Any]:
    return raw(columns=[{"name": "x", "kind": "numeric", **keys}])


@pytest.mark.parametrize("name", ["handbook", "sparkov", "transactions", "ulb"])
def test_shipped_schema_survives_yaml_and_keeps_its_fingerprint(name: str, tmp_path: Path) -> None:
    schema = Schema.load(name)
    path = tmp_path / "copy.yaml"
    path.write_text(schema.to_yaml(), encoding="utf-8")

    assert Schema.load(str(path)) == schema
    assert Schema.load(str(path)).fingerprint == schema.fingerprint
    assert all(column.description for column in schema.columns)
    assert schema.label is not None
    assert schema.name == name and name in shipped_names()


def test_default_schema_is_the_seeds_five_columns() -> None:
    schema = Schema.load("transactions")

    assert [column.name for column in schema.inputs] == [
        "amount",
        "hour",
        "distance",
        "device_score",
        "country_mismatch",
    ]
    assert schema.features == schema.inputs
    assert schema.timestamp is None and schema.id is None and schema.entities == ()
    assert schema.column("hour").bounds == (0.0, 23.0)
    assert schema.column("distance").bounds == (0.0, LARGEST_NUMBER)


def test_handbook_schema_declares_its_histories() -> None:
    schema = Schema.load("handbook")

    assert [entity.name for entity in schema.entities] == ["CUSTOMER_ID", "TERMINAL_ID"]
    declared = {(part.entity, statistic) for part in schema.history for statistic in part.statistics}
    assert {("CUSTOMER_ID", "mean"), ("CUSTOMER_ID", "zscore"), ("TERMINAL_ID", "risk")} <= declared
    assert schema.label_delay_days == 7
    assert "TX_FRAUD_SCENARIO" in schema.ignore
    assert schema.id is not None and schema.id.name == "TRANSACTION_ID"


def test_fingerprint_changes_with_content_not_with_layout() -> None:
    schema = Schema.from_dict(raw())

    assert Schema.from_dict(raw(history=[], ignore=None)).fingerprint == schema.fingerprint
    assert Schema.from_dict(raw(label_delay_days=1)).fingerprint != schema.fingerprint


def test_schema_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schema.from_dict(raw()).name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1, 2], "expected `key: value` lines"),
        ({"columns": []}, "'name' is missing"),
        (raw(columns=[]), "columns is empty"),
        (raw(columns="amount"), "columns must be a list"),
        (raw(colums=[]), "key 'colums' is unknown; did you mean 'columns'?"),
        (raw(name=""), "name is empty"),
        (column(knd="x"), "key 'knd' is unknown; did you mean 'kind'?"),
        (column(kind="numric"), "column 'x': kind 'numric' is unknown; did you mean 'numeric'?"),
        (column(transform="lg"), "transform 'lg' is unknown; did you mean 'log'?"),
        (column(transform="log"), "'log' needs minimum >= 0"),
        (column(transform="log", minimum=-1), "'log' needs minimum >= 0"),
        (column(minimum=2, maximum=1), "minimum 2 is above maximum 1"),
        (column(minimum="0"), "minimum '0' is not a finite number"),
        (column(maximum=float("inf")), "maximum inf is not a finite number"),
        (column(nullable="yes"), "nullable is 'yes'; write true or false"),
        (column(integer="no"), "integer is 'no'"),
        (column(categories=["a"]), "categories is for categorical columns, not numeric"),
        (column(unit="s"), "unit is for timestamp columns"),
        (column(minimum=0, example=-1), "example -1 is outside"),
        (column(integer=True, example=1.5), "example 1.5 is not a whole number"),
        (column(kind="categorical", categories=[False]), "category False must be a text; quote it"),
        (column(kind="categorical", categories=["a", "a"]), "categories repeat"),
        (column(kind="categorical", categories=["a"], example="b"), "example 'b' is not one of"),
        (column(kind="categorical", minimum=0), "minimum is for numeric columns, not categorical"),
        (column(kind="timestamp", unit="h"), "unit 'h' is unknown"),
        (column(kind="timestamp", calendar=["hours"]), "calendar 'hours' is unknown; did you mean 'hour'?"),
        (column(kind="timestamp", oldest="long ago"), "oldest 'long ago' is no day of 1900 to 2199; write it as 1990"),
        (column(kind="timestamp", oldest="1066-10-14"), "oldest '1066-10-14' is no day of 1900 to 2199"),
        (column(kind="timestamp", oldest=1990), "oldest 1990 is no day"),
        (column(kind="timestamp", horizon_days=-1), "horizon_days -1 must be a number of days, 0 to 36500"),
        (column(oldest="1990-01-01"), "oldest is for timestamp columns, not numeric"),
        (column(kind="label"), "nothing to learn from"),
        (raw(columns=[{"name": "x", "kind": "numeric"}] * 2), "column x is listed twice"),
        (raw(columns=[{"name": n, "kind": "label"} for n in "ab"]), "columns a, b are all of kind label"),
        (raw(ignore=["amount"]), "amount is in `columns` and in `ignore`"),
        (raw(label_delay_days=-1), "label_delay_days -1"),
        (
            raw(history=[{**BY_CARD, "entity": "crd", "statistics": ["count"]}]),
            "has no column 'crd'; did you mean 'card'?",
        ),
        (raw(history=[{**BY_CARD, "entity": "amount", "statistics": ["count"]}]), "kind must be entity"),
        (raw(history=[{**BY_CARD, "statistics": ["zscore"]}]), "zscore needs `value`"),
        (
            raw(history=[{"entity": "card", "value": "when", "windows": ["1d"], "statistics": ["zscore"]}]),
            "name a numeric column",
        ),
        (raw(history=[{"entity": "card", "statistics": []}]), "statistics is empty"),
        (raw(history=[{"entity": "card", "statistics": ["rsk"]}]), "did you mean 'risk'?"),
        (raw(history=[{"entity": "card", "statistics": ["count"]}]), "count needs `windows`"),
        (raw(history=[{"entity": "card", "windows": ["1 week"], "statistics": ["count"]}]), "window '1 week' is not"),
        (raw(history=[{"entity": "card", "windows": ["7d", "1d"], "statistics": ["count"]}]), "from the shortest"),
        (raw(history_events=0), "history_events 0 must be a whole number"),
        (
            raw(columns=raw()["columns"][1:], history=[{"entity": "card", "windows": ["1d"], "statistics": ["count"]}]),
            "needs a timestamp",
        ),
        (
            raw(columns=raw()["columns"][:3], history=[{"entity": "card", "windows": ["1d"], "statistics": ["risk"]}]),
            "risk needs a label",
        ),
    ],
)
def test_wrong_schema_names_the_key_and_the_remedy(wrong: Any, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.from_dict(wrong)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limit_beyond_the_general_one_is_honoured() -> None:
    assert Column(name="x", kind="numeric", maximum=1e20).bounds == (-LARGEST_NUMBER, 1e20)
    assert Column(name="x", kind="numeric", minimum=1e16).bounds == (1e16, 1e16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\ncolumns: []\n", "'name' appears twice"),
        ("name: [\n", "cannot be read as YAML"),
        ("", "expected `key: value` lines"),
        ("!!python/object/apply:os.system ['true']\n", "cannot be read as YAML"),
    ],
)
def test_wrong_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(SchemaError, match=r"mine\.yaml") as caught:
        Schema.load(str(path))
    assert message in str(caught.value)


def test_missing_file_and_misspelt_name_have_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"does not exist.*infer"):
        Schema.load(str(tmp_path / "none.yaml"))
    with pytest.raises(SchemaError, match="did you mean 'handbook'"):
        Schema.load("hanbook")
    with pytest.raises(SchemaError, match="did you mean 'amount'"):
        Schema.load("transactions").column("amout")


def test_unquoted_date_as_example_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: a\ncolumns:\n- {name: t, kind: timestamp, calendar: [hour], example: 2018-08-08 10:15:00}\n")

    assert Schema.load(str(path)).column("t").example == "2018-08-08T10:15:00"


def test_unquoted_oldest_day_is_accepted_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "dated.yaml"
    path.write_text("name: d\ncolumns:\n- {name: t, kind: timestamp, calendar: [hour], oldest: 2015-01-01}\n")

    schema = Schema.load(str(path))

    assert schema.column("t").oldest == "2015-01-01"
    assert Schema.from_dict(schema.to_dict()) == schema


def test_show_prints_yaml_that_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["show", "handbook"]) == 0
    assert Schema.from_dict(yaml.safe_load(capsys.readouterr().out)) == Schema.load("handbook")


def test_infer_then_check_accepts_the_file_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "my data.csv", tmp_path / "mine.yaml"
    data.write_text(GOOD)

    assert command.main(["infer", str(data), "--out", str(out)]) == 0
    assert Schema.load(str(out)).name == "my_data"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next: python -m fraud.schema check '{data}' --schema {out}"
    assert command.main(shlex.split(last)[4:]) == 0
    printed = capsys.readouterr().out
    assert "2 rows fit schema 'my_data', 0 do not" in printed
    assert printed.endswith(f"next: python -m ray_jobs.train --data '{data}' --schema {out}\n")


def test_a_schema_that_was_corrected_is_not_replaced(tmp_path: Path) -> None:
    data, out = tmp_path / "x.csv", tmp_path / "mine.yaml"
    data.write_text(GOOD)
    assert command.main(["infer", str(data), "--out", str(out)]) == 0
    assert command.main(["infer", str(data), "--out", str(out)]) == 0, "the same guess again"
    guessed = out.read_text()
    out.write_text(guessed.replace("name: x", "name: corrected"))
    with pytest.raises(DataError, match=r"mine\.yaml exists.*--force"):
        command.main(["infer", str(data), "--out", str(out)])
    assert "name: corrected" in out.read_text()
    assert command.main(["infer", str(data), "--out", str(out), "--force"]) == 0
    assert out.read_text() == guessed


def test_the_quarantine_replaces_only_a_quarantine(tmp_path: Path) -> None:
    data, mine = tmp_path / "x.csv", tmp_path / "mine.csv"
    data.write_text(GOOD + "abc,3,1,0.1,0,0\n")
    mine.write_text(GOOD)
    check = ["check", str(data), "--schema", "transactions", "--quarantine", str(mine)]
    with pytest.raises(DataError, match=r"--quarantine .*mine\.csv exists.*--force"):
        command.main(check)
    assert mine.read_text() == GOOD
    assert command.main([*check, "--force"]) == 0 and command.main(check) == 0
    assert "abc" in mine.read_text()


def test_infer_writes_the_day_zone_and_names_rows_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "x.csv", tmp_path / "x.yaml"
    times = ["1767231458000", "1767231459000", "1767231460"]
    data.write_text("unix_time,amount\n" + "".join(f"{time},{n}.5\n" for n, time in enumerate(times)))
    monkeypatch.setenv("FRAUD_DAY_ZONE", "Europe/Berlin")

    assert command.main(["infer", str(data), "--out", str(out)]) == 0

    assert Schema.load(str(out)).day_zone == "Europe/Berlin"
    assert "1 of 3 rows do not fit it: `check` lists the reasons" in capsys.readouterr().out


def test_check_counts_reasons_and_writes_the_quarantine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, rejected = tmp_path / "x.csv", tmp_path / "bad.csv"
    data.write_text(GOOD + "abc,3,1,0.1,0,0\nabd,3,1,0.1,0,0\n")

    assert command.main(["check", str(data), "--schema", "transactions", "--quarantine", str(rejected)]) == 0
    out = capsys.readouterr().out
    assert "2 rows fit" in out and "2  amount is not a number (first: row 2, value 'abc')" in out
    assert rejected.read_text().splitlines()[1].startswith("2,amount,abc,is not a number,abc,3")


def test_infer_refuses_no_rows(tmp_path: Path) -> None:
    data = tmp_path / "x.csv"
    data.write_text(GOOD)

    with pytest.raises(SchemaError, match="--rows 0"):
        command.main(["infer", str(data), "--rows", "0"])
    with pytest.raises(DataError, match="does not exist"):
        command.main(["infer", str(tmp_path / "y.csv")])


def test_command_answers_a_user_error_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fraud.schema", "check", "absent.csv", "--schema", "ulb"],
        capture_output=True,
        text=True,
        env={**os.environ, "FRAUD_ROOT": str(tmp_path)},
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "absent.csv") in done.stderr
