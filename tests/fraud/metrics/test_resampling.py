"""Weighted figures equal those of rows written out; cards are drawn whole; the same seed pairs."""

from __future__ import annotations

import numpy as np
import pytest

from fraud.errors import ConfigError, DataError
from fraud.metrics import measures
from fraud.metrics.resampling import WeightedRanking, interval, measure_resamples, resample_weights, wilson


@pytest.fixture
def tied(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """2,000 rows with many equal scores, labels, and amounts."""
    labels = (rng.random(2_000) < 0.08).astype(np.int8)
    return labels, np.round(rng.normal(size=2_000) + labels, 1), rng.gamma(2.0, 50.0, 2_000)


@pytest.mark.parametrize("resampled", [False, True])
def test_figures_equal_those_of_the_rows_written_out(tied, rng: np.random.Generator, resampled: bool):
    labels, scores, amounts = tied
    weights = np.bincount(rng.integers(0, 2_000, 2_000), minlength=2_000) if resampled else None
    times = np.ones(2_000, np.int64) if weights is None else weights
    y, s, money = np.repeat(labels, times), np.repeat(scores, times), np.repeat(amounts, times)
    counted = WeightedRanking(labels, scores, amounts).count(weights)
    assert counted.average_precision() == pytest.approx(measures.average_precision(y, s))
    assert counted.roc_auc() == pytest.approx(measures.roc_auc(y, s))
    expected = measures.evaluate(y, s, budget=0.05, amounts=money)
    top = counted.top(100)
    assert top["recall"] == pytest.approx(expected["recall_at_budget"])
    assert top["amount_recall"] == pytest.approx(expected["amount_recall_at_budget"])
    above, figures = counted.above(1.0), measures.at_threshold(y, s, 1.0)
    assert {key: above[key] for key in ("alerts", "alert_rate", "precision", "recall")} == pytest.approx(
        {key: figures[key] for key in ("alerts", "alert_rate", "precision", "recall")}
    )
    assert above["false_positive_rate"] == pytest.approx((s[y == 0] >= 1.0).mean())
    assert above["amount_missed"] == pytest.approx(money[(y == 1) & (s < 1.0)].sum())
    assert counted.top(1e9)["alerts"] == 2_000


def test_one_class_cannot_be_ranked_and_a_resample_without_a_fraud_is_undefined():
    with pytest.raises(DataError, match="no fraud among 2"):
        WeightedRanking([0, 0], [0.1, 0.2])
    counted = WeightedRanking([0, 1], [0.1, 0.2]).count(np.array([2, 0]))
    assert np.isnan(counted.average_precision()) and np.isnan(counted.above(0.15)["recall"])


def test_rows_of_a_card_are_drawn_together():
    cards = np.repeat(np.arange(50), 4)
    for weights in resample_weights(200, 20, seed=1, clusters=cards):
        assert (weights.reshape(50, 4) == weights.reshape(50, 4)[:, :1]).all() and weights.sum() == 200
    with pytest.raises(ConfigError, match="at least 1"):
        list(resample_weights(10, 0, seed=1))


def test_drawing_cards_widens_the_interval_of_frauds_that_stand_together(rng: np.random.Generator):
    cards = np.repeat(np.arange(200), 20)
    bad = rng.random(200) < 0.1
    labels = bad[cards].astype(np.int8)
    is_detected = rng.random(200) < 0.5  # a card's frauds are found together or not at all
    scores = rng.random(4_000) + np.where(labels & is_detected[cards], 2.0, 0.0)
    ranked = WeightedRanking(labels, scores)

    def width(clusters: np.ndarray | None) -> float:
        _, drawn = measure_resamples(
            lambda w: {"r": ranked.count(w).above(1.5)["recall"]}, resample_weights(4_000, 100, 0, clusters)
        )
        low, high = interval(drawn["r"]) or (0.0, 0.0)
        return high - low

    assert width(cards) > 2 * width(None)


def test_same_seed_same_resamples_and_pairing_narrows_a_difference(tied, rng: np.random.Generator):
    labels, scores, _ = tied
    nearly = scores + rng.normal(size=scores.size) * 0.01
    a, b = WeightedRanking(labels, scores), WeightedRanking(labels, nearly)

    def measure(weights):
        return {"a": a.count(weights).average_precision(), "b": b.count(weights).average_precision()}

    _, drawn = measure_resamples(measure, resample_weights(2_000, 60, seed=3))
    _, again = measure_resamples(measure, resample_weights(2_000, 60, seed=3))
    np.testing.assert_array_equal(drawn["a"], again["a"])
    assert np.std(drawn["a"] - drawn["b"]) < np.std(drawn["a"]) / 3


def test_intervals_of_little():
    assert interval([np.nan, np.nan, 1.0]) is None and wilson(0, 0) is None
    low, high = wilson(0, 10) or (None, None)
    assert low == 0.0 and high == pytest.approx(0.2775, abs=1e-3)  # Wilson, 1927: not zero, as Wald would say
