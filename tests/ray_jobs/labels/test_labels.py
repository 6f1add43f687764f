"""`python -m ray_jobs.labels` as an analyst's export or a chargeback file meets it."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.data import tables
from fraud.errors import ConfigError, DataError
from fraud.schema import Schema
from fraud.scoring.scored import arrow_schema
from ray_jobs.labels.command import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "var"))
    (tmp_path / "verdicts.csv").write_text("TRANSACTION_ID,TX_FRAUD\n1,1\n2,0\n3,x\n")
    return tmp_path


def write_day(folder: Path) -> None:
    """A scored day of 50 rows, day.parquet."""
    shape = arrow_schema(Schema.load("handbook"), with_label=False)
    values = {
        "TRANSACTION_ID": [str(n) for n in range(50)], "TX_DATETIME": [dt.datetime(2026, 1, 31, 9)] * 50,
        "score": [n / 50 for n in range(50)], "is_fraud": [n > 40 for n in range(50)],
    }  # fmt: skip
    columns = [pa.array(values.get(field.name, [None] * 50), field.type) for field in shape]
    pq.write_table(pa.table(columns, schema=shape), folder / "day.parquet")


def test_a_file_is_taken_in_once_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]):
    command = ["ingest", "verdicts.csv", "--schema", "handbook", "--known-at", "2026-01-31"]
    assert main(command) == 0
    assert "2 labels from analyst, 1 of them frauds: 2 new ids, 0 changed" in (printed := capsys.readouterr().out)
    assert "1 row refused" in printed
    (refused,) = (folder / "var/labels/quarantine").glob("*.parquet")
    assert pd.read_parquet(refused)["value"].tolist() == ["x"]
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().out
    assert len(list((folder / "var/labels").glob("*.parquet"))) == 1
    assert main([*command, "--force"]) == 0 and "0 new ids, 0 changed their label, 2 kept it" in capsys.readouterr().out
    assert main([*command, "--source", "chargeback"]) == 0 and "2 kept it" in capsys.readouterr().out
    assert main(["show"]) == 0
    assert "2026-01-31  chargeback              2 labels         1 fraud" in capsys.readouterr().out


def test_show_says_where_there_is_nothing(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show"]) == 0 and "no labels in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest"], "needs a file"),
        (["ingest", "verdicts.csv", "--schema", "handbook", "--source", "Charge back"], "--source"),
        (["ingest", "verdicts.csv", "--schema", "handbook", "--known-at", "soon"], "is not a time"),
        (["ingest", "verdicts.csv", "--schema", "handbook", "--known-at", "2999-01-01"], "in the future"),
        (["digest", "verdicts.csv"], "invalid choice"),
    ],
)
def test_wrong_commands_say_what_to_do(folder: Path, arguments: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        main(arguments)


def test_a_file_of_nothing_but_mistakes_is_refused_with_the_first_one(folder: Path):
    (folder / "bad.csv").write_text("TRANSACTION_ID,TX_FRAUD\n1,2\n,1\n")
    with pytest.raises(DataError, match=r"none of 2 rows is a valid label; row 0, column 'is_fraud': '2'"):
        main(["ingest", "bad.csv", "--schema", "handbook"])


def test_a_day_is_drawn_filled_in_and_taken_in(folder: Path, capsys: pytest.CaptureFixture[str]):
    write_day(folder)
    command = ["draw", "--schema", "handbook", "--decisions", "day.parquet", "--day", "2026-01-31", "--rows", "20"]
    assert main(command) == 0 and "20 of 50 rows of 2026-01-31" in capsys.readouterr().out
    sheet = pd.read_csv(folder / "review.csv", dtype=str)
    assert list(sheet.columns) == ["id", "day", "is_fraud"] and sheet["is_fraud"].isna().all(), (
        "no score to sway who looks"
    )
    sheet.assign(is_fraud="0").to_csv(folder / "review.csv", index=False)
    assert main(["ingest", "review.csv", "--schema", "handbook", "--source", "review"]) == 0
    assert "20 labels from review, 0 of them frauds" in capsys.readouterr().out
    more = ["--flagged", "2", "--out", "more.csv"]
    (folder / "var/labels/drawn/2026-01-31.parquet").unlink()
    assert main([*command, *more]) == 0
    drawn = pd.read_parquet(folder / "var/labels/drawn/2026-01-31.parquet")
    assert len(drawn) == 22 and drawn["id"].is_unique and set(sheet["id"]) < set(drawn["id"])
    assert drawn[~drawn["id"].isin(sheet["id"])]["is_flagged"].all()
    for wrong in (["--rows", "0"], ["--out", "x.parquet"], ["--day", "soon"], ["--flagged", "-1"]):
        with pytest.raises(ConfigError):
            main([*command, *wrong])
    with pytest.raises(DataError, match="nothing to draw from"):
        main([*command, "--day", "2026-02-01"])


def test_a_sheet_with_verdicts_is_never_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]):
    write_day(folder)
    command = ["draw", "--schema", "handbook", "--decisions", "day.parquet", "--day", "2026-01-31", "--rows", "5"]
    assert main(command) == 0 and main(command) == 0, "an empty sheet of the same rows may come again"
    sheet = folder / "review.csv"
    filled = pd.read_csv(sheet, dtype=str).assign(is_fraud=["1", "0", None, None, None])
    filled.to_csv(sheet, index=False)
    before = sheet.read_text()
    capsys.readouterr()
    assert main(command) == 0 and sheet.read_text() == before
    assert "2 of 5 rows of review.csv have a verdict" in capsys.readouterr().out
    (folder / "notes.csv").write_text("what,ever\n1,2\n")
    with pytest.raises(ConfigError, match=r"--out notes\.csv exists and is not the sheet of these rows.*--force"):
        main([*command, "--out", "notes.csv"])
    assert main([*command, "--force"]) == 0 and pd.read_csv(sheet)["is_fraud"].isna().all()


def test_a_scored_day_is_no_label_file(folder: Path):
    write_day(folder)
    with pytest.raises(DataError, match="model's own decisions, not verdicts"):
        main(["ingest", "day.parquet", "--schema", "handbook"])
    assert not list((folder / "var").glob("labels/*.parquet"))


def test_ids_that_are_no_transaction_are_reported(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    write_day(folder)
    (folder / "some.csv").write_text("id,is_fraud\n7,1\nt_123,0\n49,1\n50,0\n")
    assert main(["ingest", "some.csv", "--schema", "handbook"]) == 0
    assert "no id was compared with a transaction" in capsys.readouterr().out
    command = ["ingest", "some.csv", "--schema", "handbook", "--force"]
    assert main([*command, "--decisions", "day.parquet"]) == 0
    assert "2 of 4 ids are in no decision and no known transaction" in caplog.text
    assert "t_123 (row 1), 50 (row 3)" in caplog.text and "day.parquet" in caplog.text
    (folder / "more.csv").write_text("TRANSACTION_ID\n50\nt_123\n")
    assert main([*command, "--decisions", "day.parquet", "--data", "more.csv"]) == 0
    assert "every id is a known transaction" in capsys.readouterr().out


def test_labels_are_retracted_by_file_and_by_id(folder: Path, capsys: pytest.CaptureFixture[str]):
    main(["ingest", "verdicts.csv", "--schema", "handbook", "--known-at", "2026-01-31"])
    reason = ["--reason", "other system", "--by", "ann"]
    assert main(["retract", "--id", "1", "--id", "9", *reason]) == 0
    assert "1 of 2 ids have no label any more; 1 had none" in capsys.readouterr().out
    assert main(["retract", "verdicts.csv", "--schema", "handbook", *reason]) == 0
    assert "1 of 3 ids have no label any more; 2 had none" in capsys.readouterr().out
    assert main(["show"]) == 0
    shown = capsys.readouterr().out
    assert "0 ids, 0 frauds" in shown and "2 labels by ann: other system" in shown
    for wrong in (["--id", "1"], ["--reason", "x"], ["verdicts.csv", "--id", "1", "--reason", "x"]):
        with pytest.raises(ConfigError):
            main(["retract", *wrong])


@pytest.mark.parametrize("action", ["ingest", "retract", "draw", "join", "show"])
def test_each_action_has_its_own_help(action: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([action, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and f"examples:\n  python -m ray_jobs.labels {action}" in text
    assert ("--known-at" in text) == (action in ("ingest", "retract")), "no flags of other actions"


def test_no_file_is_nothing_new_where_that_is_allowed(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "inbox").mkdir()
    for path in ("inbox/*.csv", "inbox", "nobody.csv"):
        assert main(["ingest", path, "--schema", "handbook", "--allow-empty"]) == 0
        assert "nothing new" in capsys.readouterr().out
        with pytest.raises(DataError):
            main(["ingest", path, "--schema", "handbook"])


def test_files_of_a_pattern_are_each_taken_in_once(folder: Path, capsys: pytest.CaptureFixture[str]):
    for n in (1, 2):
        (folder / f"day-{n}.csv").write_text(f"id,is_fraud\n{n},1\n")
    command = ["ingest", "day-*.csv", "--schema", "handbook"]
    assert main(command) == 0
    (folder / "day-3.csv").write_text("id,is_fraud\n3,1\n")
    (folder / "day-0.csv").write_text("id,is_fraud\n3,maybe\n")
    capsys.readouterr()
    with pytest.raises(DataError, match="1 of 4 files were not ingested, the others were"):
        main(command)
    (folder / "day-0.csv").unlink()
    assert main(command) == 0 and capsys.readouterr().out.count(": nothing to do") == 3
    assert len(list((folder / "var/labels").glob("*.parquet"))) == 3


@pytest.fixture
def month(folder: Path) -> Path:
    """20 rows, two a day from January 1st; labels of ids 0, 2, 4, 6 came after a day, id 6's is corrected later."""
    rows = pd.DataFrame(
        {
            "TRANSACTION_ID": [str(n) for n in range(20)],
            "TX_DATETIME": [dt.datetime(2026, 1, 1 + n // 2, 12) for n in range(20)],
            "CUSTOMER_ID": "c", "TERMINAL_ID": "t", "TX_AMOUNT": 1.5, "TX_FRAUD": 1,
        }
    )  # fmt: skip
    rows.to_parquet(folder / "rows.parquet", index=False)
    (folder / "analyst.csv").write_text(
        "id,is_fraud,known_at\n0,1,2026-01-02\n2,0,2026-01-03\n4,1,2026-01-04\n99,1,2026-01-04\n"
    )
    (folder / "chargeback.csv").write_text("id,is_fraud,known_at\n2,1,2026-01-09\n4,0,2026-02-01\n")
    for source in ("analyst", "chargeback"):
        main(["ingest", f"{source}.csv", "--schema", "handbook", "--source", source])
    return folder


JOIN = ["join", "--schema", "handbook", "--data", "rows.parquet", "--out", "training.parquet", "--as-of", "2026-01-11"]


def test_a_training_learns_from_what_was_known_by_then(month: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main([*JOIN, "--matured-days", "7"]) == 0
    printed = capsys.readouterr().out
    rows = pd.read_parquet(month / "training.parquet").set_index("TRANSACTION_ID")
    assert rows["TX_FRAUD"].to_dict() == {"0": 1, "1": 0, "2": 1, "3": 0, "4": 1, "5": 0}, "the data's own are not used"
    assert "6 written, 3 of them frauds" in printed and "14 younger than 7 days, left out" in printed
    assert "3 matured without a label, counted as legitimate" in printed and "1 label without a row" in printed
    document = json.loads((month / "training.labels.json").read_text())
    assert document["output_fingerprint"] == tables.fingerprint(str(month / "training.parquet"))
    assert document["rows"]["by_source"] == {"analyst": 2, "chargeback": 1}
    assert document["sources"]["conflicts"] == {"pairs": 1, "differ": 1}, "the one of February is not known yet"
    assert document["sources"]["frauds_recent"] == {"analyst": 2, "chargeback": 1}
    checked = tables.load(str(month / "training.parquet"), Schema.load("handbook"), need_label=True)
    assert len(checked.rows) == 6 and not len(checked.quarantine)


def test_no_fraud_in_a_join_says_why_and_what_to_do(
    month: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    for file in (month / "var/labels").glob("*.parquet"):
        file.unlink()
    assert main(JOIN) == 0 and "the label store is empty" in caplog.text
    (month / "new.csv").write_text("id,is_fraud,known_at\n3,1,\n15,1,2026-01-09\n99,1,2026-01-09\n")
    main(["ingest", "new.csv", "--schema", "handbook"])
    capsys.readouterr()
    assert main(JOIN) == 0
    assert "0 of them frauds" in (printed := capsys.readouterr().out)
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
    assert f"1 labels became known after 2026-01-11 began, not used; --as-of {tomorrow} uses them" in printed
    assert (
        f"of the store's 3 frauds, 1 became known after 2026-01-11 began: --as-of {tomorrow} counts them; 1 are of "
        "rows younger than 7 days: wait, or lower --matured-days; 1 match no row: check the ids and --data"
    ) in caplog.text


def test_labels_of_today_count_today_if_asked_for(month: Path, capsys: pytest.CaptureFixture[str]):
    (month / "new.csv").write_text("id,is_fraud\n3,1\n")
    main(["ingest", "new.csv", "--schema", "handbook", "--source", "today"])
    join = ["join", "--schema", "handbook", "--data", "rows.parquet", "--out", "t.parquet", "--sources", "today"]
    with pytest.raises(ConfigError, match=r"every label from today became known after .* began: .*--as-of now"):
        main(join)
    assert main([*join, "--as-of", "now"]) == 0 and "1 of them frauds" in capsys.readouterr().out


def test_a_join_overwrites_only_a_join(month: Path):
    (month / "training.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"exists and no join wrote it.*--force"):
        main(JOIN)
    assert (month / "training.parquet").read_bytes() == b"mine"
    assert main([*JOIN, "--force"]) == 0 and main(JOIN) == 0


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        (["--unlabelled", "drop"], {"0": 1, "2": 1, "4": 1}),
        (["--unlabelled", "unknown"], {"0": 1, "1": -1, "2": 1, "3": -1, "4": 1, "5": -1}),
        (["--keep-labels"], {"0": 1, "1": 1, "2": 1, "3": 1, "4": 1, "5": 1}),
        (["--sources", "chargeback"], {"0": 0, "1": 0, "2": 1, "3": 0, "4": 0, "5": 0}),
        (["--as-of", "2026-01-08"], {}),
        (["--matured-days", "8"], {"0": 1, "1": 0, "2": 1, "3": 0}),
    ],
)
def test_what_counts_as_a_label_can_be_chosen(month: Path, more: list[str], labels: dict[str, int]):
    command = [*JOIN, *more]  # the schema's label_delay_days is 7
    if not labels:
        with pytest.raises(DataError, match="nothing to train on yet"):
            main([*command, "--matured-days", "8"])
        assert not list(month.glob("training*"))
        return
    assert main(command) == 0
    rows = pd.read_parquet(month / "training.parquet").set_index("TRANSACTION_ID")["TX_FRAUD"]
    assert rows.fillna(-1).to_dict() == labels


def test_rows_that_no_label_can_find_are_a_mistake(month: Path):
    rows = pd.read_parquet(month / "rows.parquet")
    rows.loc[3, "TRANSACTION_ID"] = None
    rows.to_parquet(month / "rows.parquet", index=False)
    with pytest.raises(DataError, match="row 3 has no TRANSACTION_ID, so no label can match it"):
        main(JOIN)
    with pytest.raises(ConfigError, match="has no id column"):
        main(["join", "--schema", "transactions", "--data", "rows.parquet", "--out", "x.parquet"])
    for wrong in (["--matured-days", "-1"], ["--sources", "oracle"], ["--out", "x.csv"], ["--unlabelled", "fraud"]):
        with pytest.raises(ConfigError):
            main([*JOIN, *wrong])
    with pytest.raises(ConfigError, match="join needs --data"):
        main(["join", "--schema", "handbook"])


def test_a_day_of_labels_begins_in_the_zone_of_the_schema(
    month: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    schema = replace(Schema.load("handbook"), day_zone="Asia/Tokyo")  # the 9th begins at 15:00 UTC of the 8th
    (month / "tokyo.yaml").write_text(schema.to_yaml())
    (month / "late.csv").write_text("id,is_fraud,known_at\n6,1,2026-01-08T14:00:00Z\n8,1,2026-01-08T16:00:00Z\n")
    main(["ingest", "late.csv", "--schema", "handbook", "--source", "late"])
    command = ["join", "--schema", "tokyo.yaml", "--data", "rows.parquet", "--out", "t.parquet", "--as-of"]
    assert main([*command, "2026-01-09", "--matured-days", "1", "--sources", "late"]) == 0
    rows = pd.read_parquet(month / "t.parquet").set_index("TRANSACTION_ID")["TX_FRAUD"]
    assert rows["6"] == 1 and rows["8"] == 0, "what became known after the day began does not count"
    assert rows.index.tolist() == [str(n) for n in range(14)], "rows before the 7th at 15:00 are a day old"
    capsys.readouterr()
    monkeypatch.setenv("FRAUD_DAY_ZONE", "Asia/Tokyo")
    assert main(["show"]) == 0
    shown = capsys.readouterr().out
    assert "2026-01-08  late                     1 label " in shown and "2026-01-09  late" in shown
    with pytest.raises(ConfigError, match="FRAUD_DAY_ZONE='Asia/Tokyo' and day_zone 'UTC' of schema 'handbook' differ"):
        main([*JOIN])
