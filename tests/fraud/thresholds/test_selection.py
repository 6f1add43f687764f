"""Each policy finds what trying every cut finds, respects ties and its limits, and says what it achieved."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.errors import BundleError, ConfigError, DataError
from fraud.thresholds.selection import Threshold, ThresholdConfig, choose, measure

WINDOW = {"start": "2018-08-01", "end": "2018-08-07"}
# label, score (few values: ties), amount
rows_with_fraud = st.lists(
    st.tuples(st.integers(-1, 1), st.integers(0, 8), st.integers(0, 300)), min_size=1, max_size=40
).filter(lambda rows: any(label == 1 for label, _, _ in rows))


def _columns(rows):
    labels, scores, amounts = np.array(rows).T
    return labels, scores / 9, amounts.astype(float)


def _every_cut(scores):
    """Each distinct score, and no alerts at all."""
    return [np.nextafter(scores.max(), np.inf), *np.unique(scores)[::-1]]


def _counts(labels, scores, value):
    alerted = scores >= value
    return (alerted & (labels == 1)).sum(), (alerted & (labels == 0)).sum(), (labels == 1).sum()


@given(rows_with_fraud, st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=150, deadline=None)
def test_f_beta_is_the_best_of_all_cuts(rows, beta):
    labels, scores, _ = _columns(rows)

    def f_beta(value):
        caught, false_alarms, frauds = _counts(labels, scores, value)
        return (1 + beta**2) * caught / (beta**2 * frauds + caught + false_alarms)

    chosen = choose(scores, labels, ThresholdConfig(policy="f_beta", beta=beta), window=WINDOW, resamples=3)
    best = max(f_beta(value) for value in _every_cut(scores))
    assert f_beta(chosen.value) == pytest.approx(best)
    assert chosen.achieved["f1" if beta == 1 else "f_beta"] == pytest.approx(best)
    # Of equally good cuts, the one with the fewest alerts.
    assert not any(value > chosen.value and f_beta(value) > best - 1e-9 for value in _every_cut(scores))
    if beta == 1:
        assert (
            choose(scores, labels, ThresholdConfig(policy="best_f1"), window=WINDOW, resamples=0).value == chosen.value
        )


@given(rows_with_fraud, st.sampled_from([0.2, 0.3, 0.5, 0.9, 1.0]))
@settings(max_examples=150, deadline=None)
def test_precision_at_least_finds_most_at_that_precision_or_the_highest_there_is(rows, floor):
    labels, scores, _ = _columns(rows)
    figures = {}
    for value in _every_cut(scores):
        caught, false_alarms, _ = _counts(labels, scores, value)
        if caught + false_alarms:
            figures[value] = (caught / (caught + false_alarms), caught)
    chosen = choose(
        scores, labels, ThresholdConfig(policy="precision_at_least", precision=floor), window=WINDOW, resamples=3
    )
    reachable = min(floor, max(precision for precision, _ in figures.values()))
    assert figures[chosen.value][1] == max(caught for precision, caught in figures.values() if precision >= reachable)
    assert chosen.achieved["precision"] == figures[chosen.value][0] >= reachable


@given(rows_with_fraud, st.booleans(), st.sampled_from([(5, 100, 0, 0), (20, 60, 20, 0), (7, 90, 3, 1)]))
@settings(max_examples=150, deadline=None)
def test_cost_is_the_cheapest_of_all_cuts(rows, has_amounts, matrix):
    labels, scores, amounts = _columns(rows)
    false_alarm, missed, caught_cost, passed = matrix
    config = ThresholdConfig(
        policy="cost",
        cost_false_positive=false_alarm,
        cost_false_negative=missed,
        cost_true_positive=caught_cost,
        cost_true_negative=passed,
    )

    def cost(value):
        total = 0.0
        for label, score, amount in zip(labels, scores, amounts, strict=True):
            if label == 1:
                total += caught_cost if score >= value else (amount if has_amounts else missed)
            elif label == 0:
                total += false_alarm if score >= value else passed
        return total

    chosen = choose(scores, labels, config, window=WINDOW, amounts=amounts if has_amounts else None, resamples=3)
    assert chosen.achieved["cost"] == pytest.approx(cost(chosen.value))
    assert chosen.achieved["cost"] == pytest.approx(min(cost(value) for value in _every_cut(scores)))
    assert chosen.achieved["cost_without_alerts"] == pytest.approx(cost(2.0))


@given(rows_with_fraud, st.floats(0.01, 1.0), st.booleans())
@settings(max_examples=150, deadline=None)
def test_alert_budget_is_the_lowest_cut_within_the_budget(rows, budget, has_labels):
    labels, scores, _ = _columns(rows)
    config = ThresholdConfig(policy="alert_budget", budget=budget)
    chosen = choose(scores, labels if has_labels else None, config, window=WINDOW, resamples=3)
    within = [value for value in _every_cut(scores) if (scores >= value).mean() <= budget]
    assert chosen.value == min(within)
    assert chosen.achieved["alert_rate"] <= budget


@given(
    rows_with_fraud,
    st.sampled_from([0.03, 0.1, 0.3, 1.0]),
    st.sampled_from([
        {"policy": "f_beta", "beta": 2.0}, {"policy": "precision_at_least", "precision": 0.3}, {"policy": "cost"},
        {"policy": "alert_budget", "budget": 0.25},
    ]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_contamination_is_a_limit_under_every_policy(rows, contamination, policy):
    labels, scores, _ = _columns(rows)
    config = ThresholdConfig(**policy, contamination=contamination)
    chosen = choose(scores, labels, config, window=WINDOW, resamples=3)
    budget = ThresholdConfig(policy="alert_budget", budget=contamination)
    assert chosen.value >= choose(scores, labels, budget, window=WINDOW, resamples=0).value
    assert chosen.achieved["alert_rate"] <= contamination
    assert chosen.settings["contamination"] == contamination
    free = choose(scores, labels, ThresholdConfig(**policy), window=WINDOW, resamples=0)
    if free.achieved["alert_rate"] <= contamination:
        assert chosen.value == free.value
    # The best of the cuts that are left.
    within = [value for value in _every_cut(scores) if (scores >= value).mean() <= contamination]
    measured = [measure(scores, labels, value, config) for value in within]
    if config.policy == "f_beta":
        assert chosen.achieved["f_beta"] == pytest.approx(max(figures["f_beta"] for figures in measured))
    if config.policy == "cost":
        assert chosen.achieved["cost"] == pytest.approx(min(figures["cost"] for figures in measured))
    if config.policy == "precision_at_least":
        reachable = min(0.3, max(figures.get("precision", 0.0) for figures in measured))
        enough = [figures["recall"] for figures in measured if figures.get("precision", 0.0) >= reachable]
        assert chosen.achieved["recall"] == pytest.approx(max(enough))


def _window(n=5000, seed=0, rate=0.02):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < rate).astype(np.int8)
    return labels, 1 / (1 + np.exp(-rng.normal(size=n) - 2.5 * labels)), rng.gamma(1.0, 80.0, n)


def test_alerts_per_day_are_never_more_than_the_budget():
    labels, scores, _ = _window()
    config = ThresholdConfig(policy="alert_budget", alerts_per_day=20)
    chosen = choose(scores, labels, config, window=WINDOW, days=7.0)
    assert chosen.achieved["alerts"] == 140 and chosen.achieved["alerts_per_day"] == 20
    tied = np.round(scores, 1)
    assert choose(tied, None, config, window=WINDOW, days=7.0).achieved["alerts_per_day"] <= 20
    assert choose(scores, None, config, window=WINDOW, days=1e6).achieved["alerts"] == 5000
    for days in (None, 0.0, np.inf):
        with pytest.raises(ConfigError, match=r"alerts_per_day=20.*set `budget`"):
            choose(scores, labels, config, window=WINDOW, days=days)


def test_a_budget_below_the_top_ties_means_no_alerts_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        chosen = choose([0.9] * 5 + [0.1] * 95, None, ThresholdConfig(policy="alert_budget"), window=WINDOW)
    assert chosen.achieved["alerts"] == 0 and chosen.value > 0.9
    assert "no alerts" in caplog.text


def test_an_unreachable_precision_warns_and_shows_what_was_achieved(caplog):
    config = ThresholdConfig(policy="precision_at_least", precision=0.9)
    with caplog.at_level(logging.WARNING):
        chosen = choose([0.9, 0.8, 0.8, 0.1], [0, 1, 0, 0], config, window=WINDOW)
    assert chosen.value == 0.8 and chosen.achieved["precision"] == pytest.approx(1 / 3)
    assert "no threshold reaches precision 0.9" in caplog.text


@pytest.mark.parametrize("policy", ["f_beta", "best_f1", "precision_at_least", "cost"])
def test_policies_that_need_labels_name_the_remedy(policy):
    config = ThresholdConfig(policy=policy)
    for labels in (None, [-1, -1]):
        with pytest.raises(ConfigError, match=r"needs labels.*alert_budget"):
            choose([0.1, 0.9], labels, config, window=WINDOW)
    with pytest.raises(ConfigError, match=r"needs frauds and none of 2.*alert_budget"):
        choose([0.1, 0.9], [0, 0], config, window=WINDOW)
    assert choose([0.1, 0.9], [1, 1], config, window=WINDOW).achieved["recall"] == 1.0


def test_a_budget_works_without_labels():
    chosen = choose(np.arange(100) / 100, None, ThresholdConfig(policy="alert_budget", budget=0.05), window=WINDOW)
    assert chosen.value == 0.95
    assert chosen.achieved == {"alerts": 5, "alert_rate": 0.05}
    assert chosen.window == {**WINDOW, "rows": 100, "frauds": None}
    assert chosen.settings["budget"] == 0.05


def test_a_contamination_below_every_cut_means_no_alerts_and_a_warning(caplog):
    config = ThresholdConfig(policy="precision_at_least", precision=0.9, contamination=0.02)
    with caplog.at_level(logging.WARNING):
        chosen = choose([0.9] * 5 + [0.1] * 95, [1] * 5 + [0] * 95, config, window=WINDOW)
    assert chosen.achieved["alerts"] == 0 and chosen.interval[0] >= 0.9
    assert "no alerts" in caplog.text and "no threshold reaches" not in caplog.text


def test_bad_input_is_refused():
    config = ThresholdConfig(policy="alert_budget")
    with pytest.raises(DataError, match="row 1 is nan"):
        choose([0.1, np.nan], None, config, window=WINDOW)
    with pytest.raises(DataError, match="at least one transaction"):
        choose([], None, config, window=WINDOW)
    with pytest.raises(DataError, match="one label a score"):
        choose([0.1, 0.2], [1], config, window=WINDOW)
    with pytest.raises(DataError, match="amount of row 0, a fraud, is nan"):
        choose([0.1, 0.2], [1, 0], ThresholdConfig(policy="cost"), window=WINDOW, amounts=[np.nan, 1])
    with pytest.raises(ConfigError, match=r"amount_column='amt'.*no amounts"):
        choose([0.1, 0.2], [1, 0], ThresholdConfig(policy="cost", amount_column="amt"), window=WINDOW)
    with pytest.raises(DataError, match="is nan"):
        choose([0.1, 0.2], None, config, window=WINDOW).decide([np.nan])


def test_amounts_move_the_threshold_to_where_the_money_is():
    scores, labels = [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 0, 1, 0]
    config = ThresholdConfig(policy="cost", cost_false_positive=10.0, cost_false_negative=15.0)
    assert choose(scores, labels, config, window=WINDOW).value == 0.9
    assert choose(scores, labels, config, window=WINDOW, amounts=[50, 0, 0, 500, 0]).value == 0.6
    cheap = choose(scores, labels, config, window=WINDOW, amounts=[0, 0, 0, 3, 0])
    assert cheap.achieved["alerts"] == 0 and "precision" not in cheap.achieved


def test_decide_alerts_on_ties_and_agrees_with_float32_scores():
    labels, scores, _ = _window(2000)
    narrow = scores.astype(np.float32)
    chosen = choose(narrow, labels, ThresholdConfig(policy="alert_budget", budget=0.05), window=WINDOW)
    assert chosen.decide(narrow).sum() == chosen.achieved["alerts"] == 100
    assert chosen.decide([chosen.value]).all()


@pytest.mark.parametrize("contamination", [None, 0.025])
@pytest.mark.parametrize("policy", ["f_beta", "alert_budget", "precision_at_least", "cost"])
def test_the_interval_is_that_of_resampled_rows(policy, contamination):
    labels, scores, amounts = _window(3000, rate=0.05)
    labels = np.where(np.arange(labels.size) % 5 == 0, -1, labels)
    config = ThresholdConfig(policy=policy, budget=0.03, contamination=contamination)
    chosen = choose(scores, labels, config, window=WINDOW, amounts=amounts, resamples=400, seed=1)
    assert chosen == choose(scores, labels, config, window=WINDOW, amounts=amounts, resamples=400, seed=1)
    assert chosen.interval[0] < chosen.interval[1]
    # Against the plain way: draw rows, choose again on them.
    rng = np.random.default_rng(0)
    plain = []
    for _ in range(400):
        rows = rng.integers(0, labels.size, labels.size)
        again = choose(scores[rows], labels[rows], config, window=WINDOW, amounts=amounts[rows], resamples=0)
        plain.append(again.value)
    spread = np.std(plain)
    assert chosen.interval == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.6 * spread)


def test_the_interval_counts_tied_rows_alike_when_frauds_are_most_of_the_window():
    labels, scores = np.array([1, 1, 1, 0]), np.array([0.9, 0.9, 0.5, 0.5])
    chosen = choose(scores, labels, ThresholdConfig(), window=WINDOW)
    assert chosen.value == 0.5 and set(chosen.interval) <= {0.5, 0.9}
    assert choose(scores, labels, ThresholdConfig(), window=WINDOW, resamples=0).interval == (0.5, 0.5)


def test_measure_on_a_later_window_counts_the_cost_of_the_same_matrix():
    config = ThresholdConfig(policy="cost", cost_false_positive=5, cost_false_negative=100, cost_true_positive=1)
    figures = measure([0.9, 0.7, 0.4, 0.2], [1, 0, 1, -1], 0.5, config, days=2.0)
    assert figures["cost"] == 1 + 5 + 100 and figures["cost_without_alerts"] == 200
    assert figures["alerts_per_day"] == 1.0 and figures["precision"] == 0.5
    with_amounts = measure([0.9, 0.7, 0.4, 0.2], [1, 0, 1, -1], 0.5, config, amounts=[30, 0, 10, 0])
    assert with_amounts["cost"] == 1 + 5 + 10 and with_amounts["amount_recall"] == 0.75


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ({"policy": "f1"}, "policy='f1' must be one of f_beta"),
        ({"beta": 0}, "beta=0 must be a finite number above 0"),
        ({"policy": "best_f1", "beta": 2.0}, "use policy 'f_beta'"),
        ({"budget": 0}, "budget=0 must be a number in (0, 1]"),
        ({"budget": 1.2}, "budget=1.2 must be a number in (0, 1]"),
        ({"budget": "1e-2"}, "budget='1e-2' must be a number"),
        ({"budget": True}, "budget=True must be a number"),
        ({"precision": float("nan")}, "precision=nan must be a number in (0, 1]"),
        ({"precision": 50}, "precision=50 must be a number in (0, 1]"),
        ({"alerts_per_day": 0}, "alerts_per_day=0 must be a whole number of 1 or more or null"),
        ({"alerts_per_day": 2.5}, "alerts_per_day=2.5 must be a whole number"),
        ({"cost_true_positive": -1}, "cost_true_positive=-1 must be a finite number of 0 or more"),
        ({"cost_false_positive": 0}, "alerting on everything would be free"),
        ({"cost_false_negative": 3, "cost_true_positive": 5}, "catching a fraud would never pay"),
        ({"contamination": 0}, "contamination=0 must be a number in (0, 1] or null"),
        ({"contamination": 1.5}, "contamination=1.5 must be a number in (0, 1] or null"),
        ({"contamination": "1e-2"}, "contamination='1e-2' must be a number"),
        ({"amount_column": ""}, "amount_column='' must be a text that is not empty or null"),
    ],
)
def test_settings_are_checked_when_made(setting, remedy):
    with pytest.raises(ConfigError) as caught:
        ThresholdConfig(**setting)
    assert remedy in str(caught.value)


def test_an_unknown_setting_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"threshold: unknown key 'alert_per_day'; did you mean 'alerts_per_day'"):
        ThresholdConfig(alert_per_day=100)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"threshold: unknown key 'zzz'; known keys: policy"):
        ThresholdConfig(zzz=1)  # type: ignore[call-arg]


def test_a_threshold_survives_json():
    labels, scores, amounts = _window(500)
    window = {"start": np.datetime64("2018-08-01"), "end": None, "name": "validation", "rows": np.int64(3)}
    chosen = choose(scores, labels, ThresholdConfig(policy="cost"), window=window, amounts=amounts, days=2)
    again = Threshold.from_dict(json.loads(json.dumps(chosen.to_dict())))
    assert again == chosen
    assert again.window == {
        "start": "2018-08-01", "end": None, "name": "validation", "rows": 500, "frauds": int(labels.sum())
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"value": None}, "value None"),
        ({"value": "0.5"}, "value '0.5'"),
        ({"value": float("nan")}, "value nan"),
        ({"value": True}, "value True"),
        ({"policy": "guess"}, "policy 'guess'"),
        ({"settings": [1]}, r"settings \[1\]"),
        ({"window": None}, "window None"),
        ({"achieved": {"precision": "high"}}, "precision 'high'"),
        ({"interval": [0.1]}, r"interval \[0.1\]"),
        ({"interval": [0.1, None]}, "interval None"),
        ({"interval": [0.9, 0.1]}, "runs backwards"),
        ({"extra": 1}, "'extra' is unknown"),
    ],
)
def test_a_malformed_threshold_is_refused(change, named):
    good = choose([0.1, 0.9], [0, 1], ThresholdConfig(), window=WINDOW).to_dict()
    with pytest.raises(BundleError, match=named):
        Threshold.from_dict({**good, **change})
    for missing in good:
        with pytest.raises(BundleError, match=f"'{missing}' is missing"):
            Threshold.from_dict({name: entry for name, entry in good.items() if name != missing})
    with pytest.raises(BundleError, match="not a mapping"):
        Threshold.from_dict([good])  # type: ignore[arg-type]
