"""The evaluation page: the verdict on the first screen, then one section per question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fraud.judging import evaluation_plots, plots
from fraud.judging.evaluation import Plan, Scored, cost_matrix
from fraud.judging.page import fixed, percent, picture, render


def page(evaluation: Mapping[str, Any], scored: Scored, rival: Scored | None, plan: Plan) -> str:
    """The page as HTML. evaluation: the JSON document; scored, rival: the scores that the curves show."""
    pictures = {name: picture(draw) for name, draw in _drawings(evaluation, scored, rival, plan).items()}
    return render(
        "ray_jobs", "evaluation.html",
        evaluation=evaluation, pictures=pictures, tiles=_tiles(evaluation), window=_window(evaluation),
    )  # fmt: skip


def _drawings(
    evaluation: Mapping[str, Any], scored: Scored, rival: Scored | None, plan: Plan
) -> dict[str, Callable[[Path], object]]:
    """The drawing functions of this evaluation by the template's picture names."""
    rows, window = scored.labelled, _window(evaluation)
    cards, rarity, reliability, stability = (
        evaluation[name] for name in ("card_precision", "rarity", "reliability", "stability")
    )
    groups = [group for group in evaluation["ablation"].get("groups", ()) if "worth" in group]
    draw: dict[str, Callable[[Path], object]] = {}
    if "missing" not in evaluation["ranking"]:
        draw["precision_recall"] = lambda path: plots.pr_curve(rows.labels, rows.scores, path, window=window)
        draw["roc"] = lambda path: plots.roc_curve(rows.labels, rows.scores, path, window=window)
    if "missing" not in cards and cards["by_day"] and len(cards["days"]) > 1:
        draw["cards"] = lambda path: evaluation_plots.cards_a_day(cards, path)
    if "missing" not in evaluation["cost"]:
        draw["cost"] = lambda path: plots.threshold_cost(
            rows.labels, {"joined": rows.main}, path, config=cost_matrix(scored, plan), threshold=scored.threshold,
            amounts=rows.amounts, window=window,
        )  # fmt: skip
    if "missing" not in rarity:
        draw["rarity"] = lambda path: evaluation_plots.rarity(rarity, path)
    if "missing" not in reliability:
        draw["reliability"] = lambda path: evaluation_plots.reliability(reliability, scored.threshold, path)
    if any(part["figures"]["average_precision"] for part in stability.get("parts", ())):
        draw["stability"] = lambda path: evaluation_plots.stability(stability, path)
    if rival is not None and "missing" not in evaluation["comparison"]:
        both = {"this model": rows.main, "the other": rival.labelled.main}
        draw["comparison"] = lambda path: plots.pr_curve(rows.labels, both, path, window="same rows")
    if groups:
        draw["ablation"] = lambda path: evaluation_plots.ablation(groups, path)
    return draw


def _tiles(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(value, label, note) of the figures on the first screen."""
    rows, ranking, cost = evaluation["rows"], evaluation["ranking"], evaluation["cost"]
    alerts = f"{rows['alerts'] / rows['days']:,.1f} a day" if rows["days"] else f"{rows['alerts']:,} in all"
    tiles = [(percent(rows["alert_rate"]), "of the transactions get an alert", alerts)]
    if "missing" in ranking:
        return tiles
    at = ranking["points"][0]["figures"]
    caught = {
        "recall": "of the frauds found",
        "amount_recall": "of the fraud amount caught",
        "precision": "of the alerts are fraud",
    }
    tiles = [
        (percent(at[key]["value"]), label, _interval(at[key], percent))
        for key, label in caught.items()
        if key in at and at[key]["value"] is not None
    ] + tiles
    first = next(iter(ranking["scores"].values()))["average_precision"]
    chance = f"{_interval(first, fixed)}; chance {ranking['base_rate']:.3f}"
    tiles.append((fixed(first["value"]), "average precision", chance))
    if "missing" not in cost and cost["without_alerts"] > 0:
        saved = 1 - cost["at_threshold"]["cost"] / cost["without_alerts"]
        tiles.append(
            (f"{saved:.0%}", "of the loss saved, net of alerts", f"of {cost['without_alerts']:,.0f} without alerts")
        )
    return tiles


def _interval(figure: Mapping[str, Any], form: Callable[[float | None], str]) -> str:
    band = figure["interval"]
    return f"{form(band[0])} to {form(band[1])}" if band else "interval unknown"


def _window(evaluation: Mapping[str, Any]) -> str:
    """The judged window as text: dates if it is longer than a day, otherwise times."""
    start, end = str(evaluation["rows"]["start"]), str(evaluation["rows"]["end"])
    if (evaluation["rows"]["days"] or 0) > 1:
        start, end = start[:10], end[:10]
    return f"{start} to {end}".replace("T", " ")
