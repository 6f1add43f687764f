"""The README's tables of what is caught, from the JSON of the last run, between two comment markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.protocols import DATA_SETS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("benchmarks/results/detection.json")


def spread(values: list[list[float]], digits: int = 3) -> str:
    """Mean over the windows of each seed, then mean ± standard deviation over the seeds."""
    of_seeds = [float(np.mean(windows)) for windows in values]
    return f"{np.mean(of_seeds):.{digits}f} ± {np.std(of_seeds):.{digits}f}"


def text(name: str, found: Mapping[str, Any]) -> str:
    """One data set's whole table, measured and quoted, as Markdown."""
    has_cards = any("card_precision" in metrics for metrics in found["figures"].values())
    lines = [
        f"| {found['title']} | ROC-AUC | average precision | 95 % interval |" + (" CP@100 |" if has_cards else ""),
        "|---|---|---|---|" + ("---|" if has_cards else ""),
    ]
    for who, metrics in found["figures"].items():
        band = found["intervals"][who].get("average_precision")
        shown = f"{band[0]:.3f}–{band[1]:.3f}" if band else ""
        line = f"| {who} | {spread(metrics['roc_auc'])} | {spread(metrics['average_precision'])} | {shown} |"
        lines.append(line + (f" {spread(metrics['card_precision'])} |" if has_cards else ""))
    for quoted in DATA_SETS[name].quoted:
        who = f"quoted: {quoted.who}" + (f" ({quoted.protocol})" if quoted.protocol else "")
        line = f"| {who} | {quoted.roc_auc} | {quoted.average_precision} | |"
        lines.append(line + (f" {quoted.card_precision} |" if has_cards else ""))
    return "\n".join(lines)


def write(results: Mapping[str, Any]) -> None:
    """Put the tables between the markers."""
