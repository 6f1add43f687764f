"""The page's sections on parts of the rows: score levels, days or weeks, segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fraud.judging import evaluation_plots
from fraud.judging import page as tag
from fraud.judging.page import percent, table, with_interval


def calibration(found: Mapping[str, Any]) -> str:
    """Rarity and reliability of the score; found: the whole document."""
    rarity, reliability = found["rarity"], found["reliability"]
    parts = [
        "<p>A score says how rare such a row is among normal ones: 0.25 one in 10, 0.40 one in 100, 0.50 one in 1,000. "
        "Left, whether that holds on these rows; right, how many rows at a score are frauds.</p>"
    ]
    images = []
    if "missing" in rarity:
        parts.append(tag.missing(rarity))
    else:
        images.append(
            tag.picture(lambda path: evaluation_plots.rarity(rarity, path), "Observed against expected rarity")
        )
    if "missing" in reliability:
        parts.append(tag.missing(reliability))
    else:
        threshold = found["model"]["threshold"]["value"]
        images.append(
            tag.picture(
                lambda path: evaluation_plots.reliability(reliability, threshold, path), "Share of frauds by score"
            )
        )
    parts.append(tag.pictures(*images))
    if "missing" not in rarity:
        cells = [
            [tag.text(name), f"{level['score']:.3f}", percent(level["expected"]), percent(level["observed"])
             + f"<small>{percent(level['interval'][0])} to {percent(level['interval'][1])}</small>",
             f"{level['ratio']:.2f}", {True: "holds", False: "off", None: "too few rows"}[level["holds"]]]
            for name, levels in rarity["scores"].items() for level in levels
        ]  # fmt: skip
        heads = ["score", "level", "should reach it", "reach it", "ratio", ""]
        parts.append(f"<details><summary>All levels</summary>{table(heads, cells)}</details>")
    return "".join(parts)


def stability(found: Mapping[str, Any]) -> str:
    """Figures of each day, week or month."""
    if "missing" in found:
        return tag.missing(found)
    image = ""
    if any(part["figures"]["average_precision"] for part in found["parts"]):
        drawn = tag.picture(lambda path: evaluation_plots.stability(found, path), "Figures over time", "whole")
        image = tag.pictures(drawn)
    shown = _slices(found, f"{found['step']} of")
    return f"{image}<details><summary>Every {found['step']}</summary>{shown}</details>"


def segments(found: Mapping[str, Any]) -> str:
    """Figures of each segment."""
    if "missing" in found:
        return tag.missing(found)
    lead = (
        "<p>At the model's threshold. A segment is marked where it finds fewer frauds, or raises more false alarms, "
        "than the whole beyond chance (99 %).</p>"
    )
    parts = [f"<h3>{tag.text(c['column'])}</h3>{_slices(c, 'value')}" for c in found["columns"]]
    return "".join([lead, *parts])


def _slices(sliced: Mapping[str, Any], what: str) -> str:
    heads = [what, "rows", "frauds", "alert rate", "recall", "precision", "false alarms", "average precision"]
    lines = [(part["name"], part["figures"], part["weak"]) for part in sliced["parts"]]
    lines.append(("all rows", sliced["overall"], None))
    cells = [
        [tag.text(name) + (f"<small>{tag.badge('warning', 'weaker')}</small>" if weak else ""),
         f"{figures['rows']:,}", f"{figures['frauds']:,}"]
        + [with_interval(figures[key]) for key in ("alert_rate", "recall", "precision", "false_positive_rate")]
        + [with_interval(figures["average_precision"], tag.fixed)]
        for name, figures, weak in lines
    ]  # fmt: skip
    return table(heads, cells, classes=["weak" if weak else "" for _, _, weak in lines[:-1]] + ["total"])
