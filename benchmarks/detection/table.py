"""The tables of docs/detection.md, from the JSON of the last run: a summary, then every data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.measure import OURS
from benchmarks.detection.protocols import DATA_SETS
from benchmarks.pages import ROOT, row, write_section

RESULTS = ROOT / "benchmarks/results/detection.json"
BEGIN = "<!-- measured: python -m benchmarks.detection --table -->"
# The summary omits card precision where a perfect score reaches less than this.
LOWEST_ATTAINABLE = 0.05
# In bold: the deciding scores, with and without enough labels.
OF_INTEREST = (OURS["joined"], OURS["label_light"])


def spread(values: list[list[float]]) -> str:
    """Mean over the windows of each seed, then mean ± standard deviation over the seeds."""
    of_seeds = [float(np.mean(windows)) for windows in values]
    return f"{np.mean(of_seeds):.3f} ± {np.std(of_seeds):.3f}"


def markdown(name: str, results: Mapping[str, Any]) -> str:
    """Markdown table of one data set: measured and quoted figures."""
    windows, quoted = results["windows"], DATA_SETS[name].quoted
    attainable = [window["attainable_card_precision"] for window in windows]
    cards = "" if None in attainable else f" CP@100 (at most {np.mean(attainable):.3f}) | CP@100, known at the start |"
    span = ", ".join(f"{window['start']} to {window['end']}" for window in windows)
    counts = ", ".join(f"{window['frauds']:,} of {window['rows']:,}" for window in windows)
    seeds = ", ".join(map(str, results["seeds"]))
    lines = [
        f"### {results['title']}",
        "",
        f"Protocol: {results['protocol']}. Test {span}; frauds {counts} rows. Seeds {seeds}.",
        "",
        "| measured | ROC-AUC | average precision | its interval |" + cards,
        "|---|---|---|---|" + ("---|---|" if cards else ""),
    ]
    for who, figures in results["figures"].items():
        low, high = results["intervals"][who]["average_precision"]
        cells = [who, spread(figures["roc_auc"]), spread(figures["average_precision"]), f"{low:.3f}–{high:.3f}"]
        cells += [spread(figures[key]) for key in ("card_precision", "card_precision_at_start") if cards]
        lines.append(row(cells))
    lines += ["", "| quoted | ROC-AUC | average precision |" + (" CP@100 |" if cards else "") + " differs by |"]
    lines.append("|---|---|---|---|" + ("---|" if cards else ""))
    for other in quoted:
        cells = [other.who, other.roc_auc, other.average_precision]
        lines.append(row([*cells, *([other.card_precision] if cards else []), other.protocol]))
    return "\n".join(lines)


def summary(results: Mapping[str, Any]) -> str:
    """Markdown table: a row per score, average precision and ROC-AUC of each data set as columns."""
    names = [name for name in DATA_SETS if name in results]
    header = ["average precision (ROC-AUC)"]
    for name in names:
        weeks = len(results[name]["windows"])
        header.append(results[name]["title"] + (f", {weeks} weeks" if weeks > 1 else ""))
        header += ["its CP@100"] if _is_informative(results[name]) else []
    lines = [row(header), "|" + "---|" * len(header)]
    for who in dict.fromkeys(who for name in names for who in results[name]["figures"]):
        mark = "**" if who in OF_INTEREST else ""
        cells = [f"{mark}{who}{mark}"]
        for name in names:
            figures = results[name]["figures"].get(who)
            cells += _cells(figures, mark, with_cards=_is_informative(results[name]))
        lines.append(row(cells))
    for kind in ("label-free", "supervised"):
        cells = [f"best quoted, {kind}"]
        for name in names:
            (best,) = (quoted for quoted in DATA_SETS[name].best if quoted.who == kind)
            cells.append(f"{best.average_precision} ({best.roc_auc})")
            cells += [best.card_precision] if _is_informative(results[name]) else []
        lines.append(row(cells))
    return "\n".join(lines)


def pages(results: Mapping[str, Any]) -> dict[Path, str]:
    """Path and measured section of each page."""
    tables = [summary(results), *(markdown(name, results[name]) for name in DATA_SETS if name in results)]
    return {ROOT / "docs/detection.md": "\n\n".join(tables)}


def write(results: Mapping[str, Any]) -> None:
    for path, measured in pages(results).items():
        write_section(path, measured, BEGIN)


def _is_informative(results: Mapping[str, Any]) -> bool:
    """Whether enough cards are compromised per day for card precision to separate scores."""
    attainable = [window["attainable_card_precision"] or 0.0 for window in results["windows"]]
    return float(np.mean(attainable)) >= LOWEST_ATTAINABLE


def _cells(figures: Mapping[str, Any] | None, mark: str, *, with_cards: bool) -> list[str]:
    if figures is None:
        return ["", ""] if with_cards else [""]
    area = np.mean([np.mean(windows) for windows in figures["roc_auc"]])
    shown = f"{mark}{spread(figures['average_precision'])}{mark} ({area:.3f})"
    return [shown, spread(figures["card_precision"])] if with_cards else [shown]
