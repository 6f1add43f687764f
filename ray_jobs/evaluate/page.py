"""The evaluation page: the verdict a risk officer needs on the first screen, then a section a question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fraud.judging import evaluation_plots, plots
from fraud.judging import page as tag
from fraud.judging.evaluation import Plan, Scored, cost_matrix
from fraud.judging.page import percent, table, with_interval
from ray_jobs.evaluate import models, slices

_SAID = {"ok": "in order", "warning": "look", "bad": "problem", "unknown": "no verdict"}
_VERDICT = {
    "ok": "Nothing stands out",
    "warning": "Works, with points to look at",
    "bad": "Do not rely on it before the points below are settled",
    "unknown": "No verdict",
}
_TITLES = {
    "points": "What is caught, and at what price in alerts",
    "ranking": "How well the scores rank",
    "cards": "What analysts see in a day",
    "cost": "What each threshold costs",
    "calibration": "Whether a score means what it says",
    "stability": "Whether it holds over time",
    "segments": "Where it is stronger and weaker",
    "comparison": "Against the other model",
    "ablation": "What each feature group is worth",
    "method": "How the figures are made",
}


def page(found: Mapping[str, Any], scored: Scored, rival: Scored | None, plan: Plan) -> str:
    """The whole page. found: the JSON document; scored, rival: the scores behind its curves."""
    links = " ".join(f'<a href="#{name}">{title}</a>' for name, title in _TITLES.items())
    body = [
        _verdict(found),
        f"<nav>{links}</nav>",
        _points(found),
        _ranking(found, scored),
        _cards(found),
        _cost(found, scored, plan),
        tag.section("calibration", _TITLES["calibration"], slices.calibration(found)),
        tag.section("stability", _TITLES["stability"], slices.stability(found["stability"])),
        tag.section("segments", _TITLES["segments"], slices.segments(found["segments"])),
        tag.section("comparison", _TITLES["comparison"], models.comparison(found, scored, rival)),
        tag.section("ablation", _TITLES["ablation"], models.ablation(found["ablation"])),
        _method(found),
    ]
    return tag.document(f"Evaluation of {found['model']['name']}: {_SAID[found['verdict']['level']]}", "".join(body))


def _verdict(found: Mapping[str, Any]) -> str:
    verdict, rows, model = found["verdict"], found["rows"], found["model"]
    tiles = _tiles(found)
    findings = "".join(
        f"<li>{tag.badge(finding['level'], _SAID[finding['level']])}{tag.words(finding['text'])}</li>"
        for finding in verdict["findings"]
    )
    left_out = (
        f" {rows['unlabelled']:,} unlabelled rows are left out of all figures but alerts." if rows["unlabelled"] else ""
    )
    refused = (
        f" {rows['quarantined']:,} rows of the data break the schema and are left out." if rows["quarantined"] else ""
    )
    facts = (
        f"{model['name']} (schema {model['schema']}), judged on {rows['in_window']:,} rows with "
        f"{rows['frauds']:,} known frauds, {_when(found)}: {rows['window']}.{left_out}{refused}"
    )
    notes = "".join(f"<li>{tag.badge('warning', 'look')}{tag.words(note)}</li>" for note in found["notes"])
    nothing = f"<li>{tag.badge('ok', 'in order')}Nothing in the sections below stands out.</li>"
    return (
        f'<section id="verdict">{tag.badge(verdict["level"], _VERDICT[verdict["level"]])}'
        f"<h1>{tag.words(verdict['headline'])}</h1>{tiles}"
        f'<p class="quiet">{tag.words(facts)}</p>'
        f'<ul class="findings" id="rows">{findings or ("" if notes else nothing)}{notes}</ul></section>'
    )


def _tiles(found: Mapping[str, Any]) -> str:
    rows, ranking, cost = found["rows"], found["ranking"], found["cost"]
    per_day = f"{rows['alerts'] / rows['days']:,.1f} a day" if rows["days"] else f"{rows['alerts']:,} in all"
    tiles = []
    if "missing" not in ranking:
        at = ranking["points"][0]["figures"]
        for key, said in (
            ("recall", "of the frauds found"),
            ("amount_recall", "of the defrauded money stopped"),
            ("precision", "of the alerts are frauds"),
        ):
            if key in at and at[key]["value"] is not None:
                tiles.append((percent(at[key]["value"]), said, _band(at[key], percent)))
    tiles.append((percent(rows["alert_rate"]), "of the transactions alerted on", per_day))
    if "missing" not in ranking:
        first = next(iter(ranking["scores"].values()))["average_precision"]
        chance = f"{_band(first, tag.fixed)}; chance {ranking['base_rate']:.3f}"
        tiles.append((tag.fixed(first["value"]), "average precision", chance))
    if "missing" not in cost and cost["without_alerts"] > 0:
        saved = 1 - cost["at_threshold"]["cost"] / cost["without_alerts"]
        tiles.append(
            (f"{saved:.0%}", "of the loss saved, alerts paid", f"of {cost['without_alerts']:,.0f} without alerts")
        )
    shown = "".join(
        f'<div class="tile"><b>{value}</b>{tag.text(said)}<span>{tag.text(below)}</span></div>'
        for value, said, below in tiles
    )
    return f'<div class="tiles">{shown}</div>'


def _band(figure: Mapping[str, Any], form: Any) -> str:
    band = figure["interval"]
    return f"{form(band[0])} to {form(band[1])}" if band else "interval unknown"


def _points(found: Mapping[str, Any]) -> str:
    ranking = found["ranking"]
    if "missing" in ranking:
        return tag.section("points", _TITLES["points"], tag.missing(ranking))
    has_money = "amount_recall" in ranking["points"][0]["figures"]
    heads = ["alerting on", "alerts", "share of rows", "precision", "recall", "money caught", "false alarms", "cost"]
    rows = []
    for point in ranking["points"]:
        at = point["figures"]
        daily = f"<small>{at['alerts']['value'] / ranking['days']:,.1f} a day</small>" if ranking["days"] else ""
        said = tag.text(point["text"])
        if point["name"] == "threshold":
            said += f"<small>score at least {ranking['threshold']:.4f}</small>"
        rows.append(
            [said, f"{at['alerts']['value']:,.0f}{daily}", percent(at["alert_rate"]["value"])]
            + [with_interval(at.get(key)) for key in ("precision", "recall", "amount_recall")]
            + [with_interval(at["false_positive_rate"]), with_interval(at["cost"], tag.number)]
        )
    if not has_money:
        heads.remove("money caught")
        rows = [[cell for place, cell in enumerate(row) if place != 5] for row in rows]
    lead = (
        "<p>Precision: share of the alerts that are frauds. Recall: share of the frauds that are alerted on. "
        "False alarms: share of the legitimate rows alerted on. Below each figure its 95 % interval.</p>"
    )
    money = "" if has_money else '<p class="quiet">No amount column is known: name one with --amount to see money.</p>'
    return tag.section("points", _TITLES["points"], lead, table(heads, rows), money)


def _ranking(found: Mapping[str, Any], scored: Scored) -> str:
    ranking = found["ranking"]
    if "missing" in ranking:
        return tag.section("ranking", _TITLES["ranking"], tag.missing(ranking))
    rows = scored.labelled
    said = _when(found)
    images = tag.pictures(
        tag.picture(
            lambda path: plots.pr_curve(rows.labels, rows.scores, path, window=said),
            "Precision against recall of every score",
        ),
        tag.picture(
            lambda path: plots.roc_curve(rows.labels, rows.scores, path, window=said),
            "Recall against false positive rate of every score",
        ),
    )
    cells = [
        [tag.text(name)] + [with_interval(figures[key], tag.fixed) for key in ("average_precision", "roc_auc")]
        + [with_interval(figures["recall_at_budget"])]
        for name, figures in ranking["scores"].items()
    ]  # fmt: skip
    budget = f"recall in the top {found['settings']['budget']:.2%}"
    return tag.section(
        "ranking", _TITLES["ranking"], images, table(["score", "average precision", "ROC-AUC", budget], cells)
    )


def _cards(found: Mapping[str, Any]) -> str:
    cards = found["card_precision"]
    if "missing" in cards:
        return tag.section("cards", _TITLES["cards"], tag.missing(cards))
    mean, unit = cards["mean"], "cards" if cards["unit"] else "transactions"
    when = "a day" if cards["by_day"] else "of the window (the schema has no timestamp)"
    band = f" (95 % interval over days: {_band(mean, percent)})" if mean["interval"] else ""
    what = f" Cards are told apart by the column {tag.text(cards['unit'])}." if cards["unit"] else ""
    left = (
        f" {cards['rows_left_out']:,} rows are left out: their card was known as compromised, or is missing."
        if cards["rows_left_out"]
        else ""
    )
    lead = (
        f"<p>Among the {cards['k']:,} most suspicious {unit} {when}, <b>{percent(mean['value'])}</b> are "
        f"{'compromised' if cards['unit'] else 'frauds'}{band}; a perfect score would "
        f"reach {percent(cards['attainable'])}.{what}{left}</p>"
    )
    image = ""
    if cards["by_day"] and len(cards["days"]) > 1:
        image = tag.pictures(
            tag.picture(lambda path: evaluation_plots.cards_a_day(cards, path), f"Precision of the top {unit} by day")
        )
    return tag.section("cards", _TITLES["cards"], lead, image)


def _cost(found: Mapping[str, Any], scored: Scored, plan: Plan) -> str:
    cost = found["cost"]
    if "missing" in cost:
        return tag.section("cost", _TITLES["cost"], tag.missing(cost))
    rows = scored.labelled
    image = tag.picture(
        lambda path: plots.threshold_cost(
            rows.labels, {"joined": rows.main}, path, config=cost_matrix(scored, plan), threshold=scored.threshold,
            amounts=rows.amounts, window=_when(found),
        ),
        "Total cost against the threshold",
    )  # fmt: skip
    missed = (
        f"its {tag.text(cost['missed_fraud'])}"
        if isinstance(cost["missed_fraud"], str)
        else f"{cost['missed_fraud']:g}"
    )
    band = cost["cheapest"]["interval"]
    lead = (
        f"<p>An alert costs {cost['alert_cost']:g}, right or wrong; a missed fraud costs {missed} (currency units; "
        "<code>--alert-cost</code>, <code>--fraud-cost</code>, <code>--amount</code>). The cheapest threshold is known "
        "afterwards only: it shows what was possible, not what to set.</p>"
    )
    cells = [
        ["no alerts", "–", tag.number(cost["without_alerts"])],
        ["the model's threshold", f"{scored.threshold:.4f}", tag.number(cost["at_threshold"]["cost"])],
        ["the cheapest threshold here", f"{cost['cheapest']['threshold']:.4f}"
         + (f"<small>{band[0]:.3f} to {band[1]:.3f}</small>" if band else ""), tag.number(cost["cheapest"]["cost"])],
    ]  # fmt: skip
    return tag.section("cost", _TITLES["cost"], lead, tag.pictures(image, table(["", "threshold", "cost"], cells)))


def _method(found: Mapping[str, Any]) -> str:
    settings, ranking = found["settings"], found["ranking"]
    by = ranking.get("resampled_by")
    drawn = f"whole cards (column {by}) are drawn" if by else "rows are drawn"
    said = (
        f"Intervals hold 95 % and come from {settings['resamples']} bootstrap resamples (seed {settings['seed']}) in "
        f"which {drawn} with replacement; shares of a slice have Wilson intervals. Two models, or a model and its "
        "ablations, are measured on the same resamples, so that the interval of a difference is that of the pair. Rows "
        "of equal score are alerted on together; a budget that cuts through them counts their expected share. A card "
        "is left out of the cards a day once a fraud of it was known (its day plus the label delay). Nothing on this "
        "page was used to fit, calibrate or choose a threshold, unless a finding at the top says so."
    )
    made = (
        f"Model {found['model']['name']}, SHA-256 {found['model']['sha256'][:16]}…, trained "
        f"{found['model']['trained']}; data {found['data']['path']}, fingerprint "
        f"{found['data']['fingerprint'][:16]}…; made {found['created']} in {found['seconds']} s."
    )
    return tag.section(
        "method", _TITLES["method"], f"<p>{tag.words(said)}</p>", f'<p class="quiet">{tag.words(made)}</p>'
    )


def _when(found: Mapping[str, Any]) -> str:
    """The window in words: days where it is longer than one."""
    start, end = str(found["rows"]["start"]), str(found["rows"]["end"])
    if (found["rows"]["days"] or 0) > 1:
        start, end = start[:10], end[:10]
    return f"{start} to {end}".replace("T", " ")
