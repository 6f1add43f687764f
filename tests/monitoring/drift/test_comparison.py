"""Two files in, one verdict out: contract of the JSON, scores, refused rows, entities, sampling, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.simulation import cards, transactions
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.schema import Schema, validate
from fraud.scoring import scored
from monitoring.drift.comparison import compare
from monitoring.drift.verdict import TOO_FEW_ROWS, DriftLimits

SCHEMA = Schema.load("transactions")


def write(frame: pd.DataFrame, path: Path) -> str:
    (tables.write_csv if path.suffix == ".csv" else tables.write_parquet)(frame, str(path))
    return str(path)


def with_scores(frame: pd.DataFrame, shift: float = 0.0) -> pd.DataFrame:
    """A scored table whose scores are made up: calm, or shifted up."""
    rows = validate(frame, SCHEMA).rows
    rng = np.random.default_rng(len(frame) + int(shift * 100))
    score = np.clip(rng.beta(2, 20, len(rows)) + shift, 0, 0.99)
    scores = pd.DataFrame({"score": score, "forest_score": score, "autoencoder_score": score / 2}, index=rows.index)
    scores["is_fraud"] = score >= 0.3
    return scored.table(rows, scores, "3", [None] * len(rows))


def test_json_contract(tmp_path: Path):
    old = write(transactions(3_000, seed=1), tmp_path / "old.csv")
    new = write(transactions(2_000, seed=2, drift=2.0), tmp_path / "new.parquet")
    document = json.loads(json.dumps(compare(old, new, SCHEMA).document, allow_nan=False))
    assert document["verdict"] == "drift"
    assert "device_score" in document["reason"] and "columns changed strongly" in document["reason"]
    assert document["reference"]["rows"] == 3_000 and document["current"]["usable_rows"] == 2_000
    assert document["schema"]["name"] == "transactions" and not document["schema"]["guessed"]
    assert document["score"] is None and any("score drift was not judged" in line for line in document["warnings"])
    columns = {column["column"]: column for column in document["columns"]}
    assert list(columns) == [column.name for column in SCHEMA.features]
    device = columns["device_score"]
    assert device["drifted"] is True and device["test"] == "Kolmogorov-Smirnov + PSI"
    assert device["statistics"]["psi"] > device["thresholds"]["psi"]["drift"]
    assert device["p_value"] <= device["p_value_adjusted"] < document["limits"]["alpha"]
    assert columns["country_mismatch"]["test"] == "chi-square + PSI"
    assert columns["distance"]["drifted"] is False
    assert device["missing"]["level"] == "ok"


def test_no_drift_is_ok_and_says_so(tmp_path: Path):
    document = compare(
        write(transactions(3_000, seed=1), tmp_path / "a.csv"),
        write(transactions(3_000, seed=2), tmp_path / "b.csv"),
        SCHEMA,
    ).document
    assert document["verdict"] == "ok"
    assert document["reason"] == "no column of 5 changed by more than the limits"
    assert document["sampling"]["stated"] == "Every usable row was tested."


def test_refused_rows_are_counted_and_can_be_the_drift(tmp_path: Path):
    broken = transactions(3_000, seed=2).astype(object)
    broken.loc[:299, "amount"] = "n/k"
    document = compare(
        write(transactions(3_000, seed=1), tmp_path / "a.csv"), write(broken, tmp_path / "b.csv"), SCHEMA
    ).document
    assert document["current"]["refused_rows"] == 300 and document["current"]["usable_rows"] == 2_700
    assert document["verdict"] == "drift" and "efused rows 0.00% → 10.00%" in document["reason"]
    assert document["quality"]["refused"]["level"] == "drift"
    assert any("300 × 'amount' is not a number" in line for line in document["quality"]["told"])


def test_score_drift_of_scored_tables(tmp_path: Path):
    old = write(with_scores(transactions(3_000, seed=1)), tmp_path / "old.parquet")
    calm = write(with_scores(transactions(2_900, seed=2)), tmp_path / "calm.parquet")
    wild = write(with_scores(transactions(3_000, seed=3), shift=0.15), tmp_path / "wild.parquet")
    quiet = compare(old, calm, SCHEMA).document
    assert quiet["verdict"] == "ok" and quiet["score"]["drifted"] is False
    assert quiet["current"]["models"] == ["3"] and quiet["warnings"] == []
    document = compare(old, wild, SCHEMA).document
    assert document["verdict"] == "drift" and "The score changed strongly" in document["reason"]
    assert {c["column"] for c in document["score"]["columns"]} == {
        "score",
        "forest_score",
        "autoencoder_score",
        "alert rate",
    }
    assert [c["level"] for c in document["columns"]] == ["ok"] * 5, "the label and the scores are no features"


def test_a_training_reference_with_bare_scores_compares_with_a_scored_day(tmp_path: Path):
    frame = transactions(3_000, seed=1)
    scores = with_scores(frame)[["score", "forest_score", "autoencoder_score"]]
    reference = write(pd.concat([frame, scores.reset_index(drop=True)], axis=1), tmp_path / "reference.parquet")
    day = write(with_scores(transactions(2_500, seed=2)), tmp_path / "day.parquet")
    document = compare(reference, day, SCHEMA).document
    assert document["verdict"] == "ok" and len(document["score"]["columns"]) == 3


def test_rows_refused_by_scoring_count_as_refused(tmp_path: Path):
    old = write(with_scores(transactions(3_000, seed=1)), tmp_path / "old.parquet")
    new = write(with_scores(transactions(2_500, seed=2)), tmp_path / "new.parquet")
    tables.write_text(json.dumps({"rows": {"quarantined": 500}}), f"{new}.manifest.json")
    document = compare(old, new, SCHEMA).document
    assert document["current"]["rows"] == 3_000 and document["current"]["refused_rows"] == 500
    assert document["verdict"] == "drift"


def test_times_give_a_window_and_entities_a_share_but_no_test(tmp_path: Path):
    frame = cards(12_000, seed=1)
    half = len(frame) // 2
    strangers = frame.iloc[half:].copy()
    strangers["CUSTOMER_ID"] = strangers["CUSTOMER_ID"].astype(str) + "x"
    document = compare(
        write(frame.iloc[:half], tmp_path / "a.parquet"),
        write(strangers, tmp_path / "b.parquet"),
        Schema.load("handbook"),
    ).document
    assert [column["column"] for column in document["columns"]] == ["TX_AMOUNT"]
    assert document["reference"]["window"]["end"] < document["current"]["window"]["end"]
    entities = {entity["column"]: entity for entity in document["entities"]}
    assert entities["CUSTOMER_ID"]["unseen_rows_share"] == entities["CUSTOMER_ID"]["unseen_entities_share"] == 1.0
    assert entities["TERMINAL_ID"]["unseen_rows_share"] < 0.5
    assert document["verdict"] == "ok", "new customers alone are no drift"


def test_schema_is_guessed_from_the_reference_without_its_limits(tmp_path: Path):
    new = transactions(3_000, seed=2)
    new.loc[:999, "device_score"] = 7.0  # impossible by the shipped schema, a drift by a guessed one
    document = compare(write(transactions(3_000, seed=1), tmp_path / "a.csv"), write(new, tmp_path / "b.csv")).document
    assert document["schema"]["guessed"] is True
    assert document["current"]["refused_rows"] == 0
    assert {c["column"] for c in document["columns"] if c["drifted"]} == {"device_score"}


def test_samples_are_seeded_and_stated(tmp_path: Path):
    old, new = (
        write(transactions(5_000, seed=1), tmp_path / "a.csv"),
        write(transactions(900, seed=2), tmp_path / "b.csv"),
    )
    documents = [compare(old, new, SCHEMA, sample=1_000, seed=s).document for s in (7, 7, 8)]
    assert documents[0]["sampling"]["reference_rows"] == 1_000 and documents[0]["sampling"]["current_rows"] == 900
    assert "1,000 reference and 900 current rows, seed 7" in documents[0]["sampling"]["stated"]
    assert documents[0]["columns"] == documents[1]["columns"] != documents[2]["columns"]
    assert documents[0]["reference"]["usable_rows"] == 5_000


def test_too_few_rows_have_no_verdict_on_either_side(tmp_path: Path):
    many = write(transactions(3_000, seed=1), tmp_path / "a.csv")
    few = write(transactions(199, seed=2, drift=3.0), tmp_path / "b.csv")
    for old, new in ((many, few), (few, many)):
        document = compare(old, new, SCHEMA).document
        assert document["verdict"] == TOO_FEW_ROWS and "b.csv has 199 of 200 needed" in document["reason"]
        assert {column["level"] for column in document["columns"]} == {TOO_FEW_ROWS}
        assert not any(column["drifted"] for column in document["columns"])
    limits = DriftLimits(min_rows=199)
    assert compare(many, few, SCHEMA, limits=limits).document["verdict"] == "drift", "the rows have drifted"


def test_a_day_of_refused_rows_is_judged_although_few_rows_are_left(tmp_path: Path):
    broken = transactions(3_000, seed=2).astype(object)
    broken.loc[:2_899, "amount"] = "n/k"
    many = write(transactions(3_000, seed=1), tmp_path / "a.csv")
    document = compare(many, write(broken, tmp_path / "b.csv"), SCHEMA).document
    assert document["verdict"] == "drift" and "efused rows 0.00% → 96.67%" in document["reason"]
    assert "has 100 of 200 needed" in document["reason"] and not any(c["drifted"] for c in document["columns"])
    document = compare(many, write(broken.tail(190), tmp_path / "c.csv"), SCHEMA).document
    assert document["verdict"] == TOO_FEW_ROWS, "190 rows, 90 of them refused"


def days_of_hours(days: int, seed: int) -> pd.DataFrame:
    """Rows from 06:00 to 22:00 in Berlin whose amount grows with the hour."""
    rng = np.random.default_rng(seed)
    hours = rng.uniform(6, 22, 900 * days)
    dates = pd.DatetimeIndex(np.repeat(pd.date_range("2026-03-27", periods=days).to_numpy(), 900))
    local = (dates + pd.to_timedelta(hours, unit="h")).tz_localize("Europe/Berlin")  # the clock changes on 29 March
    amount = 20 + 5 * hours + rng.normal(size=len(hours))
    return pd.DataFrame({"time": local.tz_convert("UTC").tz_localize(None), "amount": amount}).sort_values("time")


def test_a_part_of_a_day_is_compared_with_the_same_hours(tmp_path: Path):
    schema = Schema.from_dict(
        {"name": "shop", "day_zone": "Europe/Berlin", "columns": [{"name": "time", "kind": "timestamp"},
                                                                  {"name": "amount", "kind": "numeric"}]}
    )  # fmt: skip
    reference = write(days_of_hours(14, 1), tmp_path / "reference.parquet")
    day = days_of_hours(15, 2).tail(900)
    whole = compare(reference, write(day, tmp_path / "whole.parquet"), schema).document
    assert whole["verdict"] == "ok" and whole["current"]["partial_day"] is None
    morning = write(day.head(400), tmp_path / "morning.parquet")
    document = compare(reference, morning, schema).document
    part = document["current"]["partial_day"]
    assert (part["first"], part["last"]) == ("06:00", "12:38"), "in local time, also after the clock change"
    assert part["share"] == pytest.approx(4 / 9, abs=0.05)
    assert document["verdict"] == "ok" and "a part of a day, 06:00 to 12:38" in document["reason"]
    assert any("Compare the whole day later" in line for line in document["warnings"])
    assert "Of the reference: the rows from 06:00" in document["sampling"]["stated"]
    moved = day.head(400).assign(amount=lambda rows: rows["amount"] + 15)
    document = compare(reference, write(moved, tmp_path / "moved.parquet"), schema).document
    assert document["verdict"] == "drift", "against the same hours, and still another level"


def test_bad_input_is_one_line(tmp_path: Path):
    good = write(transactions(500, seed=1), tmp_path / "good.csv")
    lacking = write(transactions(500, seed=1).drop(columns="hour"), tmp_path / "lacking.csv")
    hopeless = write(transactions(500, seed=1).assign(amount=-1.0), tmp_path / "hopeless.csv")
    (tmp_path / "empty.csv").write_text("")
    for kind, path, words in [
        (SchemaError, lacking, "lacking.csv.*'hour'"),
        (DataError, hopeless, "hopeless.csv"),
        (DataError, str(tmp_path / "empty.csv"), "empty"),
        (DataError, str(tmp_path / "none.csv"), "does not exist"),
    ]:
        with pytest.raises(kind, match=words) as caught:
            compare(good, path, SCHEMA)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="--sample"):
        compare(good, good, SCHEMA, sample=10)
    with pytest.raises(ConfigError, match="--seed"):
        compare(good, good, SCHEMA, seed=-1)
