"""The checks that a challenger must pass to become champion. Each is a function of scored rows and limits.

Differences come from `fraud.judging.paired`, rarity from `fraud.judging.slices`. A difference within chance neither
promotes nor stops a model; docs/gate.md explains how each check errs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fraud.counts import counted
from fraud.judging import evaluation, paired, slices
from fraud.judging.evaluation import Plan, Scored
from fraud.judging.gate_limits import FIGURES, GateLimits
from fraud.metrics.resampling import wilson
from fraud.schema import Schema
from fraud.schema.compatibility import incompatibilities

_FEWEST_DAYS = 7  # for a bootstrap over days
_FEWEST_FRAUDS = 10  # for a segment to be judged
_FEWEST_PAIRS = 20  # labels of one transaction from two sources
_DAY = "day of the gate"


@dataclass(frozen=True)
class Check:
    """Result of one check. passed: None if not applicable, which does not stop a promotion. text: for people."""

    name: str
    passed: bool | None
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def evidence(judged: Scored | None, limits: GateLimits, reason: str = "") -> Check:
    """Whether there are enough labels and frauds."""
    name = "enough evidence"
    if judged is None:
        return Check(name, False, f"not enough evidence: {reason}")
    frauds, known = int((judged.labels == 1).sum()), int((judged.labels >= 0).sum())
    rows = len(judged.labels)
    figures = {"rows": rows, "labelled": known, "frauds": frauds}
    counts = f"{counted(frauds, 'fraud')} among {known:,} labelled of {counted(rows, 'row')}"
    if frauds < limits.min_frauds or known - frauds < limits.min_frauds:
        return Check(name, False, f"not enough evidence: {counts}, {limits.min_frauds:,} of each are needed", figures)
    if known < limits.min_labelled * rows:
        least = f"at least {limits.min_labelled:.0%} must be labelled, so that the choice of rows does not decide"
        return Check(name, False, f"not enough evidence: {counts}; {least}", figures)
    return Check(name, True, counts, figures)


def schema(new: Schema, old: Schema, *, is_allowed: bool = False) -> Check:
    """Whether every request that the champion accepts is valid for the challenger."""
    changes = incompatibilities(new, old)
    if not changes:
        return Check("schema", True, "every request that the champion takes is valid for the challenger")
    text = "the challenger " + "; ".join(changes)
    return Check("schema", is_allowed, text + (" (--schema-change allow)" if is_allowed else ""), {"changes": changes})


def better(ours: Scored, theirs: Scored, plan: Plan, limits: GateLimits) -> tuple[list[Check], dict[str, Any]]:
    """Checks that the challenger is better by the margin with its interval above 0, and nowhere worse.

    Returns the checks and the paired comparison. The interval is the widest of several cluster bootstraps: one per
    entity column, and one by day.
    """
    names = ("challenger", "champion")
    each = {
        unit or "row": paired.compare(_drawn_by(ours, unit), _drawn_by(theirs, unit), plan, names)
        for unit in _units(ours)
    }
    comparison = next(iter(each.values()))
    figures: dict[str, Any] = {}
    for key in (key for key in FIGURES if key in comparison["figures"]):
        by_unit = {unit: one["figures"][key]["interval"] for unit, one in each.items()}
        bands = [band for band in by_unit.values() if band is not None]
        widest = (min(b[0] for b in bands), max(b[1] for b in bands)) if len(bands) == len(by_unit) else None
        figures[key] = {**comparison["figures"][key], "interval": widest, "by": by_unit}
    checks = []
    for key in limits.figures:
        if key not in figures:
            checks.append(Check("better", False, f"{_figure_name(key)} cannot be measured: there is no amount column"))
            continue
        one = figures[key]
        is_better = one["interval"] is not None and one["difference"] >= limits.margin and one["interval"][0] > 0
        checks.append(
            Check("better", is_better, _comparison_text(key, one) + f"; margin {limits.margin:g}", {key: one})
        )
    worse = [
        _comparison_text(key, one)
        for key, one in figures.items()
        if key not in limits.figures and one["interval"] is not None and one["interval"][1] < 0
    ]
    others = {key: one for key, one in figures.items() if key not in limits.figures}
    fine = "; ".join(_comparison_text(key, one) for key, one in others.items())
    checks.append(Check("nothing worse", not worse, "; ".join(worse) or fine, others))
    return checks, {**comparison, "figures": {**comparison["figures"], **figures}}


def better_than_chance(ours: Scored, plan: Plan) -> Check:
    """For a first champion: ROC-AUC significantly above 0.5."""
    figures = next(iter(evaluation.ranking(ours, plan)["scores"].values()))
    auc, precision = figures["roc_auc"], figures["average_precision"]
    holds = auc["interval"] is not None and auc["interval"][0] > 0.5
    text = f"average precision {precision['value']:.3f}, ROC-AUC {auc['value']:.3f}, with no champion to compare with"
    return Check("better than chance", holds, text, {"roc_auc": auc, "average_precision": precision})


def segments(ours: Scored, theirs: Scored, plan: Plan, limits: GateLimits) -> Check:
    """Fail if the challenger catches fewer frauds in a segment, within the same budget, by an exact test per segment.

    Both models alert on their top `plan.budget` of all rows. In each segment with at least 10 frauds, an exact,
    one-sided McNemar test compares entities where the challenger catches more frauds with those where it catches fewer;
    with several entity columns, the largest p-value counts. The p-values are adjusted by Holm's method, so a challenger
    that is worse in no segment fails with a probability of at most `significance`. A segment fails only if it also
    loses more than `segment_tolerance` of its recall.
    """
    name, rows, others = "segments", ours.labelled, theirs.labelled
    parts = slices.segment_masks(rows, plan)
    alerts = evaluation.budget_alerts(plan.budget, len(rows.labels))
    gain = _caught(rows.main, alerts) - _caught(others.main, alerts)
    tested: list[dict[str, Any]] = []
    for column, level, mask in parts:
        frauds = mask & (rows.labels == 1)
        if frauds.sum() >= _FEWEST_FRAUDS:
            p = max(_worse_p(gain[frauds], _drawn_by(rows.at(frauds), unit).clusters) for unit in _entities(rows))
            tested.append(
                {"segment": f"{column} {level}", "frauds": int(frauds.sum()), "difference": float(gain[frauds].mean()),
                 "p": p}
            )  # fmt: skip
    ordered, least = sorted(tested, key=lambda one: one["p"]), 0.0
    for rank, one in enumerate(ordered):
        least = max(least, min(1.0, one["p"] * (len(ordered) - rank)))
        one["p_adjusted"] = least
        one["is_worse"] = least < limits.significance and one["difference"] < -limits.segment_tolerance
    figures = {"segments": tested, "too_few_frauds": len(parts) - len(tested)}
    if not tested:
        return Check(name, None, f"no segment has {_FEWEST_FRAUDS} frauds: name others with --segment", figures)
    worse = [one for one in ordered if one["is_worse"]]
    if worse:
        losses = "; ".join(
            f"{one['segment']}: recall within the budget {one['difference']:+.0%} ({one['frauds']:,} frauds, "
            f"p {one['p_adjusted']:.2g})"
            for one in worse[:4]
        )
        return Check(name, False, f"worse in {len(worse)} of {len(tested)} segments: {losses}", figures)
    lowest = min(tested, key=lambda one: one["difference"])
    text = f"none of {len(tested)} loses more than {limits.segment_tolerance:.0%} of recall beyond chance"
    return Check(name, True, f"{text}; the lowest is {lowest['segment']}, {lowest['difference']:+.0%}", figures)


def calibration(
    ours: Scored, theirs: Scored | None, plan: Plan, limits: GateLimits, achieved: Mapping[str, float]
) -> Check:
    """Fail if the scores are less calibrated than allowed and than the champion's, or if there are too many alerts.

    achieved: the challenger's metrics on the window where its threshold was chosen; used if there is no champion.
    """
    models = {"challenger": ours} | ({"champion": theirs} if theirs is not None else {})
    off = {name: _miscalibration(side, limits.calibration_factor) for name, side in models.items()}
    rates = {name: float((side.main >= side.threshold).mean()) for name, side in models.items()}
    most = limits.alert_factor * max(plan.budget, rates.get("champion", achieved.get("alert_rate", 0.0)))
    wrong = []
    if off["challenger"][0] > max(1.0, off.get("champion", (0.0, ""))[0]):
        wrong.append(off["challenger"][1])
    if not 0 < rates["challenger"] <= most:
        wrong.append(
            f"it would alert on {rates['challenger']:.2%} of the rows: above 0 and up to {most:.2%} is allowed"
        )
    summary = f"alerts on {rates['challenger']:.2%} of the rows, {most:.2%} allowed; {off['challenger'][1]}"
    figures = {
        "alert_rate": rates,
        "most_alerts": most,
        "off_by": {n: f * limits.calibration_factor for n, (f, _) in off.items()},
    }
    return Check("calibration", not wrong, "; ".join(wrong) or summary, figures)


def latency(p99_ms: Mapping[str, float], limits: GateLimits) -> Check:
    """Fail if p99 exceeds the budget, or is far above the champion's and above a fifth of the budget."""
    mine, other = p99_ms["challenger"], p99_ms.get("champion")
    ratio = mine / other if other else None
    slow = mine > limits.latency_budget_ms
    slower = ratio is not None and ratio > limits.latency_ratio and mine > limits.latency_budget_ms / 5
    summary = f"p99 of a single row {mine:.3f} ms of CPU, budget {limits.latency_budget_ms:g} ms"
    summary += f"; {ratio:.2f} times the champion's, at most {limits.latency_ratio:g}" if ratio is not None else ""
    return Check("latency", not (slow or slower), summary, {"p99_ms": dict(p99_ms), "ratio": ratio})


def labels(
    judged: Mapping[str, int], trained_on: Mapping[str, int] | None, before: Mapping[str, int] | None,
    champion_auc: float | None, sources: Mapping[str, Any] | None, limits: GateLimits,
) -> Check:  # fmt: skip
    """Fail on signs that the labels are wrong.

    judged, trained_on, before: {rows, frauds} of the judged rows, the challenger's and the champion's training rows.
    champion_auc: ROC-AUC of the champion on the judged labels. sources: label source figures of `labels join`.
    """
    wrong, figures = [], {"judged": judged, "learnt": trained_on, "before": before, "champion_roc_auc": champion_auc}
    for subject, counts in (("judged rows", judged), ("challenger's training rows", trained_on)):
        if counts is None or before is None or not before["frauds"]:
            continue
        usual, low_high = before["frauds"] / before["rows"], wilson(counts["frauds"], counts["rows"])
        if low_high and not (low_high[0] <= usual * limits.label_factor and low_high[1] >= usual / limits.label_factor):
            share = counts["frauds"] / counts["rows"]
            wrong.append(
                f"{share:.2%} of the {subject} are labelled fraud, {usual:.2%} of the champion's training rows"
            )
    if champion_auc is not None and champion_auc <= 0.5:
        wrong.append(
            f"the judged labels contradict the champion's scores (ROC-AUC {champion_auc:.3f}): labels may be inverted"
        )
    if sources:
        figures["sources"] = sources
        conflicts = sources.get("conflicts") or {"pairs": 0, "differ": 0}
        band = wilson(conflicts["differ"], conflicts["pairs"])
        if band and conflicts["pairs"] >= _FEWEST_PAIRS and band[0] > limits.max_conflicts:
            share = conflicts["differ"] / conflicts["pairs"]
            wrong.append(f"label sources contradict each other on {share:.0%} of {conflicts['pairs']:,} transactions")
        shift = _shift(sources.get("frauds_recent") or {}, sources.get("frauds_earlier") or {}, limits.min_frauds)
        if shift is not None and shift > limits.max_source_shift:
            wrong.append(f"{shift:.0%} of the newest frauds' labels come from other sources than before")
    fine = f"{judged['frauds'] / max(judged['rows'], 1):.2%} of the judged rows are frauds, as expected"
    return Check("labels", not wrong, "; ".join(wrong) or fine, figures)


def golden(ours: Scored, theirs: Scored, plan: Plan, limits: GateLimits) -> Check:
    """Fail if the challenger is worse beyond tolerance on the golden rows, whose labels are frozen."""
    name = "golden rows"
    if ours.unrankable or int((ours.labels == 1).sum()) < _FEWEST_FRAUDS:
        return Check(name, False, f"not enough evidence: fewer than {_FEWEST_FRAUDS} frauds among the golden rows")
    one = paired.compare(ours, theirs, plan, ("challenger", "champion"))["figures"]["average_precision"]
    is_worse = one["difference"] < -limits.golden_tolerance and one["interval"] is not None and one["interval"][1] < 0
    text = _comparison_text("average_precision", one) + f"; {limits.golden_tolerance:g} may be lost"
    return Check(name, not is_worse, text, {"average_precision": one})


def failed(checks: Sequence[Check]) -> list[Check]:
    """The checks that stop a promotion."""
    return [check for check in checks if check.passed is False]


def _entities(scored: Scored) -> list[str | None]:
    """Columns to resample by: each entity column, or else single rows."""
    return [column.name for column in scored.schema.entities] or [scored.card]


def _units(scored: Scored) -> list[str | None]:
    days = [_DAY] if scored.days is not None and len(np.unique(scored.days)) >= _FEWEST_DAYS else []
    return [*_entities(scored), *days]


def _drawn_by(scored: Scored, unit: str | None) -> Scored:
    if unit != _DAY:
        return replace(scored, card=unit)
    return replace(scored, card=_DAY, rows=scored.rows.assign(**{_DAY: scored.days}))


def _caught(scores: np.ndarray, alerts: int) -> np.ndarray:
    """Whether each row is among the `alerts` highest, float64; rows tied at the cut share the remaining alerts."""
    cut = np.partition(scores, len(scores) - alerts)[len(scores) - alerts]
    above, at = scores > cut, scores == cut
    return above + at * ((alerts - above.sum()) / at.sum())


def _worse_p(gain: np.ndarray, clusters: np.ndarray | None) -> float:
    """One-sided sign-test p-value that a cluster loses frauds more often than it gains them."""
    from scipy.stats import binom

    total = gain if clusters is None else np.bincount(clusters, weights=gain)
    lost, won = int((total < -1e-9).sum()), int((total > 1e-9).sum())
    return float(binom.sf(lost - 1, lost + won, 0.5))


def _miscalibration(side: Scored, factor: float) -> tuple[float, str]:
    """Of the score's worst level: deviation beyond chance in units of `factor`, and a description."""
    section = slices.rarity(side)
    if "missing" in section:
        return 0.0, str(section["missing"])
    worst, description = 0.0, "too few rows to measure how rare its scores are"
    for level in next(iter(section["scores"].values())):
        if level["holds"] is None:
            continue
        low, high = level["interval"]
        beyond = max(low / level["expected"], level["expected"] / max(high, 1e-12), 1.0) / factor
        if beyond > worst:
            description = (
                f"{level['observed']:.2%} of the legitimate rows score {level['score']:.2f} or more, "
                f"{level['expected']:.2%} expected"
            )
            worst = beyond
    return worst, description


def _shift(recent: Mapping[str, int], earlier: Mapping[str, int], fewest: int) -> float | None:
    """Total variation distance between two distributions over sources; None if one has fewer than `fewest` labels."""
    totals = sum(recent.values()), sum(earlier.values())
    if min(totals) < fewest:
        return None
    return sum(abs(recent.get(s, 0) / totals[0] - earlier.get(s, 0) / totals[1]) for s in {*recent, *earlier}) / 2


def _figure_name(key: str) -> str:
    return {"roc_auc": "ROC-AUC", "amount_recall_at_budget": "money caught within the budget"}.get(
        key, key.replace("_at_", " within the ").replace("_", " ")
    )


def _comparison_text(key: str, one: Mapping[str, Any]) -> str:
    band = f" [{one['interval'][0]:+.3f}, {one['interval'][1]:+.3f}]" if one["interval"] else " (no interval)"
    return f"{_figure_name(key)} {one['ours']:.3f} against {one['theirs']:.3f}: {one['difference']:+.3f}{band}"
