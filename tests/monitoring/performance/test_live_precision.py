"""The share of frauds among alerts: counted where labels are there, else an interval that holds the truth."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from monitoring.performance.live_precision import DayPrecision, by_day

START = dt.date(2026, 1, 1)
AS_OF = START + dt.timedelta(days=40)
DELAY = 7.0


def world(seed: int, *, offset: float) -> pd.DataFrame:
    """40 days of some 30 alerts, whose chance of being fraud rises with the score and differs between days."""
    rng = np.random.default_rng(seed)
    days = []
    for day in range(40):
        n = rng.poisson(30)
        logit = rng.normal(2, 1, n)
        chance = 1 / (1 + np.exp(1.5 - logit - rng.normal(0, offset)))
        frauds = (rng.random(n) < chance).astype(float)
        scores = 1 / (1 + np.exp(-logit))
        days.append(pd.DataFrame({"day": START + dt.timedelta(days=day), "score": scores, "truth": frauds}))
    return pd.concat(days, ignore_index=True)


def judged(alerts: pd.DataFrame, is_seen: pd.Series) -> list[DayPrecision]:
    mature = pd.to_datetime(alerts["day"]) < pd.Timestamp(AS_OF) - pd.Timedelta(days=DELAY)
    return by_day(alerts.assign(label=alerts["truth"].where(is_seen & mature)), as_of=AS_OF, delay_days=DELAY)


@pytest.mark.parametrize("offset", [0.0, 0.6])
def test_the_interval_holds_the_truth_on_nine_days_of_ten(offset: float):
    covered, widths = [], []
    for seed in range(3):
        alerts = world(seed, offset=offset)
        truth = alerts.groupby("day")["truth"].mean()
        top_half = alerts.groupby("day")["score"].rank(pct=True) > 0.5
        estimated = [day for day in judged(alerts, top_half) if day.low is not None and day.high is not None]
        covered += [day.low - 1e-9 <= truth[day.day] <= day.high + 1e-9 for day in estimated]
        widths += [day.high - day.low for day in estimated]
    assert len(covered) == 120 and np.mean(covered) >= 0.9
    assert np.mean(widths) < 0.5, "an interval that says nothing would hold everything"


def test_looking_at_the_highest_scores_first_does_not_flatter():
    alerts = world(5, offset=0.0)
    top = alerts.groupby("day")["score"].rank(pct=True) > 0.5
    mature = [day for day in judged(alerts, top) if day.is_mature]
    among_seen = np.mean([day.frauds / day.labelled for day in mature])
    estimated = np.mean([day.precision for day in mature if day.precision is not None])
    truth = alerts["truth"].mean()
    assert among_seen > truth + 0.1 and abs(estimated - truth) < (among_seen - truth) / 3


def test_a_day_whose_alerts_are_all_labelled_is_counted():
    alerts = world(1, offset=0.0)
    days = judged(alerts, pd.Series(True, index=alerts.index))
    counted = [day for day in days if day.is_mature]
    assert len(counted) == 33 and len(days) == 40
    truth = alerts.groupby("day")["truth"].mean()
    assert all(day.precision == day.low == day.high == truth[day.day] for day in counted)
    assert [day.share_labelled for day in days[-7:]] == [0.0] * 7


def test_too_few_labels_give_no_estimate():
    alerts = world(2, offset=0.0)
    days = judged(alerts, pd.Series(alerts.index < 15))
    assert {day.precision for day in days if not day.labelled} == {None}
    assert by_day(alerts[:0].assign(label=np.nan), as_of=AS_OF, delay_days=DELAY) == []


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_labels_of_one_kind_alone_are_no_trouble(truth: float):
    alerts = world(3, offset=0.0).assign(truth=truth)
    for day in judged(alerts, pd.Series(alerts.index % 2 == 0)):
        assert day.precision is not None and abs(day.precision - truth) < 0.1


def test_what_became_known_later_changes_nothing_and_the_same_seed_says_the_same():
    alerts = world(4, offset=0.3)
    is_seen = pd.Series(alerts.index % 3 > 0)
    assert judged(alerts, is_seen) == judged(alerts, is_seen)
    young = alerts.assign(label=alerts["truth"].where(pd.to_datetime(alerts["day"]) < pd.Timestamp(AS_OF)))
    day_before = by_day(young, as_of=START + dt.timedelta(days=8), delay_days=DELAY)
    assert not any(day.is_mature for day in day_before[1:])


def test_alerts_that_were_drawn_speak_for_a_day_that_is_unlike_the_days_before():
    """The model learns from mature days; on the last ones half of what it takes for frauds is none any more."""
    alerts = world(3, offset=0.0)
    days = pd.to_datetime(alerts["day"])
    is_new = days >= pd.Timestamp(AS_OF) - pd.Timedelta(days=5)
    rng = np.random.default_rng(0)
    alerts["truth"] = np.where(is_new, alerts["truth"] * (rng.random(len(alerts)) < 0.4), alerts["truth"])
    is_drawn = is_new & (alerts.groupby("day")["score"].transform(lambda s: rng.permutation(len(s))) < 18)
    is_mature = days < pd.Timestamp(AS_OF) - pd.Timedelta(days=DELAY)
    labelled = alerts.assign(label=alerts["truth"].where(is_mature | is_drawn))
    truth = alerts.groupby("day")["truth"].mean()

    def covers(known: pd.DataFrame) -> list[bool]:
        estimated = by_day(known, as_of=AS_OF, delay_days=DELAY)[-5:]
        return [
            day.low <= truth[day.day] <= day.high for day in estimated if day.low is not None and day.high is not None
        ]

    assert sum(covers(labelled.assign(is_drawn=is_drawn))) >= 4
    assert sum(covers(alerts.assign(label=alerts["truth"].where(is_mature)))) <= 2, "by the score alone it cannot know"
