"""Every sentence that a reason can say, word for word."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fraud.detectors import features
from fraud.detectors.features import FeatureConfig
from fraud.schema import Schema
from fraud.schema.columns import Column, History
from fraud.scoring import reason_numbers
from fraud.scoring.reason_text import Describer, Description

VALUED = ("sum", "mean", "std", "max", "ratio", "zscore")
SCHEMA = Schema(
    name="shop",
    label_delay_days=7,
    columns=(
        Column(name="when", kind="timestamp", calendar=("hour", "weekday", "weekend", "night")),
        Column(name="card", kind="entity", nullable=True),
        Column(name="terminal", kind="entity"),
        Column(name="amount", kind="numeric", minimum=0, transform="log", nullable=True),
        Column(name="balance", kind="numeric", transform="signed_log"),
        Column(name="abroad", kind="boolean", nullable=True),
        Column(name="merchant", kind="categorical", nullable=True),
        Column(name="latitude", kind="numeric"),
        Column(name="longitude", kind="numeric"),
        Column(name="fraud", kind="label"),
    ),
    history=(
        History(entity="card", windows=("1h", "30d"), value="amount", statistics=("count", *VALUED)),
        History(entity="card", windows=("30d",), value="balance", statistics=("ratio", "zscore")),
        History(entity="card", windows=("1d",), value="latitude", statistics=("zscore",)),
        History(entity="card", windows=("1d", "30d"), of="merchant", statistics=("distinct", "first_seen")),
        History(
            entity="card",
            location=("latitude", "longitude"),
            statistics=("time_since_last", "distance_from_last", "speed_from_last"),
        ),
        History(entity="terminal", windows=("1d", "7d"), statistics=("risk", "frauds")),
        History(entity="card", windows=("30d",), statistics=("risk",)),
    ),
)
USUAL = {
    "amount": 38.2,
    "balance": 1250.0,
    "count by card (1h)": 1.0,
    "count by card (30d)": 40.0,
    "amount mean by card (30d)": 53.0,
    "amount ratio by card (1h)": 1.0,
    "amount ratio by card (30d)": 0.9,
    "balance ratio by card (30d)": 1.0,
    "merchant distinct by card (1d)": 2.0,
    "time_since_last by card": 11160.0,
    "distance_from_last by card": 12.0,
    "speed_from_last by card": 5.0,
    "risk by terminal (7d)": 0.001,
    "when hour sin": math.sin(math.tau * 14 / 24),
    "when hour cos": math.cos(math.tau * 14 / 24),
}
NAMES, COLUMNS = features.raw_names(SCHEMA)
ROW = {"card": "c", "terminal": "t", "merchant": "a"}
SUNDAY_NIGHT = pd.Timestamp("2026-03-01T03:12:40").value / 1e3


@pytest.fixture(scope="module")
def describer() -> Describer:
    """Of 5,000 rows that are all alike, but for one of merchant b."""
    raw = np.tile([USUAL.get(name, 0.0) for name in NAMES], (5000, 1))
    raw[-1, NAMES.index("merchant")] = 1.0
    fitted = features.fit(raw, SCHEMA, {"merchant": ("a", "b")}, FeatureConfig())
    scale = np.array([0.01 if name.startswith("risk") else 1.0 for name in NAMES])  # shares vary little
    return Describer(SCHEMA, replace(fitted, scale=scale))


def described(
    describer: Describer, column: str, changed: dict[str, float], row: dict[str, object] | None = None
) -> Description:
    """The description of a column of the usual row with other raw features."""
    raw = [(USUAL | changed).get(name, 0.0) for name in NAMES]
    return describer.describe(list(dict.fromkeys(COLUMNS)).index(column), raw, ROW | (row or {}), SUNDAY_NIGHT)


@pytest.mark.parametrize(
    ("column", "changed", "text"),
    [
        ("amount", {"amount": 412.0}, "amount 412 is above the usual 38.20"),
        ("amount", {"amount": 1.5}, "amount 1.50 is below the usual 38.20"),
        ("amount", {"amount": np.nan}, "amount is missing (usually 38.20)"),
        ("amount", {}, "amount 38.20 is the usual 38.20"),
        ("balance", {"balance": -1234567.25}, "balance -1,234,567.25 is below the usual 1,250"),
        ("abroad", {"abroad": 1.0}, "abroad is true (usually false)"),
        ("abroad", {"abroad": np.nan}, "abroad is missing (usually false)"),
        ("card", {"count by card (1h)": 9.0}, "9 earlier transactions of this card in the last 1h (usually 1)"),
        ("card", {"count by card (30d)": 0.0}, "no earlier transaction of this card in the last 30d (usually 40)"),
        (
            "amount",
            {"amount sum by card (1h)": 1234.5},
            "this card's total amount in the last 1h is 1,230, above the usual 0",
        ),
        (
            "amount",
            {"amount mean by card (30d)": 7.25},
            "this card's mean amount in the last 30d is 7.25, below the usual 53",
        ),
        (
            "amount",
            {"amount std by card (1h)": 80.25},
            "this card's standard deviation of amount in the last 1h is 80.2, above the usual 0",
        ),
        (
            "amount",
            {"amount max by card (30d)": 900.0},
            "this card's largest amount in the last 30d is 900, above the usual 0",
        ),
        (
            "amount",
            {"amount": 412.0, "amount zscore by card (30d)": 6.3, "amount mean by card (30d)": 38.2},
            "amount 412 is 6.3 σ above this card's 30d mean of 38.2",
        ),
        (
            "amount",
            {"amount ratio by card (30d)": 1e5, "amount mean by card (30d)": 38.2},
            "amount 38.20 is 100,000 times this card's 30d mean of 38.2 (usually 0.9)",
        ),
        # Without a mean in the schema the ratio gives it; with neither, the sentence does without.
        (
            "balance",
            {"balance": 1250.0, "balance zscore by card (30d)": -4.0, "balance ratio by card (30d)": 0.5},
            "balance 1,250 is 4 σ below this card's 30d mean of 2,500",
        ),
        (
            "latitude",
            {"latitude": 1.0, "latitude zscore by card (1d)": 4.25},
            "latitude 1 is 4.25 σ above this card's 1d mean",
        ),
        (
            "merchant",
            {"merchant distinct by card (1d)": 5.0},
            "5 different values of merchant for this card in the last 1d (usually 2)",
        ),
        (
            "merchant",
            {"merchant first_seen by card (30d)": 1.0},
            "first time within 30d that this card is seen with this merchant",
        ),
        ("card", {"time_since_last by card": 12.0}, "12 s after the last transaction of this card (usually 3.1 h)"),
        (
            "card",
            {"time_since_last by card": 37 * 86400.0},
            "no earlier transaction of this card in the last 37 days (usually 3.1 h ago)",
        ),
        ("latitude", {"distance_from_last by card": 842.3}, "842 km from the last place of this card (usually 12 km)"),
        (
            "latitude",
            {"speed_from_last by card": 1200.0},
            "1,200 km/h from the last place of this card (usually 5 km/h)",
        ),
        (
            "terminal",
            {"frauds by terminal (7d)": 3.0},
            "3 known frauds of this terminal in a 7d window, 7 days ago or earlier (usually 0)",
        ),
        (
            "terminal",
            {"risk by terminal (7d)": 3 / 5, "frauds by terminal (7d)": 3.0},
            "75 % (3 of 4) of this terminal's transactions in a 7d window, 7 days ago or earlier, were fraud "
            "(usually 0.1 %)",
        ),
        (
            "card",
            {"risk by card (30d)": 0.12},
            "at least 12 % of this card's transactions in a 30d window, 7 days ago or earlier, were fraud "
            "(usually 0 %)",
        ),
        ("when", {"when night": 1.0}, "at 03:12, at night (usually by day)"),
        ("when", {"when weekend": 1.0}, "on a Sunday (usually on a weekday)"),
        ("when", {"when weekday sin": 1.0}, "on a Sunday"),
        ("when", {"when hour cos": 1.0}, "at 03:12, at night (usually about 14:00)"),
    ],
)
def test_sentences(describer: Describer, column: str, changed: dict[str, float], text: str) -> None:
    assert described(describer, column, changed).text == text


def test_categories(describer: Describer) -> None:
    rare = described(describer, "merchant", {"merchant": 1.0}, {"merchant": "b"})
    assert rare == ("merchant", "b", "a", "merchant 'b' appears in 0.02 % of the training rows (usually 'a')")
    new = described(describer, "merchant", {"merchant": 2.0}, {"merchant": "z"})
    assert new == ("merchant", "z", "a", "merchant 'z' appears in none of the training rows (usually 'a')")
    missing = described(describer, "merchant", {"merchant": 2.0}, {"merchant": None})
    assert missing == ("merchant", None, "a", "merchant is missing (usually 'a')")


def test_a_missing_entity_is_described(describer: Describer) -> None:
    description = described(
        describer, "card", {"count by card (1h)": 0.0, "time_since_last by card": 1.0}, {"card": None}
    )
    assert description.text == "card is missing, so its past is not known"


def test_a_first_amount_has_nothing_to_compare_with(describer: Describer) -> None:
    """With a usual ratio of 0.9 a ratio of exactly 1 is unusual, and either an equal amount or no earlier one."""
    description = described(describer, "amount", {"amount": 38.2, "amount ratio by card (30d)": 1.0})
    assert description.text == "amount 38.20 equals this card's 30d mean, or is its first in 30d"


def test_the_longest_window_that_is_nearly_as_unusual_is_described(describer: Describer) -> None:
    both = {"amount zscore by card (1h)": 29.0, "amount zscore by card (30d)": 15.0, "amount": 412.0}
    assert described(describer, "amount", both).feature == "amount zscore by card (30d)"
    far = {"amount zscore by card (1h)": 29.0, "amount zscore by card (30d)": 14.0, "amount": 412.0}
    assert described(describer, "amount", far).feature == "amount zscore by card (1h)"


def test_values_are_what_a_reader_knows(describer: Describer) -> None:
    """No sine or cosine, no code, no noise of float32."""
    assert described(describer, "when", {"when hour cos": 1.0})[:3] == ("when hour", "03:12", "14:00")
    assert described(describer, "when", {"when night": 1.0})[:3] == ("when night", "at night", "by day")
    assert described(describer, "when", {"when weekday sin": 1.0})[:3] == ("when weekday", "Sunday", None)
    assert described(describer, "amount", {"amount": np.nan})[:3] == ("amount", None, 38.2)
    largest = {"amount max by card (1h)": float(np.float32(186.83))}
    assert described(describer, "amount", largest)[:3] == ("amount max by card (1h)", 186.83, 0.0)


def test_numbers_read_as_their_examples_say() -> None:
    assert doctest.testmod(reason_numbers).failed == 0


def test_a_reason_tells_the_time_on_the_clocks_of_the_zone(describer: Describer) -> None:
    tokyo = Describer(replace(SCHEMA, day_zone="Asia/Tokyo"), describer._features)
    assert described(tokyo, "when", {"when hour cos": 1.0}).text == "at 12:12 (usually about 14:00)"


def test_every_minute_of_a_day_is_told_as_the_clock_shows_it(describer: Describer) -> None:
    column, raw = list(dict.fromkeys(COLUMNS)).index("when"), [USUAL.get(name, 0.0) for name in NAMES]
    raw[NAMES.index("when hour cos")] = 1.0
    for minute in range(1440):
        moment = pd.Timestamp("2026-03-02") + pd.Timedelta(minutes=minute)
        text = describer.describe(column, raw, ROW, moment.value / 1e3).text
        assert text.startswith(f"at {moment:%H:%M}"), text
