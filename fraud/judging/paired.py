"""Paired comparison of two models: differences on the same resamples, and the rows on which they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fraud.counts import counted
from fraud.judging.evaluation import Plan, Scored, budget_alerts, cost_matrix
from fraud.metrics.ranking import Floats
from fraud.metrics.resampling import Interval, WeightedRanking, interval, measure_resamples, resample_weights
from fraud.thresholds.cuts import missed_loss

MOST_ROWS = 20


def compare(ours: Scored, theirs: Scored, plan: Plan, names: tuple[str, str]) -> dict[str, Any]:
    """Paired comparison of two models. Differences are ours minus theirs: above 0, ours is better.

    Both must have the same rows in the same order. Keys: names, figures {figure: {ours, theirs, difference, interval}}
    of average_precision, roc_auc, recall_at_budget, amount_recall_at_budget and cost at each one's own threshold;
    verdict ("better", "worse" or "alike") and `text`, its description; disagreement (see `disagreement`).
    """
    if ours.unrankable:
        return {"missing": ours.unrankable, "names": list(names), "disagreement": disagreement(ours, theirs)}
    rows, others = ours.labelled, theirs.labelled
    loss = missed_loss(rows.labels, cost_matrix(ours, plan), rows.amounts)
    pair = [(WeightedRanking(rows.labels, side.main, loss), side.threshold) for side in (rows, others)]

    def measure(weights: np.ndarray | None) -> dict[str, float]:
        figures: dict[str, float] = {}
        for side, (ranked, threshold) in zip(("ours", "theirs"), pair, strict=True):
            counted = ranked.count(weights)
            top, above = counted.top(budget_alerts(plan.budget, counted.rows)), counted.above(threshold)
            figures[f"{side}/average_precision"] = counted.average_precision()
            figures[f"{side}/roc_auc"] = counted.roc_auc()
            figures[f"{side}/recall_at_budget"] = top["recall"]
            if ours.amount is not None:
                figures[f"{side}/amount_recall_at_budget"] = top["amount_recall"]
            figures[f"{side}/recall_at_threshold"] = above["recall"]
            figures[f"{side}/alert_rate_at_threshold"] = above["alert_rate"]
            figures[f"{side}/cost_at_threshold"] = plan.alert_cost * above["alerts"] + above["amount_missed"]
        return figures

    point, drawn = measure_resamples(
        measure, resample_weights(len(rows.labels), plan.resamples, plan.seed, rows.clusters)
    )
    figures: dict[str, dict[str, Any]] = {}
    for key in (name.removeprefix("ours/") for name in point if name.startswith("ours/")):
        mine, other = point[f"ours/{key}"], point[f"theirs/{key}"]
        band = interval(drawn[f"ours/{key}"] - drawn[f"theirs/{key}"])
        figures[key] = {"ours": mine, "theirs": other, "difference": mine - other, "interval": band}
    judged = figures["average_precision"]
    verdict, text = difference(judged["difference"], judged["interval"], names, int((rows.labels == 1).sum()))
    return {
        "names": list(names),
        "figures": figures,
        "verdict": verdict,
        "text": text,
        "disagreement": disagreement(ours, theirs),
    }


def difference(value: float, band: Interval | None, names: tuple[str, str], frauds: int) -> tuple[str, str]:
    """Verdict on a difference in average precision, ours minus theirs: ("better" | "worse" | "alike", description)."""
    if band is None:
        return "alike", f"{counted(frauds, 'fraud')}: too few to compare {names[0]} with {names[1]}"
    shown = f"{value:+.3f} [{band[0]:+.3f}, {band[1]:+.3f}] average precision"
    if band[0] > 0:
        return "better", f"{names[0]} is better than {names[1]}: {shown}"
    if band[1] < 0:
        return "worse", f"{names[0]} is worse than {names[1]}: {shown}"
    return "alike", f"{names[0]} and {names[1]} cannot be told apart on {counted(frauds, 'fraud')}: {shown}"


def paired_average_precision(
    labels: np.ndarray, scores: Mapping[str, Floats], against: str, *, n: int, seed: int, clusters: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """Average precision of every score, and by how much `against` exceeds it, on the same resamples.

    labels: int8 (n_rows,) of 1 and 0; scores: float64 (n_rows,) by name. Returns {name: {average_precision, interval,
    worth, worth_interval}}; worth: average precision of `against` minus this score's. Raises DataError unless both
    classes are present.
    """
    ranked = {name: WeightedRanking(labels, values) for name, values in scores.items()}
    point, drawn = measure_resamples(
        lambda weights: {name: ranking.count(weights).average_precision() for name, ranking in ranked.items()},
        resample_weights(len(labels), n, seed, clusters),
    )
    return {
        name: {
            "average_precision": point[name],
            "interval": interval(drawn[name]),
            "worth": point[against] - point[name],
            "worth_interval": interval(drawn[against] - drawn[name]),
        }
        for name in scores
    }


def disagreement(ours: Scored, theirs: Scored) -> dict[str, Any]:
    """Rows that only one of two models alerts on, each at its own threshold.

    Keys: both, only_ours, only_theirs, neither: {rows, frauds, labelled}; rows: the (at most 20) disagreements with the
    largest score differences, each {row, label, ours, theirs, values of the schema's columns}.
    """
    a, b = ours.main >= ours.threshold, theirs.main >= theirs.threshold
    cells = {"both": a & b, "only_ours": a & ~b, "only_theirs": ~a & b, "neither": ~a & ~b}
    counts: dict[str, Any] = {
        name: {
            "rows": int(mask.sum()),
            "labelled": int((mask & (ours.labels >= 0)).sum()),
            "frauds": int((mask & (ours.labels == 1)).sum()),
        }
        for name, mask in cells.items()
    }
    apart = np.flatnonzero(a ^ b)
    gap = np.abs(ours.main[apart] - theirs.main[apart])
    label = ours.schema.label.name if ours.schema.label else None
    shown = []
    for i in apart[np.argsort(-gap, kind="stable")[:MOST_ROWS]]:
        values = {name: value for name, value in ours.rows.iloc[i].items() if name != label}
        shown.append(
            {
                "row": int(ours.rows.index[i]),
                "label": int(ours.labels[i]),
                "ours": float(ours.main[i]),
                "theirs": float(theirs.main[i]),
                "values": {str(name): str(value) for name, value in values.items()},
            }
        )
    return {**counts, "rows": shown}
