"""Two models on the same rows: who is better, whether that can be said, and where they disagree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fraud.judging.evaluation import Plan, Scored
from fraud.judging.paired import MOST_ROWS, compare, paired_average_precision
from fraud.schema import Column, Schema

PLAN = Plan(resamples=60, budget=0.05)
NAMES = ("challenger", "champion")


@pytest.fixture
def champion(rng: np.random.Generator) -> Scored:
    labels = (rng.random(4_000) < 0.05).astype(np.int8)
    schema = Schema(name="s", columns=(Column(name="amount", kind="numeric"), Column(name="y", kind="label")))
    rows = pd.DataFrame({"amount": rng.gamma(2.0, 10.0, 4_000), "y": labels}, index=np.arange(4_000) + 7)
    return Scored(schema, rows, {"joined": rng.random(4_000) + 0.5 * labels}, labels, 1.0, amount="amount")


def test_a_better_model_is_called_better_and_the_other_way_round_worse(champion: Scored):
    better = replace(champion, scores={"joined": champion.main + 0.4 * champion.labels})
    comparison = compare(better, champion, PLAN, NAMES)
    ap = comparison["figures"]["average_precision"]
    assert comparison["verdict"] == "better" and comparison["text"].startswith(
        "challenger is better than champion: +0."
    )
    assert 0 < ap["interval"][0] < ap["difference"] < ap["interval"][1]
    assert set(comparison["figures"]) >= {"recall_at_budget", "amount_recall_at_budget", "cost_at_threshold"}
    back = compare(champion, better, PLAN, NAMES)
    assert back["verdict"] == "worse" and back["figures"]["average_precision"]["difference"] == -ap["difference"]


def test_noise_and_identical_models_are_alike(champion: Scored, rng: np.random.Generator):
    shaken = replace(champion, scores={"joined": champion.main + rng.normal(size=4_000) * 0.002})
    comparison = compare(shaken, champion, PLAN, NAMES)
    assert comparison["verdict"] == "alike" and "cannot be told apart on" in comparison["text"]
    same = compare(champion, champion, PLAN, NAMES)["figures"]["average_precision"]
    assert same["difference"] == 0.0 and same["interval"] == (0.0, 0.0), "the resamples are not paired"


def test_disagreement_counts_and_shows_the_widest_gaps(champion: Scored):
    score = champion.main.copy()
    score[:30] = 9.0
    labels = champion.labels.copy()
    labels[0] = -1
    bold = replace(champion, scores={"joined": score}, labels=labels)
    section = compare(bold, replace(champion, labels=labels), PLAN, NAMES)["disagreement"]
    assert sum(section[cell]["rows"] for cell in ("both", "only_ours", "only_theirs", "neither")) == 4_000
    assert section["only_ours"]["rows"] == (champion.main[:30] < 1).sum() and section["only_theirs"]["rows"] == 0
    assert len(section["rows"]) == MOST_ROWS
    first = section["rows"][0]
    assert first["row"] - 7 == np.argmin(champion.main[:30]) and first["ours"] == 9.0
    assert set(first["values"]) == {"amount"}, "the label is told apart from the columns"


def test_without_labels_the_disagreement_still_comes(champion: Scored):
    labels = np.full(4_000, -1, np.int8)
    comparison = compare(replace(champion, labels=labels), replace(champion, labels=labels), PLAN, NAMES)
    assert (
        "no row of this window has a label" in comparison["missing"] and comparison["disagreement"]["both"]["rows"] > 0
    )


def test_what_a_feature_group_is_worth_is_paired(rng: np.random.Generator):
    labels = (rng.random(3_000) < 0.05).astype(np.int8)
    all_groups = rng.random(3_000) + labels
    scores = {"all": all_groups, "useless": all_groups.copy(), "needed": rng.random(3_000)}
    worths = paired_average_precision(labels, scores, "all", n=40, seed=1, clusters=None)
    assert worths["useless"]["worth"] == 0.0 and worths["useless"]["worth_interval"] == (0.0, 0.0)
    low, high = worths["needed"]["worth_interval"]
    assert 0.3 < low < worths["needed"]["worth"] < high
