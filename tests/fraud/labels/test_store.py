"""Labels come late, are corrected, come twice and come wrong: the newest of an id holds, and nothing good is lost."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pytest

from fraud.data import tables
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.history.label_feed import LabelFeed
from fraud.labels.store import COLUMNS, LabelStore, Retracted, check
from fraud.schema import Schema
from fraud.settings import Settings

HANDBOOK = Schema.load("handbook")
DAY = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)
LATER = int(DAY.timestamp() * 1e6)


def labels(rows: list[tuple[str, bool, str]], source: str = "analyst") -> pd.DataFrame:
    ids, frauds, moments = zip(*rows, strict=True)
    known_at = pd.Series(pd.to_datetime(list(moments))).astype("datetime64[us]")
    return pd.DataFrame({"id": list(ids), "is_fraud": list(frauds), "known_at": known_at, "source": source})


def checked(path: Path, *, known_at: dt.datetime | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    pieces = list(check(str(path), HANDBOOK, source="analyst", known_at=known_at, now=DAY))
    labels, refused = (pd.concat(parts, ignore_index=True) for parts in zip(*pieces, strict=True))
    return labels, refused


def test_the_newest_label_of_an_id_holds_as_of_any_moment(tmp_path: Path):
    store = LabelStore(str(tmp_path / "labels"))
    assert list(store.read().columns) == list(COLUMNS) and not len(store.read())
    first = store.add(labels([("7", False, "2026-01-03"), ("8", True, "2026-01-03")]), "one", ingested_at=DAY)
    assert (first.new, first.changed, first.same) == (2, 0, 0)
    later = labels([("7", True, "2026-01-05"), ("8", True, "2026-01-04"), ("9", False, "2026-01-02")], "chargeback")
    second = store.add(later, "two", ingested_at=DAY)
    assert (second.new, second.changed, second.same) == (1, 1, 1)
    now = store.read().set_index("id")
    assert now["is_fraud"].to_dict() == {"7": True, "8": True, "9": False} and now.loc["7", "source"] == "chargeback"
    then = store.read(known_until=dt.datetime(2026, 1, 3, 12, tzinfo=dt.UTC)).set_index("id")
    assert then["is_fraud"].to_dict() == {"7": False, "8": True, "9": False}


def test_of_two_labels_of_one_moment_the_one_ingested_later_holds(tmp_path: Path):
    store = LabelStore(str(tmp_path))
    store.add(labels([("7", True, "2026-01-03")]), "z", ingested_at=DAY)
    store.add(labels([("7", False, "2026-01-03")]), "a", ingested_at=DAY + dt.timedelta(seconds=1))
    assert store.read()["is_fraud"].tolist() == [False]
    again = store.add(labels([("7", False, "2026-01-03")]), "a", ingested_at=DAY + dt.timedelta(seconds=2))
    assert (again.new, again.changed, again.same) == (0, 0, 1) and store.has("a") and not store.has("b")


def retract(store: LabelStore, ids: list[str], day: int) -> Retracted:
    moment = dt.datetime(2026, 1, day, tzinfo=dt.UTC)
    return store.retract(ids, source="analyst", known_at=moment, now=moment, by="ann", reason="wrong export")


def test_a_retracted_id_has_no_label_from_then_on_and_had_one_before(tmp_path: Path):
    store = LabelStore(str(tmp_path))
    store.add(labels([("7", True, "2026-01-03"), ("8", True, "2026-01-03")]), "a", ingested_at=DAY)
    store.add(labels([("7", True, "2026-01-04")], "chargeback"), "b", ingested_at=DAY)
    assert retract(store, ["7", "9"], 5) == Retracted(retracted=1, without_label=1, later=0)
    assert store.read()["id"].tolist() == ["8"] and store.read_by_source()["id"].tolist() == ["8"]
    assert sorted(store.read(known_until=DAY.replace(day=4))["id"]) == ["7", "8"], "the past stays as it was known"
    ended = store.ledger().iloc[-1]
    assert (ended["id"], ended["is_fraud"]) == ("7", False), "the entity history forgets the fraud"
    assert store.retractions()[["id", "reason", "by"]].to_numpy().tolist() == [["7", "wrong export", "ann"]]


def test_a_retraction_twice_is_as_once_and_a_later_label_counts_again(tmp_path: Path):
    store = LabelStore(str(tmp_path))
    store.add(labels([("7", True, "2026-01-03")]), "a", ingested_at=DAY)
    retract(store, ["7"], 5)
    before = store.listing()
    assert retract(store, ["7"], 5) == Retracted(retracted=0, without_label=1, later=0) and store.listing() == before
    added = store.add(labels([("7", True, "2026-01-04")], "chargeback"), "late", ingested_at=DAY)
    assert (added.new, added.retracted) == (0, 1) and not len(store.read()), "known before the retraction"
    assert store.add(labels([("7", False, "2026-01-06")]), "again", ingested_at=DAY).new == 1
    assert store.read()["is_fraud"].tolist() == [False]
    assert retract(store, ["7"], 5) == Retracted(retracted=0, without_label=0, later=1)


def test_the_live_history_is_told_to_forget_a_retracted_fraud(tmp_path: Path):
    store = LabelStore(str(tmp_path))
    store.add(labels([("7", True, "2026-01-03"), ("8", True, "2026-01-03")]), "a", ingested_at=DAY)
    feed = LabelFeed(store)
    feed.refresh(0)
    assert feed.newest(["7", "8"], LATER).is_fraud.tolist() == [True, True]
    retract(store, ["7"], 5)
    feed.refresh(0)
    assert feed.newest(["7", "8"], LATER).is_fraud.tolist() == [False, True]


def test_foreign_files_in_the_store_raise(tmp_path: Path):
    labels([("7", True, "2026-01-03")]).drop(columns="source").to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet is a Parquet file without labels"):
        LabelStore(str(tmp_path)).read()


def test_wrong_rows_go_to_quarantine_and_the_good_ones_stay(tmp_path: Path):
    path = tmp_path / "verdicts.csv"
    path.write_text(
        "TRANSACTION_ID,TX_FRAUD,known_at,note\n007,1,2026-01-02T10:00:00+02:00,ok\n,1,2026-01-02T10:00Z,no id\n"
        "8,maybe,2026-01-02T10:00Z,x\n9,,2026-01-02T10:00Z,x\n10,0,,x\n11,0,2026-01-11T00:00Z,x\n12,false,soon,x\n"
    )
    labels, refused = checked(path)
    assert labels["id"].tolist() == ["007", "10"] and labels["is_fraud"].tolist() == [True, False]
    assert labels["known_at"].tolist() == [pd.Timestamp("2026-01-02 08:00"), pd.Timestamp("2026-01-10")]
    assert sorted(refused["row"]) == [1, 2, 3, 5, 6]
    by_row = refused.set_index("row")
    assert by_row.loc[5, "reason"].startswith("is in the future") and by_row.loc[5, "raw_id"] == "11"
    assert by_row.loc[2, "value"] == "maybe" and by_row["column"].to_dict()[6] == "known_at"


def test_plain_column_names_work_and_one_time_may_apply_to_all(tmp_path: Path):
    path = tmp_path / "verdicts.parquet"
    pd.DataFrame({"id": ["1", "2"], "is_fraud": [True, False]}).to_parquet(path)
    labels, refused = checked(path, known_at=dt.datetime(2026, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=1))))
    assert labels["known_at"].tolist() == [pd.Timestamp("2026-01-04 23:00")] * 2 and not len(refused)


def test_a_file_without_labels_and_a_schema_without_ids_are_refused(tmp_path: Path):
    path = tmp_path / "verdicts.csv"
    path.write_text("TRANSACTION_ID,verdict\n1,1\n")
    with pytest.raises(SchemaError, match=r"verdicts\.csv: column 'is_fraud' is missing"):
        checked(path)
    with pytest.raises(ConfigError, match="no id column"):
        list(check(str(path), Schema.load("transactions"), source="analyst", known_at=None, now=DAY))


def test_a_drawn_sheet_comes_back_with_its_ids_as_they_were(tmp_path: Path):
    sheet = tmp_path / "sheet.csv"
    tables.write_csv(pd.DataFrame({"id": ["=1+1", "7"], "is_fraud": [1, 0]}), str(sheet))
    assert "'=1+1" in sheet.read_text()
    labels, refused = checked(sheet)
    assert labels["id"].tolist() == ["=1+1", "7"] and not len(refused)


def test_the_environment_sets_the_store(tmp_path: Path):
    settings = Settings.from_environment({"FRAUD_ROOT": str(tmp_path)})
    assert LabelStore.from_environment(settings, {}).url == str(tmp_path / "var/labels")
    assert LabelStore.from_environment(settings, {"FRAUD_LABELS": "s3://b/l"}).url == "s3://b/l"
