"""Validation: what each kind accepts, and that every other row is in quarantine with its reason."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fraud.errors import SchemaError
from fraud.schema import Column, Schema, Validated, Validator, validate


def table(**changes: Any) -> pd.DataFrame:
    """Four good rows of the default schema with whole columns replaced by `changes`."""
    columns: dict[str, Any] = {
        "amount": [220.0, 10.0, 5.0, 7.5],
        "hour": [3, 4, 5, 6],
        "distance": [12.0, 1.0, 0.0, 2.0],
        "device_score": [0.92, 0.2, 0.0, 1.0],
        "country_mismatch": [1, 0, 0, 1],
        "is_fraud": [1, 0, 0, 0],
    }
    return pd.DataFrame({**columns, **changes})


def one(values: Any, dtype: Any = None, **column: Any) -> Validated:
    """Validate a table whose only column of interest is x."""
    schema = Schema(name="one", columns=(Column(name="x", **column), Column(name="other", kind="numeric")))
    series = values if isinstance(values, pd.Series) else pd.Series(values, dtype=dtype)
    return validate(pd.DataFrame({"x": series, "other": 1.0}), schema)


def reasons(checked: Validated) -> dict[int, str]:
    return dict(zip(checked.quarantine["row"], checked.quarantine["reason"], strict=True))


def test_good_table_comes_back_whole_in_canonical_types() -> None:
    checked = validate(table(), Schema.load("transactions"))

    assert len(checked.quarantine) == 0 and checked.warnings == ()
    assert list(checked.rows.columns) == list(table().columns)
    assert [str(dtype) for dtype in checked.rows.dtypes] == ["float64"] * 5 + ["int8"]
    assert checked.rows.index.tolist() == [0, 1, 2, 3]


def test_bad_rows_go_to_quarantine_with_row_value_reason_and_the_raw_row() -> None:
    frame = table(amount=["220", "abc", "1e300", "7.5"], hour=[3, 99, 5, 6])

    checked = validate(frame, Schema.load("transactions"), first_row=100)

    assert checked.rows.index.tolist() == [100, 103]
    assert checked.rows["amount"].tolist() == [220.0, 7.5]
    assert checked.quarantine["row"].tolist() == [101, 102]
    assert checked.quarantine["column"].tolist() == ["amount", "amount"]  # one reason a row, the schema's first
    assert checked.quarantine["value"].tolist() == ["abc", "1e300"]
    assert checked.quarantine["reason"].tolist() == ["is not a number", "is above the maximum 1e+06"]
    assert checked.quarantine["raw_hour"].tolist() == ["99", "5"]
    assert checked.quarantine["row"].dtype == np.int64


def test_columns_come_back_in_schema_order_and_extra_ones_are_named() -> None:
    frame = table(colour="red")[["is_fraud", "colour", *list(table().columns)[:5]]]

    checked = validate(frame, Schema.load("transactions"))

    assert list(checked.rows.columns) == list(table().columns)
    assert len(checked.warnings) == 1 and "colour" in checked.warnings[0]


def test_ignored_columns_are_silent() -> None:
    frame = pd.DataFrame({"x": [1.0], "scenario": [3]})
    schema = Schema(name="s", columns=(Column(name="x", kind="numeric"),), ignore=("scenario",))

    assert validate(frame, schema).warnings == ()


def test_missing_column_suggests_the_misspelt_one() -> None:
    with pytest.raises(SchemaError, match="'device_score' is missing; did you mean 'Device_Scor'"):
        validate(table().rename(columns={"device_score": "Device_Scor"}), Schema.load("transactions"))


def test_wrong_delimiter_and_repeated_columns_are_recognised() -> None:
    with pytest.raises(SchemaError, match="separated by semicolons"):
        validate(pd.DataFrame({"amount;hour": ["1;2"]}), Schema.load("transactions"))
    frame = table()
    frame.columns = pd.Index(["amount", "amount", *frame.columns[2:]])
    with pytest.raises(SchemaError, match="amount appears twice"):
        validate(frame, Schema.load("transactions"))


def test_label_column_may_be_absent_unless_needed() -> None:
    frame = table().drop(columns="is_fraud")

    assert "is_fraud" not in validate(frame, Schema.load("transactions")).rows
    with pytest.raises(SchemaError, match="'is_fraud' is missing"):
        validate(frame, Schema.load("transactions"), need_label=True)
    with pytest.raises(SchemaError, match="no label column"):
        validate(frame, Schema(name="s", columns=(Column(name="hour", kind="numeric"),)), need_label=True)


def test_numbers_from_text_are_the_nearest_float() -> None:
    values = np.random.default_rng(0).lognormal(size=1_000)

    checked = one([f" {value!r} " for value in values.tolist()], kind="numeric")

    assert np.array_equal(checked.rows["x"].to_numpy(), values)


@pytest.mark.parametrize("odd", ["abc", "1,234.5", "0x10", "1_000", "12 EUR", "tru"])
def test_one_odd_text_does_not_spoil_the_column(odd: str) -> None:
    checked = one(["1.5", odd, "-2e3"], kind="numeric")

    assert checked.rows["x"].tolist() == [1.5, -2000.0]
    assert reasons(checked) == {1: "is not a number"}


def test_infinite_and_missing_numbers() -> None:
    values = [1.0, np.inf, -np.inf, np.nan, 1e300, -1e300]

    strict = one(values, kind="numeric")
    lenient = one(values, kind="numeric", nullable=True)

    assert strict.rows["x"].tolist() == [1.0]
    assert [reasons(strict)[row].split()[1] for row in range(1, 6)] == [
        "infinite",
        "infinite",
        "missing;",
        "above",
        "below",
    ]
    assert lenient.rows["x"].isna().tolist() == [False, True]
    assert lenient.rows.index.tolist() == [0, 3]


@pytest.mark.parametrize("word", ["", " ", "NaN", "null", "None", "N/A", "<NA>"])
def test_words_for_nothing_are_missing_numbers(word: str) -> None:
    assert one(["1", word], kind="numeric", nullable=True).rows["x"].isna().tolist() == [False, True]
    assert "missing" in reasons(one(["1", word], kind="numeric"))[1]


def test_whole_numbers_and_limits_are_inclusive() -> None:
    checked = one([0, 23, 24, -1, 1.5], kind="numeric", integer=True, minimum=0, maximum=23)

    assert checked.rows["x"].tolist() == [0.0, 23.0]
    assert reasons(checked) == {2: "is above the maximum 23", 3: "is below the minimum 0", 4: "is not a whole number"}


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1, None], dtype="Int64"),
        pd.Series([1.0, None], dtype="Float32"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([decimal.Decimal("1.0"), None], dtype=object),
        pd.Series(["1", None], dtype=object),
        pd.Series(["1", None], dtype="category"),
        pd.Series([1, "nan"], dtype=object),
        pd.Series([1, None], dtype="int64[pyarrow]"),
        pd.Series([np.float32(1), None], dtype=object),
    ],
)
def test_every_way_to_hold_a_number_is_read(values: pd.Series) -> None:
    rows = one(values, kind="numeric", nullable=True).rows["x"]

    assert rows.dtype == np.float64 and rows.iloc[0] == 1.0 and np.isnan(rows.iloc[1])


def test_dates_are_not_numbers() -> None:
    dates = pd.Series(pd.to_datetime(["2020-01-01", None]))

    assert reasons(one(dates, kind="numeric"))[0] == "is not a number"


def test_booleans_accept_the_usual_words_and_nothing_else() -> None:
    checked = one(["true", "No", 1, 0.0, "Y", "1.0", "2", "maybe", None], kind="boolean", dtype=object)

    assert checked.rows["x"].tolist() == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert reasons(checked)[6] == reasons(checked)[7] == "is not true/false, yes/no or 1/0"
    assert "is missing" in reasons(checked)[8]
    assert one([0, 1, 2], kind="boolean").quarantine["row"].tolist() == [2]
    assert one([True, False], kind="boolean").rows["x"].tolist() == [1.0, 0.0]


def test_labels_are_one_zero_or_unknown() -> None:
    for values in ([1, 0, None, 2], ["true", "FALSE", "", "fraud"], [1.0, 0.0, np.nan, 0.5], ["1", "0.0", "nan", "-1"]):
        checked = one(pd.Series(values, dtype=object), kind="label")
        assert checked.rows["x"].tolist() == [1, 0, -1] and checked.rows["x"].dtype == np.int8
        assert "is not a label" in reasons(checked)[3]


def test_names_read_the_same_from_every_type() -> None:
    holders = [
        [123, 7],
        [123.0, 7.0],
        ["123", "7"],
        [" 123 ", "7.0"],
        pd.Series(["123", "7"], dtype="category"),
        pd.Series([123, "7"], dtype=object),
        pd.Series([123, 7], dtype="Int64"),
        pd.Series([np.int32(123), np.float64(7)], dtype=object),
    ]
    for values in holders:
        assert one(values, kind="entity").rows["x"].tolist() == ["123", "7"]
    assert one([6011878330987374, 4440117541542814204], kind="entity").rows["x"].tolist()[1] == "4440117541542814204"
    assert one(["007", "v1.0", "1.50"], kind="entity").rows["x"].tolist() == ["007", "v1.0", "1.50"]


def test_missing_text_is_quarantined_or_kept_as_missing() -> None:
    for values in (["a", "", None, "  "], pd.Series(["a", None, None, None], dtype="category")):
        assert one(values, kind="categorical").rows["x"].tolist() == ["a"]
        assert one(values, kind="categorical", nullable=True).rows["x"].isna().tolist() == [False, True, True, True]
    assert one([1.0, np.nan], kind="entity", nullable=True).rows["x"].isna().tolist() == [False, True]
    assert one(["NA", "null"], kind="categorical").rows["x"].tolist() == ["NA", "null"]  # Namibia is a country


def test_closed_categories_reject_others() -> None:
    checked = one(["a", "b", "c"], kind="categorical", categories=("a", "b"))

    assert checked.rows["x"].tolist() == ["a", "b"]
    assert reasons(checked) == {2: "is not one of a, b"}


def test_duplicate_ids_keep_the_first_good_row() -> None:
    schema = Schema(name="s", columns=(Column(name="id", kind="id"), Column(name="x", kind="numeric")))
    frame = pd.DataFrame({"id": [1, 2, 1, 3, 3], "x": [1.0, 2.0, 3.0, np.nan, 5.0]})

    checked = validate(frame, schema)

    assert checked.rows["id"].tolist() == ["1", "2", "3"]
    assert checked.rows["x"].tolist() == [1.0, 2.0, 5.0]  # the corrected row 3 stands in for the rejected one
    assert "repeats the id" in reasons(checked)[2] and "is missing" in reasons(checked)[3]


def test_ids_stay_unique_across_pieces() -> None:
    schema = Schema(name="s", columns=(Column(name="id", kind="id"), Column(name="x", kind="numeric")))
    validator = Validator(schema)
    pieces = [["a", "b"], ["c", "a"], ["b", "d", "d"], ["c", "e"]]
    unique, start = [], 0
    for ids in pieces:
        checked = validator.check(pd.DataFrame({"id": ids, "x": 1.0}), first_row=start)
        unique += checked.rows["id"].tolist()
        start += len(ids)

    assert unique == ["a", "b", "c", "d", "e"]


def test_times_are_utc_microseconds() -> None:
    instant = np.datetime64("2018-04-01T10:30:00", "us")
    for values in (
        ["2018-04-01 10:30:00"],
        ["2018-04-01T12:30:00+02:00"],
        ["2018-04-01T10:30:00Z"],
        pd.Series(pd.to_datetime(["2018-04-01 10:30"])).astype("datetime64[ns]"),
        pd.Series(pd.to_datetime(["2018-04-01 12:30+02:00"], utc=False)),
        pd.Series([datetime.datetime(2018, 4, 1, 10, 30)], dtype=object),
    ):
        rows = one(values, kind="timestamp").rows["x"]
        assert rows.dtype == np.dtype("datetime64[us]") and rows.to_numpy()[0] == instant
    assert one([datetime.date(2018, 4, 1)], kind="timestamp").rows["x"].to_numpy()[0] == np.datetime64("2018-04-01")


@pytest.mark.parametrize(("unit", "number"), [("s", 1.5), ("ms", 1500), ("us", 1_500_000), ("ns", 1_500_000_000)])
def test_times_as_numbers_follow_the_unit(unit: str, number: float) -> None:
    checked = one([number, np.nan, np.inf, 1e300], kind="timestamp", unit=unit)

    assert checked.rows["x"].to_numpy()[0] == np.datetime64("1970-01-01T00:00:01.5", "us")
    assert "missing" in reasons(checked)[1] and "outside the years" in reasons(checked)[2] == reasons(checked)[3]
    assert one([str(number)], kind="timestamp", unit=unit).rows["x"].equals(checked.rows["x"])


def test_odd_times_have_their_own_reasons() -> None:
    values = ["2018-04-01", "yesterday", "1533945600", "31/12/2018", "", "1066-10-14", "2018-13-01", "20180401"]

    by_row = reasons(one(values, kind="timestamp"))

    assert sorted(by_row) == [1, 2, 3, 4, 5, 6, 7]
    assert all("ISO 8601" in by_row[row] for row in (1, 3, 6))
    assert "bare number" in by_row[2] and "bare number" in by_row[7] and "missing" in by_row[4] and "1900" in by_row[5]
    assert reasons(one([1533945600], kind="timestamp"))[0].startswith("is a bare number")
    assert one(["2018-04-01", ""], kind="timestamp", nullable=True).rows["x"].isna().tolist() == [False, True]


def test_mixed_time_zones_keep_the_ones_that_say_which() -> None:
    checked = one(["2018-04-01 10:00", "2018-04-01T10:00+02:00", "2018-04-01T10:00Z"], kind="timestamp")

    assert checked.rows["x"].dt.hour.tolist() == [8, 10]
    assert reasons(checked) == {0: "has no time zone where other rows have a zone; write all times alike"}


def test_time_zones_must_agree_across_pieces() -> None:
    schema = Schema(name="s", columns=(Column(name="t", kind="timestamp"), Column(name="x", kind="numeric")))
    validator = Validator(schema)

    first = validator.check(pd.DataFrame({"t": ["2018-04-01 10:00"], "x": 1.0}))
    second = validator.check(pd.DataFrame({"t": ["2018-04-01T10:00Z", "2018-04-02 10:00"], "x": 1.0}), first_row=1)

    assert len(first.rows) == 1 and second.rows.index.tolist() == [2]
    assert "has a time zone where other rows have no zone" in reasons(second)[1]


def test_every_row_is_good_or_quarantined_once() -> None:
    rng = np.random.default_rng(3)
    n = 2_000
    pool = np.array(["1", "2.5", "abc", "", "inf", "1e300", "-1", "23", "NaN", "true"], dtype=object)
    frame = pd.DataFrame({name: rng.choice(pool, n, p=[0.6, *[0.4 / 9] * 9]) for name in table().columns})

    checked = validate(frame, Schema.load("transactions"))

    assert sorted([*checked.rows.index, *checked.quarantine["row"]]) == list(range(n))
    assert (checked.quarantine["reason"].str.len() > 0).all()
    assert 0 < len(checked.rows) < n
    assert np.isfinite(checked.rows.drop(columns="is_fraud").to_numpy()).all()


def test_an_empty_table_gives_empty_results() -> None:
    checked = validate(table().iloc[:0], Schema.load("transactions"))

    assert len(checked.rows) == 0 and len(checked.quarantine) == 0
    assert list(checked.quarantine.columns)[:4] == ["row", "column", "value", "reason"]


def test_the_callers_table_is_left_alone() -> None:
    frame = table()
    checked = validate(frame, Schema.load("transactions"))
    checked.rows.loc[0, "amount"] = -1.0

    assert frame.equals(table())


NOON = datetime.datetime(2026, 6, 15, 12, tzinfo=datetime.UTC)


def at_noon(values: Any, **column: Any) -> Validated:
    """Check a column of times x by a clock that shows `NOON`."""
    schema = Schema(name="s", columns=(Column(name="x", kind="timestamp", **column), Column(name="n", kind="numeric")))
    return validate(pd.DataFrame({"x": values, "n": 1.0}), schema, now=NOON.timestamp())


def test_times_far_from_the_clock_are_refused_with_value_limit_and_remedy() -> None:
    checked = at_noon(["2026-06-16T12:00:00Z", "2026-06-16T12:00:01Z", "2099-01-01T00:00:00Z", "1990-01-01T00:00:00Z",
                       "1989-12-31T23:59:59Z"])  # fmt: skip

    assert checked.rows.index.tolist() == [0, 3], "the limits themselves are accepted"
    by_row = checked.quarantine.set_index("row")
    late = (
        "is later than 2026-06-16T12:00Z, 1 day ahead of this machine's clock; correct the time, its unit or the "
        "clock, or set a larger `horizon_days` for column 'x' in the schema"
    )
    early = (
        "is before 1990-01-01; correct the time or its unit, or set an earlier `oldest` for column 'x' in the schema"
    )
    assert by_row["reason"].to_dict() == {1: late, 2: late, 4: early}
    assert by_row["value"][2] == "2099-01-01T00:00:00Z"


def test_the_schema_sets_how_far_a_time_may_lie_from_the_clock() -> None:
    times = ["1970-01-01", "1999-12-31", "2026-06-22", "2026-06-23"]

    assert at_noon(times, oldest="1970-01-01", horizon_days=7).rows.index.tolist() == [0, 1, 2]
    assert at_noon(times, oldest="2000-01-01", horizon_days=0).rows.empty
    assert "7 days ahead" in at_noon(times, horizon_days=7).quarantine["reason"].tolist()[-1]


def test_elapsed_time_has_no_lower_limit_and_a_unit_that_changes_has_one() -> None:
    elapsed = [0.0, 406.0, 172_792.0]
    assert at_noon(elapsed, unit="s").rows.index.tolist() == [0, 1, 2]

    seconds, milliseconds = 1_767_231_458, 1_767_231_458_000
    checked = at_noon([milliseconds, seconds, milliseconds + 1], unit="ms", oldest="1990-01-01")
    assert checked.rows.index.tolist() == [0, 2] and "before 1990-01-01" in reasons(checked)[1]
    assert "outside the years" in reasons(at_noon([seconds, milliseconds], unit="s"))[1]


def test_a_missing_time_is_neither_too_early_nor_too_late() -> None:
    assert at_noon(["2026-01-01", None], nullable=True).rows.index.tolist() == [0, 1]
