"""Guessing a schema: kinds, limits and histories a person would have written, and a word on what to check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.errors import SchemaError
from fraud.schema import Schema, infer, validate
from fraud.settings import Settings


def cards(n: int = 400) -> pd.DataFrame:
    """A stranger's table with one column of each sort."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "transactionId": [f"t-{number}" for number in range(n)],
            "booked_at": pd.date_range("2024-01-01", periods=n, freq="37min").astype("str"),
            "unix_time": np.arange(n) * 2220 + 1_700_000_000,
            "cardNumber": rng.choice([4440117541542814, 6011878330987374, 3540000000000000], n),
            "merchant_id": rng.integers(1, 20, n),
            "channel": rng.choice(["web", "shop", "phone"], n),
            "amount": rng.lognormal(3, 2, n).round(2),
            "device_score": rng.random(n),
            "hour_local": rng.integers(0, 24, n),
            "latitude": rng.uniform(40, 50, n),
            "change": rng.normal(size=n),
            "is_online": rng.choice(["yes", "no"], n),
            "age": np.where(rng.random(n) < 0.1, np.nan, rng.integers(18, 90, n)),
            "birth_date": "1980-02-03",
            "currency": "EUR",
            "FraudReason": rng.choice(["none", "stolen", "lost"], n),
            "is_fraud": rng.integers(0, 2, n),
        }
    )


def test_every_column_gets_the_kind_a_person_would_give_it() -> None:
    schema = infer(cards(), "cards")

    assert {column.name: column.kind for column in schema.columns} == {
        "transactionId": "id",
        "booked_at": "timestamp",
        "cardNumber": "entity",
        "merchant_id": "entity",
        "channel": "categorical",
        "amount": "numeric",
        "device_score": "numeric",
        "hour_local": "numeric",
        "latitude": "numeric",
        "change": "numeric",
        "is_online": "boolean",
        "age": "numeric",
        "is_fraud": "label",
    }
    assert set(schema.ignore) == {"unix_time", "birth_date", "currency", "FraudReason"}
    for name in schema.ignore:
        assert name in schema.description  # each with the reason it was left out
    assert all(column.description.startswith("Guessed") for column in schema.columns)


def test_limits_are_natural_ones_and_never_the_samples() -> None:
    schema = infer(cards(), "cards")

    limits = {column.name: (column.minimum, column.maximum) for column in schema.features if column.kind == "numeric"}
    assert limits == {
        "amount": (0, None),
        "device_score": (0, 1),
        "hour_local": (0, 23),
        "latitude": (-90, 90),
        "change": (None, None),
        "age": (0, None),
    }
    assert schema.column("amount").transform == "log"
    assert schema.column("age").nullable and not schema.column("amount").nullable


def test_histories_follow_from_the_entities() -> None:
    schema = infer(cards(), "cards")

    assert [(part.entity, part.value, part.statistics) for part in schema.history] == [
        ("cardNumber", "amount", ("count", "mean", "ratio", "zscore")),
        ("merchant_id", None, ("count", "risk")),
    ]
    assert schema.label_delay_days == 7


def test_a_real_card_number_is_never_written_into_the_schema() -> None:
    assert "4440117541542814" not in infer(cards(), "cards").to_yaml()


def test_the_guess_accepts_its_own_sample_and_reads_back(tmp_path: Path) -> None:
    schema = infer(cards(), "cards")
    path = tmp_path / "cards.yaml"
    path.write_text(schema.to_yaml(), encoding="utf-8")

    assert Schema.load(str(path)) == schema
    assert len(validate(cards(), schema).quarantine) == 0


def test_without_label_and_time_the_description_says_so() -> None:
    schema = infer(pd.DataFrame({"a": [1.5, 2.5], "b": [3, 4]}), "plain")

    assert schema.label is None and schema.timestamp is None and schema.history == ()
    assert "No label was found" in schema.description and "No time was found" in schema.description


@pytest.mark.parametrize(("scale", "unit"), [(1, "s"), (1_000, "ms"), (1_000_000, "us"), (1_000_000_000, "ns")])
def test_epoch_numbers_get_their_unit(scale: int, unit: str) -> None:
    frame = pd.DataFrame({"timestamp": (1_700_000_000 + np.arange(50) * 3600) * scale, "x": np.linspace(-1, 1, 50)})

    column = infer(frame, "epoch").column("timestamp")
    assert (column.unit, column.oldest) == (unit, "1990-01-01")


def test_a_unit_that_changes_in_the_middle_is_noticed() -> None:
    """As in the file that counts seconds and then milliseconds: half of its rows would be of January 1970."""
    seconds = 1_767_231_458 + np.arange(600) * 600
    changed = np.where(np.arange(600) < 300, seconds, seconds * 1_000)
    frame = pd.DataFrame({"timestamp": changed, "amount": np.arange(600) + 0.5})

    guess = infer(frame, "changed")

    column = guess.column("timestamp")
    assert (column.unit, column.oldest) == ("ms", "1990-01-01")
    assert "300 of 600 are no dates since 1990 in ms" in column.description
    checked = validate(frame, guess)
    assert checked.rows.index.tolist() == list(range(300, 600))
    assert checked.quarantine["reason"].str.startswith("is before 1990-01-01").all()


def test_elapsed_time_gets_no_lower_limit() -> None:
    frame = pd.DataFrame({"Time": np.arange(600) * 300, "amount": np.arange(600) + 0.5})

    column = infer(frame, "elapsed").column("Time")

    assert (column.unit, column.oldest) == ("s", None)
    assert validate(frame, infer(frame, "elapsed")).quarantine.empty


def test_one_row_and_one_class_still_give_a_schema() -> None:
    schema = infer(pd.DataFrame({"amount": [5.0], "is_fraud": [0]}), "one")

    assert schema.label is not None and "one class only" in schema.label.description
    assert [column.name for column in schema.features] == ["amount"]


def test_empty_and_hopeless_tables_are_refused() -> None:
    with pytest.raises(SchemaError, match="empty table"):
        infer(pd.DataFrame({"a": []}), "none")
    with pytest.raises(SchemaError, match="nothing to learn from"):
        infer(pd.DataFrame({"is_fraud": [0, 1]}), "none")


@pytest.mark.parametrize(
    ("name", "pattern", "label", "time", "entities"),
    [
        ("handbook", "handbook*.parquet", "TX_FRAUD", "TX_DATETIME", ["CUSTOMER_ID", "TERMINAL_ID"]),
        ("ulb", "ulb*.parquet", "Class", "Time", []),
        ("sparkov", "sparkov*.parquet", "is_fraud", "trans_date_trans_time", ["cc_num"]),
    ],
)
def test_published_data_is_guessed_like_the_shipped_schema(
    name: str, pattern: str, label: str, time: str, entities: list[str]
) -> None:
    files = sorted(Settings.from_environment().shared_data.glob(pattern))
    if not files:
        pytest.skip(f"no {pattern} in FRAUD_SHARED_DATA")
    frame = next(tables.iter_frames(str(files[0]), 20_000))
    guess, shipped = infer(frame, name), Schema.load(name)

    assert guess.label is not None and guess.label.name == label
    assert guess.timestamp is not None and guess.timestamp.name == time
    assert guess.timestamp.unit == (shipped.timestamp.unit if shipped.timestamp else None)
    assert [column.name for column in guess.entities] == entities
    assert {part.entity for part in guess.history} <= {part.entity for part in shipped.history}
    assert len(validate(frame, shipped).quarantine) == 0
