"""A grid of thresholds is what choosing and measuring one by one gives, and no cut is judged where it was chosen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fraud.errors import ConfigError, DataError
from fraud.thresholds.grid import FRAUDS_A_HALF, Grid, evaluate
from fraud.thresholds.selection import ThresholdConfig, choose, measure

BEST_F1 = ThresholdConfig(policy="best_f1")
COST = ThresholdConfig(policy="cost", cost_false_positive=4, cost_true_positive=1, amount_column="amount")
POLICIES = [
    BEST_F1,
    *[ThresholdConfig(policy="f_beta", beta=beta) for beta in (0.25, 1.0, 3.0)],
    *[ThresholdConfig(policy="alert_budget", budget=budget) for budget in (0.001, 0.02, 1.0)],
    ThresholdConfig(policy="alert_budget", alerts_per_day=20),
    *[ThresholdConfig(policy="precision_at_least", precision=precision) for precision in (0.3, 0.999)],
    ThresholdConfig(policy="cost", cost_false_negative=50),
    COST,
]
CONFIGS = [replace(policy, contamination=limit) for policy in POLICIES for limit in (None, 0.0005, 0.01, 0.05)]


def _window(n=3000, seed=0, rate=0.02, decimals=3):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < rate).astype(np.int8)
    scores = np.round(1 / (1 + np.exp(-rng.normal(size=n) - 2.5 * labels)), decimals)
    labels[rng.random(n) < 0.1] = -1
    return labels, scores, rng.gamma(1.0, 80.0, n)


def _figure(judge, figures):
    if judge.policy == "cost":
        return -figures["cost"]
    return figures["f1" if judge.beta == 1 else "f_beta"]


def _one_by_one(scores, labels, config, judge, days, amounts):
    """Both halves, by the plain functions: the judge's mean figure, and the counts of both together."""
    frauds = np.flatnonzero(labels == 1)
    middle = (frauds[frauds.size // 2 - 1] + frauds[frauds.size // 2] + 1) // 2
    first, second = slice(0, middle), slice(middle, None)
    judged, alerts, hits, called = [], 0, 0, 0
    for train, test in ((first, second), (second, first)):
        chosen = choose(
            scores[train], labels[train], config, window={}, days=days * scores[train].size / scores.size, resamples=0,
            amounts=amounts[train] if config.amount_column else None,
        )  # fmt: skip
        figures = measure(
            scores[test],
            labels[test],
            chosen.value,
            judge,
            amounts=amounts[test] if judge.amount_column else None,
        )
        known = (labels[test] >= 0).sum()
        judged.append(_figure(judge, figures) * (1000 / known if judge.policy == "cost" else 1))
        decided = scores[test] >= chosen.value
        alerts += decided.sum()
        hits += (decided & (labels[test] == 1)).sum()
        called += (decided & (labels[test] >= 0)).sum()
    return np.mean(judged), alerts / scores.size, hits / called if called else None, hits / frauds.size


@pytest.mark.parametrize("judge", [BEST_F1, ThresholdConfig(beta=2.0), ThresholdConfig(policy="cost"), COST])
def test_equals_choosing_and_measuring_one_by_one(judge):
    labels, scores, amounts = _window()
    grid = evaluate(scores, labels, CONFIGS, judge, days=9.0, amounts=amounts)
    assert [point.config for point in grid.points] == CONFIGS and grid.note == ""
    for point in grid.points:
        judged, alert_rate, precision, recall = _one_by_one(scores, labels, point.config, judge, 9.0, amounts)
        assert point.judged == pytest.approx(judged)
        assert (point.alert_rate, point.precision, point.recall) == (alert_rate, precision, recall)
        on_all_rows = choose(
            scores, labels, point.config, window={}, days=9.0, resamples=0,
            amounts=amounts if point.config.amount_column else None,
        )  # fmt: skip
        assert point.value == on_all_rows.value
    assert grid.points[grid.best].judged == max(point.judged for point in grid.points)


def test_a_cut_is_never_judged_where_it_was_chosen():
    labels, scores, _ = _window(decimals=12)
    before = evaluate(scores, labels, [BEST_F1], BEST_F1).points[0]
    in_sample = choose(scores, labels, BEST_F1, window={}, resamples=0).achieved["f1"]
    assert before.judged < in_sample
    # Noise that any cut can be bent to: in sample it looks better than alerting on everything, out of sample it is not.
    noise = np.random.default_rng(1).random(labels.size)
    assert evaluate(noise, labels, [BEST_F1], BEST_F1).points[0].judged < choose(
        noise, labels, BEST_F1, window={}, resamples=0
    ).achieved["f1"]  # fmt: skip


def test_few_frauds_are_judged_in_sample_with_a_note():
    labels, scores, _ = _window(400, rate=0.03)
    assert 0 < (labels == 1).sum() < 2 * FRAUDS_A_HALF
    grid = evaluate(scores, labels, CONFIGS[:8], BEST_F1)
    assert "frauds, fewer than 20" in grid.note and "chosen on" in grid.note
    for point in grid.points:
        assert point.judged == pytest.approx(measure(scores, labels, point.value, BEST_F1)["f1"])
    lopsided = np.r_[np.ones(30, np.int8), np.zeros(1, np.int8)]
    assert "legitimate rows in one half" in evaluate(np.arange(31) / 31, lopsided, [BEST_F1], BEST_F1).note


@pytest.mark.parametrize("labels", [None, -np.ones(500, np.int8), np.zeros(500, np.int8), np.ones(500, np.int8)])
def test_without_labels_only_alert_budgets_are_left_and_none_is_judged(labels):
    scores = np.random.default_rng(0).random(500)
    grid = evaluate(scores, labels, CONFIGS, BEST_F1, days=2.0)
    assert {point.config.policy for point in grid.points} == {"alert_budget"} and len(grid.points) == 16
    assert grid.best is None and "32 combinations need labels" in grid.note
    for point in grid.points:
        assert point.judged is point.precision is point.recall is None
        chosen = choose(scores, labels, point.config, window={}, days=2.0, resamples=0)
        assert point.value == chosen.value
    json.dumps(grid.to_dict(), allow_nan=False)
    assert evaluate(scores, labels, [BEST_F1], BEST_F1).points == ()


def test_of_equal_combinations_the_one_with_fewest_alerts_is_best():
    rows = np.tile([0.9, 0.8, 0.1, 0.1], 40)
    labels = np.tile(np.array([1, -1, 0, 0], np.int8), 40)  # an unknown row costs nothing, and is an alert all the same
    budgets = [ThresholdConfig(policy="alert_budget", budget=share) for share in (0.6, 0.3)]
    grid = evaluate(rows, labels, budgets, BEST_F1)
    assert grid.points[0].judged == grid.points[1].judged == 1.0
    assert grid.best == 1 and grid.points[1].alert_rate == 0.25


def test_a_grid_is_json_with_the_settings_that_count():
    labels, scores, amounts = _window()
    grid = evaluate(scores, labels, CONFIGS, ThresholdConfig(beta=0.5), days=3.0, amounts=amounts)
    written = json.loads(json.dumps(grid.to_dict(), allow_nan=False))
    assert written["judge"] == "F-beta (beta 0.5)" and written["best"] == grid.best and written["seconds"] > 0
    assert set(written["points"][0]) == {
        "policy", "setting", "contamination", "judged", "alert_rate", "precision", "recall", "value"
    }  # fmt: skip
    settings = [point["setting"] for point in written["points"][::4]]
    assert settings[:5] == [{}, {"beta": 0.25}, {"beta": 1.0}, {"beta": 3.0}, {"budget": 0.001}]
    assert settings[7:9] == [{"alerts_per_day": 20}, {"precision": 0.3}]
    assert settings[10] == {"cost_false_positive": 5.0, "cost_false_negative": 50}
    assert settings[11] == {"cost_false_positive": 4, "cost_true_positive": 1, "amount_column": "amount"}
    assert written["points"][1]["contamination"] == 0.0005
    assert isinstance(evaluate(scores, labels, [BEST_F1], COST, amounts=amounts), Grid)


def test_combinations_share_the_sorting_of_the_rows(monkeypatch):
    """The number of passes over the rows does not grow with the number of combinations."""
    labels, scores, amounts = _window()
    sorts = []

    def counting(plain):
        return lambda *given, **options: (sorts.append(1), plain(*given, **options))[1]

    for name in ("sort", "argsort", "unique"):
        monkeypatch.setattr(np, name, counting(getattr(np, name)))
    counts = []
    for configs in (CONFIGS[::4], CONFIGS * 10):
        sorts.clear()
        evaluate(scores, labels, configs, BEST_F1, days=3.0, amounts=amounts)
        counts.append(len(sorts))
    assert counts[0] == counts[1]


def test_mistakes_are_named():
    labels, scores, amounts = _window()
    with pytest.raises(ConfigError, match="at least one policy"):
        evaluate(scores, labels, [], BEST_F1)
    with pytest.raises(ConfigError, match=r"judge policy='alert_budget' has no optimum.*best_f1"):
        evaluate(scores, labels, [BEST_F1], ThresholdConfig(policy="alert_budget"))
    with pytest.raises(ConfigError, match="alerts_per_day=20 needs the window's length"):
        evaluate(scores, labels, CONFIGS, BEST_F1, amounts=amounts)
    for configs, judge in (([COST], BEST_F1), ([BEST_F1], COST)):
        with pytest.raises(ConfigError, match="amount_column='amount' is set but there are no amounts"):
            evaluate(scores, labels, configs, judge)
    with pytest.raises(DataError, match="at least one transaction"):
        evaluate([], [], [BEST_F1], BEST_F1)
    with pytest.raises(DataError, match="row 0 is nan"):
        evaluate([np.nan], [1], [BEST_F1], BEST_F1)
    with pytest.raises(DataError, match="one label a score"):
        evaluate(scores, labels[1:], [BEST_F1], BEST_F1)
    with pytest.raises(DataError, match="a fraud, is nan"):
        evaluate(scores, labels, [BEST_F1], BEST_F1, amounts=np.where(labels == 1, np.nan, 1.0))
