"""Rankings are judged as scikit-learn judges them, and ties as the average over every way of breaking them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud.errors import ConfigError, DataError
from fraud.metrics import measures
from fraud.metrics.ranking import largest_count, rank

# Few distinct scores, so that ties are the rule.
windows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def _arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.array(rows).T
    return labels, scores / 7


@given(windows)
@settings(max_examples=150, deadline=None)
def test_average_precision_and_auc_equal_scikit_learn_with_ties(rows):
    labels, scores = _arrays(rows)
    figures = measures.evaluate(labels, scores)
    assert figures["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    assert figures["roc_auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert figures["average_precision"] == pytest.approx(measures.average_precision(labels, scores))
    assert figures["roc_auc"] == pytest.approx(measures.roc_auc(labels, scores))


@given(windows.filter(lambda rows: len(rows) <= 7), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_precision_at_k_is_the_mean_over_every_order_of_the_rows(rows, k):
    labels, scores = _arrays(rows)
    k = min(k, labels.size)
    hits = []
    for shuffled in itertools.permutations(range(labels.size)):
        rows_in_order = np.array(shuffled)
        top = rows_in_order[np.argsort(-scores[rows_in_order], kind="stable")][:k]
        hits.append(labels[top].mean())
    assert measures.precision_at_k(labels, scores, k) == pytest.approx(np.mean(hits))


def test_precision_at_k_divides_by_the_rows_there_are():
    assert measures.precision_at_k([1, 0], [0.9, 0.1], k=100) == 0.5


def test_recall_at_budget_counts_a_group_of_ties_by_its_share():
    labels = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    # Two alerts: the one at 0.9, and one of four rows at 0.8 of which one is a fraud.
    scores = [0.9, 0.8, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert measures.recall_at_budget(labels, scores, 0.2) == pytest.approx((1 + 0.25) / 2)


def test_amount_recall_counts_the_money_and_not_the_frauds():
    figures = measures.evaluate([1, 1, 0, 0], [0.9, 0.1, 0.5, 0.4], budget=0.25, k=1, amounts=[30, 10, -5, np.nan])
    assert figures["recall_at_budget"] == 0.5
    assert figures["amount_recall_at_budget"] == 0.75
    assert figures["precision_at_1"] == 1.0


def test_rows_with_an_unknown_label_are_left_out():
    known = measures.evaluate([1, 0, 0], [0.9, 0.2, 0.1], amounts=[5, 1, 1])
    assert measures.evaluate([1, -1, 0, 0, -1], [0.9, 1.0, 0.2, 0.1, 0.0], amounts=[5, 9, 1, 1, 9]) == known
    assert known["n_rows"] == 3 and known["n_frauds"] == 1


@pytest.mark.parametrize(
    ("labels", "n_rows", "n_frauds"), [([0, 0], 2, 0), ([1, 1], 2, 2), ([-1, -1], 0, 0), ([], 0, 0)]
)
def test_one_class_leaves_only_the_counts(labels, n_rows, n_frauds):
    assert measures.evaluate(labels, [0.5] * len(labels)) == {"n_rows": n_rows, "n_frauds": n_frauds}
    with pytest.raises(DataError, match="longer window"):
        rank(labels, [0.5] * len(labels))


def test_bad_arrays_are_refused_by_row():
    with pytest.raises(DataError, match=r"score of row 1 is nan \(2 of 3"):
        measures.evaluate([0, 1, 1], [0.1, np.nan, np.inf])
    with pytest.raises(DataError, match="label of row 2 is '2'"):
        measures.evaluate([0, 1, 2], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="one label a score"):
        measures.evaluate([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="one score a row"):
        measures.evaluate([0, 1], [[0.1], [0.2]])
    with pytest.raises(DataError, match="amount of row 1, a fraud, is -3"):
        measures.evaluate([0, 1], [0.1, 0.2], amounts=[1, -3])
    with pytest.raises(DataError, match="one amount a row"):
        measures.evaluate([0, 1], [0.1, 0.2], amounts=[1])


@pytest.mark.parametrize("options", [{"budget": 0}, {"budget": 1.5}, {"k": 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="out of range"):
        measures.evaluate([0, 1], [0.1, 0.2], **options)


def test_at_threshold_counts_ties_at_the_threshold_as_alerts():
    figures = measures.at_threshold([1, 0, 1, 0, -1], [0.9, 0.5, 0.5, 0.1, 0.7], 0.5)
    assert figures == {"alerts": 4, "alert_rate": 0.8, "precision": 2 / 3, "recall": 1.0, "f1": 0.8}
    assert measures.at_threshold([1, 0], [0.9, 0.5], 2.0) == {"alerts": 0, "alert_rate": 0, "recall": 0, "f1": 0}
    assert measures.at_threshold(None, [0.9, 0.5], 0.6) == {"alerts": 1, "alert_rate": 0.5}
    with pytest.raises(DataError, match="no scores"):
        measures.at_threshold([], [], 0.5)


def test_largest_count_is_exact_where_floating_point_is_not():
    assert [largest_count(share, 100) for share in (0.29, 0.57, 0.58, 0.005, 1.0)] == [29, 57, 58, 0, 100]


def _handbook_card_precision(labels, scores, cards, days, k):
    """The handbook's own loop, without ties."""
    detected, precisions = set(), []
    for day in sorted(set(days)):
        by_card = {}
        for row in np.flatnonzero(np.asarray(days) == day):
            if cards[row] not in detected:
                score, fraud = by_card.get(cards[row], (-1.0, 0))
                by_card[cards[row]] = (max(score, scores[row]), max(fraud, labels[row]))
        top = sorted(by_card, key=lambda card: -by_card[card][0])[:k]
        compromised = [card for card in top if by_card[card][1] == 1]
        detected.update(compromised)
        precisions.append(len(compromised) / k)
    return np.mean(precisions)


def test_card_precision_equals_the_handbook_loop():
    rng = np.random.default_rng(0)
    labels, cards, days = rng.random(3000) < 0.1, rng.integers(0, 200, 3000), rng.integers(10, 17, 3000)
    scores = rng.permutation(3000) / 3000 + labels * 0.3
    expected = _handbook_card_precision(labels.astype(int), scores, cards, days, 30)
    assert measures.card_precision_at_k(labels, scores, cards, days, k=30) == pytest.approx(expected)
    dates = np.datetime64("2018-08-01") + days
    assert measures.card_precision_at_k(labels, scores, cards.astype(str), dates, k=30) == pytest.approx(expected)


def test_card_precision_drops_detected_and_known_cards_and_shares_ties():
    labels, cards, days = [1, 0, 1, 0], ["a", "b", "a", "b"], [1, 1, 2, 2]
    # "a" is found on day 1, so on day 2 only "b" is left.
    assert measures.card_precision_at_k(labels, [0.9, 0.1, 0.9, 0.1], cards, days, k=1) == 0.5
    assert measures.card_precision_at_k(labels, [0.9, 0.1, 0.9, 0.1], cards, days, k=1, known=["a"]) == 0.0
    # Tied with "b", "a" is found with one chance in two, and stays in play on day 2.
    assert measures.card_precision_at_k(labels, [0.5, 0.5, 0.9, 0.1], cards, days, k=1) == 0.75
    # Rows without a label or a card do not count.
    assert measures.card_precision_at_k([1, -1, 1], [0.1, 0.9, 0.8], ["a", "b", None], [1, 1, 1], k=1) == 1.0
    with pytest.raises(DataError, match="longer window"):
        measures.card_precision_at_k([-1], [0.5], ["a"], [1])
    with pytest.raises(DataError, match="days have shape"):
        measures.card_precision_at_k([1, 0], [0.5, 0.1], ["a", "b"], [1])


def test_bootstrap_brackets_the_figure_and_repeats_with_its_seed():
    rng = np.random.default_rng(3)
    labels = rng.random(4000) < 0.05
    scores = np.round(rng.normal(size=4000) + 1.5 * labels, 2)
    for name in ("average_precision", "roc_auc", "recall_at_budget", "precision_at_50"):
        low, high = measures.bootstrap(name, labels, scores, n=80, seed=1)
        assert (low, high) == measures.bootstrap(name, labels, scores, n=80, seed=1)
        assert (low, high) != measures.bootstrap(name, labels, scores, n=80, seed=2)
        value = measures.evaluate(labels, scores, k=50)[name]
        assert low < value < high
    narrow = measures.bootstrap("roc_auc", labels, scores, n=80, level=0.5)
    wide = measures.bootstrap("roc_auc", labels, scores, n=80, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_bootstrap_by_name_equals_bootstrap_by_function():
    rng = np.random.default_rng(5)
    labels = np.r_[rng.random(500) < 0.1, -np.ones(20)].astype(int)
    scores = np.round(rng.random(520), 1)
    by_name = measures.bootstrap("average_precision", labels, scores, n=50)
    assert by_name == pytest.approx(measures.bootstrap(average_precision_score, labels, scores, n=50))


def test_bootstrap_refuses_what_it_cannot_do():
    for name in ("accuracy", "precision_at_x", "precision_at_0"):
        with pytest.raises(ConfigError, match=name):
            measures.bootstrap(name, [0, 1], [0.1, 0.2])
    with pytest.raises(ConfigError, match="level"):
        measures.bootstrap("roc_auc", [0, 1], [0.1, 0.2], level=1.0)
    with pytest.raises(DataError, match="longer window"):
        measures.bootstrap("roc_auc", [0, 0], [0.1, 0.2])
