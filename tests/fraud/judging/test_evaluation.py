"""Known figures of known scores: perfect, random, planted; every section comes out of any window."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fraud.errors import ConfigError
from fraud.judging import conclusions, evaluation, slices
from fraud.judging.evaluation import Plan, Scored
from fraud.schema import Column, Schema

PLAN = Plan(resamples=40, alert_cost=5.0, alerts_per_day=20, k=10)
SCHEMA = Schema(
    name="shop",
    columns=(
        Column(name="when", kind="timestamp"),
        Column(name="card", kind="entity"),
        Column(name="amount", kind="numeric", minimum=0),
        Column(name="channel", kind="categorical"),
        Column(name="abroad", kind="boolean"),
        Column(name="fraud", kind="label"),
    ),
)


def shop(rng: np.random.Generator, n: int = 6_000, days: int = 14, fraud_rate: float = 0.06) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "when": np.datetime64("2026-01-01", "us")
            + np.sort(rng.integers(0, days * 86_400, n)).astype("timedelta64[s]"),
            "card": rng.integers(0, 500, n).astype(str),
            "amount": rng.gamma(2.0, 40.0, n).round(2),
            "channel": rng.choice(["web", "shop", "<b>phone</b>"], n),
            "abroad": rng.integers(0, 2, n).astype(float),
            "fraud": (rng.random(n) < fraud_rate).astype(np.int8),
        }
    )


def rare(normal: np.ndarray) -> np.ndarray:
    """Scores that mean what they say for uniform draws: the share of normal rows that score as high is the draw."""
    evidence = -np.log10(normal)
    return evidence / (evidence + 3)


@pytest.fixture
def good(rng: np.random.Generator) -> Scored:
    """A score that is calibrated on normal rows and high on most frauds."""
    rows = shop(rng)
    labels = rows["fraud"].to_numpy()
    draw = rng.uniform(1e-6, 1, len(rows))
    score = rare(np.where(labels == 1, draw**6, draw))
    return Scored(
        SCHEMA, rows, {"joined": score, "noise": rng.random(len(rows))}, labels, 0.4, amount="amount", card="card"
    )


def sections(scored: Scored, plan: Plan = PLAN) -> dict:
    n = len(scored.labels)
    alerts = int((scored.main >= scored.threshold).sum())
    return {
        "rows": {"in_window": n, "frauds": int((scored.labels == 1).sum()), "alert_rate": alerts / max(n, 1)},
        "ranking": evaluation.ranking(scored, plan),
        "card_precision": evaluation.daily_precision(scored, plan),
        "cost": evaluation.cost(scored, plan),
        "rarity": slices.rarity(scored),
        "reliability": slices.reliability(scored),
        "stability": slices.stability(scored, plan),
        "segments": slices.segments(scored, plan),
        "comparison": {"missing": "no other model"},
    }


def test_a_perfect_and_a_random_score(good: Scored, rng: np.random.Generator):
    perfect = replace(good, scores={"perfect": good.labels * 0.9, "random": rng.random(6_000)}, threshold=0.5)
    section = evaluation.ranking(perfect, PLAN)
    best, chance = section["scores"]["perfect"], section["scores"]["random"]
    assert best["average_precision"] == {"value": 1.0, "interval": (1.0, 1.0)} and best["roc_auc"]["value"] == 1.0
    low, high = chance["roc_auc"]["interval"]
    assert low < 0.5 < high
    assert chance["average_precision"]["value"] == pytest.approx(section["base_rate"], abs=0.02)
    at = section["points"][0]["figures"]
    assert at["recall"]["value"] == at["precision"]["value"] == at["amount_recall"]["value"] == 1.0
    assert at["cost"]["value"] == 5.0 * at["alerts"]["value"] and at["false_positive_rate"]["value"] == 0.0


def test_budgets_limit_alerts_and_money_is_counted(good: Scored):
    figures = {point["name"]: point["figures"] for point in evaluation.ranking(good, PLAN)["points"]}
    assert figures["budget"]["alerts"]["value"] == 60 and figures["daily"]["alerts"]["value"] == 20 * 14
    top = np.argsort(-good.main)[:60]
    fraud, money = good.labels == 1, good.rows["amount"].to_numpy()
    assert figures["budget"]["recall"]["value"] == pytest.approx(fraud[top].sum() / fraud.sum())
    caught = money[top][fraud[top]].sum() / money[fraud].sum()
    assert figures["budget"]["amount_recall"]["value"] == pytest.approx(caught)
    low, high = figures["budget"]["recall"]["interval"]
    assert low < figures["budget"]["recall"]["value"] < high


def test_unlabelled_rows_are_left_out(good: Scored):
    labels = good.labels.copy()
    labels[::3] = -1
    hidden = replace(good, labels=labels)
    shown = good.at(labels >= 0)
    assert evaluation.ranking(hidden, PLAN) == evaluation.ranking(shown, PLAN)
    assert evaluation.cost(hidden, PLAN) == evaluation.cost(shown, PLAN)


def test_the_cheapest_threshold_is_the_cheapest_and_the_curve_knows_no_alerts(good: Scored):
    section = evaluation.cost(good, PLAN)
    fraud, money = good.labels == 1, good.rows["amount"].to_numpy()

    def total(value: float) -> float:
        alerted = good.main >= value
        return 5.0 * alerted.sum() + money[fraud & ~alerted].sum()

    assert section["at_threshold"]["cost"] == pytest.approx(total(0.4))
    assert section["without_alerts"] == pytest.approx(money[fraud].sum())
    assert section["cheapest"]["cost"] == pytest.approx(min(total(value) for value in good.main[fraud]))
    low, high = section["cheapest"]["interval"]
    assert low <= section["cheapest"]["threshold"] <= high
    flat = evaluation.cost(replace(good, amount=None), Plan(resamples=40, fraud_cost=80.0))
    assert flat["without_alerts"] == 80.0 * fraud.sum() and flat["missed_fraud"] == 80.0
    with pytest.raises(ConfigError, match="--fraud-cost 5 is not above --alert-cost 5"):
        evaluation.cost(replace(good, amount=None), Plan(fraud_cost=5.0))


def test_cards_are_known_only_after_the_label_delay():
    days = np.array(["2026-01-01", "2026-01-08", "2026-01-09", "2026-01-09", "2026-01-09"], "datetime64[D]")
    cards = np.array(["a", "a", "a", "b", None], dtype=object)
    labels = np.array([1, 0, 0, 1, 1])
    assert evaluation.known_compromised(days, cards, labels, 7.0).tolist() == [False, False, True, False, False]
    since = np.datetime64("2026-01-02")
    assert not evaluation.known_compromised(days, cards, labels, 7.0, since).any()


def test_card_precision_leaves_out_known_cards_and_reports_the_attainable_value(good: Scored):
    best = replace(good, scores={"perfect": (good.labels == 1).astype(float)})
    section = evaluation.daily_precision(best, PLAN)
    assert section["unit"] == "card" and len(section["days"]) == 14 and section["by_day"]
    assert section["mean"]["value"] == pytest.approx(section["attainable"]) and section["mean"]["interval"]
    known = np.isin(good.rows["card"], good.rows["card"][good.labels == 1])
    none = evaluation.daily_precision(replace(best, known=known), PLAN)
    assert none["rows_left_out"] == known.sum() and none["mean"]["value"] == 0.0 == none["attainable"]
    rows = evaluation.daily_precision(replace(best, card=None), PLAN)
    assert rows["unit"] is None and rows["mean"]["value"] > 0.8


def test_a_calibrated_score_holds_and_one_that_moved_does_not(good: Scored):
    section = slices.rarity(good)
    assert [level["holds"] for level in section["scores"]["joined"][:3]] == [True, True, True]
    assert section["scores"]["joined"][0]["observed"] == pytest.approx(0.1, abs=0.02)
    assert section["scores"]["joined"][-1]["score"] == 0.4
    moved = replace(good, scores={"joined": np.minimum(good.main + 0.12, 0.99)})
    assert [level["holds"] for level in slices.rarity(moved)["scores"]["joined"][1:3]] == [False, False]
    findings = conclusions.conclude(sections(moved), PLAN)["findings"]
    assert any("no longer calibrated" in finding["text"] for finding in findings)
    assert any(finding["section"] == "calibration" for finding in findings)


def test_reliability_counts_every_labelled_row_once(good: Scored):
    bins = slices.reliability(good)["bins"]
    assert sum(part["rows"] for part in bins) == 6_000
    assert sum(part["frauds"] for part in bins) == (good.labels == 1).sum()
    assert bins[0]["precision"] < 0.05 < 0.5 < bins[-2]["precision"]


def test_a_planted_weak_segment_is_named_and_the_others_are_not(good: Scored):
    score = good.main.copy()
    score[(good.rows["channel"] == "shop").to_numpy() & (good.labels == 1)] = 0.01
    section = slices.segments(replace(good, scores={"joined": score}), PLAN)
    weak = {
        (c["column"], part["name"]): part["weak"] for c in section["columns"] for part in c["parts"] if part["weak"]
    }
    assert list(weak) == [("channel", "shop")] and "finds 0% of its" in weak["channel", "shop"]
    by = {column["column"]: column for column in section["columns"]}
    assert set(by) == {"channel", "abroad", "amount"} and len(by["amount"]["parts"]) == 4
    for column in by.values():
        assert sum(part["figures"]["rows"] for part in column["parts"]) == 6_000
        assert sum(part["figures"]["frauds"] for part in column["parts"]) == (good.labels == 1).sum()


def test_a_planted_bad_week_and_a_long_list_of_levels(good: Scored, rng: np.random.Generator):
    score = good.main.copy()
    late = (good.rows["when"] >= pd.Timestamp("2026-01-12")).to_numpy()
    score[late & (good.labels == 1)] = 0.01
    section = slices.stability(replace(good, scores={"joined": score}), PLAN)
    assert section["step"] == "day" and [part["name"] for part in section["parts"] if part["weak"]] == [
        "2026-01-12", "2026-01-13", "2026-01-14"
    ]  # fmt: skip
    cards = slices.segments(good, replace(PLAN, segments=("card",)))["columns"][0]["parts"]
    assert len(cards) == 13 and cards[-1]["name"] == "(other)"
    assert sum(part["figures"]["rows"] for part in cards) == 6_000
    with pytest.raises(ConfigError, match="--segment 'colour' is not a column"):
        slices.segments(good, replace(PLAN, segments=("colour",)))


def test_weeks_cover_a_long_window(rng: np.random.Generator):
    rows = shop(rng, 3_000, days=40)
    scored = Scored(SCHEMA, rows, {"joined": rng.random(3_000)}, rows["fraud"].to_numpy(), 0.9)
    section = slices.stability(scored, PLAN)
    assert section["step"] == "week" and len(section["parts"]) == 6
    assert sum(part["figures"]["rows"] for part in section["parts"]) == 3_000


@pytest.mark.parametrize("case", ["unlabelled", "no fraud", "all fraud", "no time", "few", "one row"])
def test_every_window_gives_every_section_or_its_missing_reason(good: Scored, case: str):
    n = len(good.labels)
    if case == "few":
        scored = good.at(np.arange(n) < 120)
    elif case == "one row":
        scored = good.at(np.arange(n) < 1)
    elif case == "no time":
        schema = Schema(name="shop", columns=tuple(c for c in SCHEMA.columns if c.kind not in ("timestamp", "entity")))
        scored = replace(good, schema=schema, rows=good.rows.drop(columns=["when", "card"]), card=None)
    else:
        scored = replace(good, labels=np.full(n, {"unlabelled": -1, "no fraud": 0, "all fraud": 1}[case], np.int8))
    evaluated = sections(scored)
    verdict = conclusions.conclude(evaluated, PLAN)
    json.dumps(evaluation.plain({**evaluated, "verdict": verdict}), allow_nan=False)
    if case in ("unlabelled", "no fraud", "all fraud", "one row"):
        assert verdict["level"] == "unknown" and "No verdict" in verdict["headline"]
        for name in ("ranking", "card_precision", "cost"):
            assert evaluated[name]["missing"]
    if case == "unlabelled":
        assert "wait until labels arrive" in verdict["headline"]
        assert evaluated["rarity"]["unlabelled"] and evaluated["stability"]["parts"], "volume and rarity need no labels"
    if case == "no time":
        assert "timestamp" in evaluated["stability"]["missing"]
        assert not evaluated["card_precision"]["by_day"] and len(evaluated["ranking"]["points"]) == 2
    if case == "few":
        assert any("wide" in finding["text"] for finding in verdict["findings"])


def test_the_verdict_follows_the_findings(good: Scored, rng: np.random.Generator):
    ok = conclusions.conclude({**sections(good), "segments": {}, "stability": {}}, PLAN)
    assert "of the frauds" in ok["headline"] and "of the fraud amount" in ok["headline"]
    learnt = conclusions.conclude(sections(good), PLAN, ["10 of the judged rows lie in the train window"])
    assert learnt["level"] == "bad" and learnt["findings"][0]["section"] == "rows"
    noise = replace(good, scores={"joined": rng.random(6_000), "right": good.main}, threshold=0.5)
    verdict = conclusions.conclude(sections(noise), PLAN, (), {"alert_rate": 0.01})
    texts = " | ".join(finding["text"] for finding in verdict["findings"])
    assert verdict["level"] == "bad" and "no better than alerting at random" in texts
    assert "more than no alerts at all" in texts and "right alone ranks better" in texts
    assert "1% where it was chosen" in texts


def test_plain_is_strict_json():
    odd = {"nan": float("nan"), "inf": np.float64("inf"), 3: np.int64(4), "t": (np.bool_(True), None), "a": np.ones(2)}
    assert evaluation.plain(odd) == {"nan": None, "inf": None, "3": 4, "t": [True, None], "a": [1.0, 1.0]}


def test_the_amount_column_is_detected_by_name():
    def named(*names: str) -> Schema:
        return Schema(name="x", columns=tuple(Column(name=name, kind="numeric") for name in names))

    assert evaluation.amount_column(named("unit_price", "TX_AMOUNT")) == "TX_AMOUNT"
    assert evaluation.amount_column(named("v1", "amt")) == "amt"
    assert evaluation.amount_column(named("v1", "v2")) is None


@pytest.mark.parametrize("wrong", [{"budget": 0.0}, {"k": 0}, {"alert_cost": 0.0}, {"resamples": 3}, {"seed": -1}])
def test_a_plan_out_of_range_names_its_flag(wrong: dict):
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        Plan(**wrong)


def test_days_are_those_of_the_schemas_zone(good: Scored) -> None:
    tokyo = replace(good, schema=replace(good.schema, day_zone="Asia/Tokyo"))
    assert tokyo.days is not None and good.days is not None
    shifted = good.rows["when"] + pd.Timedelta(hours=9)
    assert tokyo.days.tolist() == shifted.dt.date.tolist() != good.days.tolist()
    assert evaluation.daily_precision(tokyo, Plan(resamples=10))["day_zone"] == "Asia/Tokyo" and tokyo.n_days == 15
