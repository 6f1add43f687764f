"""Reasons: contributions add up, requests and batches agree, and the planted column is named first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.detectors.head import HeadConfig
from fraud.schema import Column, Schema
from fraud.scoring.engine import Engine
from fraud.scoring.reasons import Explainer
from fraud.training import fitting
from tests.fraud.conftest import SMALL, Fitted

AMOUNTS = {"amount": 20_000.0, "distance": 8_000.0, "device_score": 0.99, "country_mismatch": 1.0}


def without_head(fitted: Fitted) -> Engine:
    """An engine of the two detectors alone."""
    calibration = replace(fitted.detector.calibration, final=None)
    return Engine(replace(fitted.detector, components=fitted.detector.without_labels, calibration=calibration))


@pytest.fixture(scope="module")
def five_columns(five_columns: Fitted) -> Fitted:
    """The same rows with a head of the shipped size, whose reasons are as clear as a user's."""
    config = replace(SMALL, head=HeadConfig())
    return Fitted(five_columns.rows, *fitting.fit_locally(five_columns.rows, five_columns.detector.schema, config))


@pytest.fixture(scope="module")
def with_categories(five_columns: Fitted) -> Fitted:
    """The five columns and a merchant, one of five that are known."""
    schema = five_columns.detector.schema
    merchant = Column(name="merchant", kind="categorical")
    schema = Schema(name="with merchant", columns=(*schema.columns, merchant))
    names = np.random.default_rng(3).choice(list("abcde"), len(five_columns.rows), p=[0.5, 0.25, 0.15, 0.06, 0.04])
    rows = five_columns.rows.assign(merchant=names)
    return Fitted(rows, *fitting.fit_locally(rows, schema, replace(SMALL, head=HeadConfig(use="never"))))


@settings(max_examples=150, deadline=None)
@given(
    amount=st.floats(0, 1e6),
    hour=st.integers(0, 23),
    distance=st.floats(0, 1e15),
    device_score=st.floats(0, 1),
    country_mismatch=st.booleans(),
)
def test_contributions_add_up_for_any_row(five_columns: Fitted, **values: float) -> None:
    for engine in (five_columns.engine, without_head(five_columns)):
        raw = engine.encode_row(values)[None]
        row, typical = engine.evidence(raw)[0, -1], engine.evidence(engine.detector.features.typical[None])[0, -1]
        contributions = engine.contributions(raw)
        assert contributions.shape == (1, len(engine.explained_columns)) == (1, 5)
        assert contributions.sum() == pytest.approx(row - typical, abs=1e-9)


def test_contributions_add_up_with_history_and_in_pieces(card_detector: Fitted) -> None:
    engine = without_head(card_detector)
    raw = engine.raw(card_detector.rows)[-500:]
    contributions = engine.contributions(raw)
    typical = engine.evidence(engine.detector.features.typical[None])[0, -1]
    np.testing.assert_allclose(contributions.sum(axis=1), engine.evidence(raw)[:, -1] - typical, rtol=0, atol=1e-9)
    assert (contributions < 0).any(), "a column may speak for a row"
    np.testing.assert_array_equal(engine.contributions(raw, chunk=1), contributions)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=5, max_size=5),
    st.lists(st.floats(-3, 3), min_size=10, max_size=10),
    st.floats(-2, 2),
)
def test_interactions_of_two_columns_are_halved(
    five_columns: Fitted, alone: list[float], pairs: list[float], base: float
) -> None:
    """Where columns interact in pairs at most, contributions are the Shapley values: alone, and half of each pair."""
    explainer = Explainer(five_columns.detector.features, five_columns.detector.schema)
    interaction = np.zeros((5, 5))
    interaction[np.triu_indices(5, 1)] = pairs
    interaction += interaction.T
    is_in = np.concatenate([np.ones((1, 5)), np.zeros((1, 5)), np.eye(5), 1 - np.eye(5)])
    evidence = base + is_in @ np.array(alone) + 0.5 * np.einsum("ki,ij,kj->k", is_in, interaction, is_in)
    expected = np.array(alone) + 0.5 * interaction.sum(axis=1)
    np.testing.assert_allclose(explainer.contributions(evidence)[0], expected, rtol=0, atol=1e-9)


def test_what_three_columns_do_together_is_divided_among_them(five_columns: Fitted) -> None:
    """Any of three columns alone gives all the evidence: a third each. Nothing at all: nothing."""
    explainer = Explainer(five_columns.detector.features, five_columns.detector.schema)
    is_in = np.concatenate([np.ones((1, 5)), np.zeros((1, 5)), np.eye(5), 1 - np.eye(5)])
    any_of_three = 3.0 * is_in[:, :3].max(axis=1)
    np.testing.assert_allclose(explainer.contributions(any_of_three)[0], [1, 1, 1, 0, 0], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(explainer.contributions(np.ones(12))[0], np.zeros(5))


@pytest.mark.parametrize("data", ["five", "cards", "categories"])
def test_a_request_says_what_a_batch_says(
    five_columns: Fitted, card_detector: Fitted, with_categories: Fitted, data: str
) -> None:
    fitted = {"five": five_columns, "cards": card_detector, "categories": with_categories}[data]
    engine, rows = without_head(fitted), fitted.rows.tail(200)
    if data == "cards":  # a request reads the history as of the training's end
        rows = rows.assign(TX_DATETIME=rows["TX_DATETIME"] + pd.Timedelta(days=1))
    raw = np.stack([engine.encode_row(row) for row in rows.to_dict("records")])
    batch = engine.reasons(rows, top=9, raw=raw)
    assert max(map(len, batch)) > 2
    for row, expected in zip(rows.to_dict("records"), batch, strict=True):
        _, reasons = engine.score_and_explain(row, top=9)
        assert reasons == expected


def test_only_columns_that_speak_against_the_row_are_listed(five_columns: Fitted) -> None:
    engine, rows = five_columns.engine, five_columns.rows.tail(200)
    contributions = engine.contributions(engine.raw(rows))
    for row, reasons in zip(contributions, engine.reasons(rows, top=5), strict=True):
        listed = [(reason.column, reason.contribution) for reason in reasons]
        expected = sorted(zip(engine.explained_columns, row, strict=True), key=lambda pair: -pair[1])
        assert listed == [(column, value) for column, value in expected if value > 0]
    assert all(len(reasons) <= 1 for reasons in engine.reasons(rows, top=1))


def first_is(engine: Engine, raw: np.ndarray, column: str) -> np.ndarray:
    """Whether the column is the first reason, bool (n_rows,)."""
    return engine.contributions(raw).argmax(axis=1) == engine.explained_columns.index(column)


@pytest.mark.parametrize("make", [Fitted.engine.fget, without_head], ids=["with head", "without head"])
def test_the_planted_column_comes_first(five_columns: Fitted, make: Callable[[Fitted], Engine]) -> None:
    engine = make(five_columns)
    assert (engine.detector.head is not None) == (make is not without_head)
    normal = five_columns.rows[five_columns.rows["is_fraud"] == 0].tail(300)
    hits = {}
    for column, value in AMOUNTS.items():
        ordinary = normal[normal["country_mismatch"] == 0] if column == "country_mismatch" else normal
        hits[column] = first_is(engine, engine.raw(ordinary.assign(**{column: value})), column)
    shares = {column: round(float(is_first.mean()), 3) for column, is_first in hits.items()}
    every = np.concatenate(list(hits.values()))
    assert len(every) > 1000 and every.mean() >= 0.95, shares
    assert min(shares.values()) > 0.85, shares


def test_a_planted_category_comes_first(with_categories: Fitted) -> None:
    engine = with_categories.engine
    normal = with_categories.rows[with_categories.rows["is_fraud"] == 0].tail(400)
    planted = normal.assign(merchant="never seen")
    is_first = first_is(engine, engine.raw(planted), "merchant")
    assert is_first.mean() >= 0.95
    reason = engine.reasons(planted.iloc[np.flatnonzero(is_first)[:1]], top=1)[0][0]
    assert reason.text == "merchant 'never seen' appears in none of the training rows (usually 'a')"


def in_turn(
    engine: Engine, rows: pd.DataFrame, places: np.ndarray, change: Callable[[pd.DataFrame, int], None]
) -> np.ndarray:
    """Raw features of the rows at `places`, each changed; in rounds of one row a customer, so that no plant is in
    another's history.
    """
    order, left = [], list(places)
    while left:
        now = pd.Series(left).groupby(rows["CUSTOMER_ID"].to_numpy()[left]).first().tolist()
        planted = rows.copy()
        for position in now:
            change(planted, position)
        order.append(engine.raw(planted)[now])
        left = sorted(set(left) - set(now))
    return np.concatenate(order)


@pytest.mark.parametrize("make", [Fitted.engine.fget, without_head], ids=["with head", "without head"])
def test_the_planted_column_comes_first_with_history(card_detector: Fitted, make: Callable[[Fitted], Engine]) -> None:
    """An amount far from the customer's own, a terminal with recent frauds, a customer with a burst of transactions."""
    engine, rows = make(card_detector), card_detector.rows
    names = engine.detector.features.names
    places = np.flatnonzero(rows["TX_FRAUD"].to_numpy() == 0)[-300:]
    raw = engine.raw(rows)
    times, terminals = rows["TX_DATETIME"].to_numpy(), rows["TERMINAL_ID"].to_numpy()
    risky = np.flatnonzero(raw[:, names.index("frauds by TERMINAL_ID (14d)")] >= 3)
    amount, terminal = (rows.columns.get_loc(name) for name in ("TX_AMOUNT", "TERMINAL_ID"))

    def spend(frame: pd.DataFrame, row: int) -> None:
        frame.iat[row, amount] = 20 * frame.iat[row, amount] + 500

    def visit(frame: pd.DataFrame, row: int) -> None:
        frame.iat[row, terminal] = terminals[risky[np.abs(times[risky] - times[row]).argmin()]]

    burst = raw[places]
    burst[:, [names.index(f"count by CUSTOMER_ID ({window})") for window in ("1h", "1d", "7d", "30d")]] += 25
    hits = {
        "TX_AMOUNT": first_is(engine, in_turn(engine, rows, places, spend), "TX_AMOUNT"),
        "TERMINAL_ID": first_is(engine, in_turn(engine, rows, places, visit), "TERMINAL_ID"),
        "CUSTOMER_ID": first_is(engine, burst, "CUSTOMER_ID"),
    }
    shares = {column: round(float(is_first.mean()), 3) for column, is_first in hits.items()}
    assert min(map(len, hits.values())) == 300
    assert np.mean(list(shares.values())) >= 0.95 and min(shares.values()) >= 0.9, shares


def test_a_terminal_and_an_amount_are_described_in_their_own_units(card_detector: Fitted) -> None:
    engine = card_detector.engine
    row = card_detector.rows.iloc[-1].to_dict()
    _, reasons = engine.score_and_explain(row | {"TX_AMOUNT": 4120.0})
    assert reasons[0].column == "TX_AMOUNT"
    assert reasons[0].text.startswith("TX_AMOUNT 4,120 is ") and "this CUSTOMER_ID's " in reasons[0].text
    rows = card_detector.rows.tail(2000)
    raw = engine.raw(card_detector.rows)[-2000:]
    texts = [reason.text for reasons in engine.reasons(rows, top=9, raw=raw) for reason in reasons]
    assert any(
        "of this TERMINAL_ID's transactions in a " in text and "were fraud (usually 0 %)" in text for text in texts
    )
    assert any(text.startswith("on a S") for text in texts)
    assert any(", at night (usually by day)" in text for text in texts)


def test_shares_of_categories_survive_the_bundle(with_categories: Fitted) -> None:
    shares = with_categories.detector.features.shares
    assert shares.sum() == pytest.approx(1.0)
    assert shares[:-1].min() > 0 and shares[-1] == 0 and (np.diff(shares) <= 0).all()
