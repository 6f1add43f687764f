"""The page's sections on several fitted models: champion against challenger, and refits without a feature group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fraud.judging import evaluation_plots, plots
from fraud.judging import page as tag
from fraud.judging.evaluation import Scored
from fraud.judging.page import percent, table

_FIGURES = {
    "average_precision": ("average precision", tag.fixed),
    "roc_auc": ("ROC-AUC", tag.fixed),
    "recall_at_budget": ("recall within the budget", percent),
    "amount_recall_at_budget": ("money caught within the budget", percent),
    "recall_at_threshold": ("recall, each at its threshold", percent),
    "alert_rate_at_threshold": ("share of rows alerted on, each at its threshold", percent),
    "cost_at_threshold": ("cost, each at its threshold", tag.number),
}
_BADGE = {"better": "ok", "worse": "bad", "alike": "unknown"}
_CELLS = {"both": "both alert", "only_ours": "only {0}", "only_theirs": "only {1}", "neither": "neither"}


def comparison(found: Mapping[str, Any], scored: Scored, rival: Scored | None) -> str:
    """The paired comparison as HTML: verdict, figures, curves, where the two disagree."""
    compared = found["comparison"]
    parts = []
    if "missing" in compared:
        parts.append(tag.missing(compared))
    else:
        level = compared["verdict"]
        parts += [
            f"<p>{tag.badge(_BADGE[level], level)} <b>{tag.words(compared['text'])}</b></p>",
            figures(compared),
        ]
        if compared["rows_only_one_takes"]:
            parts.append(
                f'<p class="quiet">{compared["rows_only_one_takes"]:,} rows break the other model\'s schema and are '
                "left out here.</p>"
            )
        if rival is not None:
            ours, theirs = scored.labelled, rival.labelled
            scores = {"this model": ours.main, "the other": theirs.main}
            drawn = tag.picture(
                lambda path: plots.pr_curve(ours.labels, scores, path, window="same rows"),
                "Precision and recall of both",
            )
            parts.append(tag.pictures(drawn))
    if "disagreement" in compared:
        parts.append(_disagreement(compared["disagreement"], compared["names"]))
    return "".join(parts)


def figures(compared: Mapping[str, Any]) -> str:
    """The figures of a paired comparison side by side, as HTML."""
    cells = []
    for name, figure in compared["figures"].items():
        said, form = _FIGURES[name]
        shown = tag.signed if form is tag.fixed else _points if form is percent else _money
        band = figure["interval"]
        below = f"<small>{shown(band[0])} to {shown(band[1])}</small>" if band else ""
        cells.append(
            [tag.text(said), form(figure["ours"]), form(figure["theirs"]), shown(figure["difference"]) + below]
        )
    return table(["", *[tag.text(name) for name in compared["names"]], "difference"], cells)


def _disagreement(found: Mapping[str, Any], names: list[str]) -> str:
    cells = []
    for key, said in _CELLS.items():
        cell = found[key]
        share = cell["frauds"] / cell["labelled"] if cell["labelled"] else None
        cells.append([tag.text(said.format(*names)), f"{cell['rows']:,}", f"{cell['frauds']:,}", percent(share)])
    parts = [
        "<h3>Where they disagree, each at its own threshold</h3>",
        table(["", "rows", "frauds", "precision"], cells),
    ]
    if found["rows"]:
        columns = list(found["rows"][0]["values"])
        label = {1: "fraud", 0: "legitimate", -1: "unknown"}
        lines = [
            [str(row["row"]), label[row["label"]], tag.fixed(row["ours"]), tag.fixed(row["theirs"])]
            + [tag.text(row["values"][column]) for column in columns]
            for row in found["rows"]
        ]
        shown = table(["row", "label", *names, *columns], lines)
        parts.append(f"<details><summary>The {len(lines)} widest gaps</summary>{shown}</details>")
    return "".join(parts)


def ablation(found: Mapping[str, Any]) -> str:
    """What each group is worth, as HTML."""
    if "missing" in found:
        return tag.missing(found)
    measured = [group for group in found["groups"] if "worth" in group]
    window, whole = found["window"], found["all"]
    again = "" if found["same_data"] else " The data are not those the model was trained on: the refits differ from it."
    lead = (
        f"<p>The training is repeated with all features and without each group, and judged on the same test window "
        f"({tag.text(window['start'])} to {tag.text(window['end'])}, {window['rows']:,} rows, {window['frauds']:,} "
        f"frauds) and resamples. Worth: average precision lost without the group; below 0 it does better without. "
        f"Groups that say the same can stand in for one another, so that each alone looks worth little.{again}</p>"
    )
    image = ""
    if measured:
        image = tag.pictures(
            tag.picture(lambda path: evaluation_plots.ablation(measured, path), "What each feature group is worth")
        )
    all_of_them = {"value": whole["average_precision"], "interval": whole["interval"]}
    cells = [["all features", "", tag.with_interval(all_of_them, tag.fixed), ""]]
    for group in found["groups"]:
        name = f"without {tag.text(group['name'])}"
        features = tag.words(", ".join(group["features"]))
        if "missing" in group:
            cells.append([name, features, "–", tag.words(group["missing"])])
            continue
        figures = (
            tag.with_interval({"value": group["average_precision"], "interval": group["interval"]}, tag.fixed),
            tag.with_interval({"value": group["worth"], "interval": group["worth_interval"]}, tag.signed),
        )
        cells.append([name, features, *figures])
    heads = ["", "features lost", "average precision", "worth"]
    return lead + image + table(heads, cells, names=2, classes=["total"])


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f} pts"


def _money(value: float | None) -> str:
    return tag.number(value, "+,.0f")
