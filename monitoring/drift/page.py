"""Our drift page: the verdict, every column, why Evidently may differ, the next step. Needs no script, no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fraud.judging.page import render
from monitoring.drift.evidently_page import LONGEST_NAME, PICTURED_COLUMNS, PICTURED_ROWS
from monitoring.drift.verdict import COLOURS, LEVELS, WORDS, shortened

SHOWN_COLUMNS = 15


def page(report: Mapping[str, Any]) -> str:
    """The page as HTML. report: the JSON document; `report["evidently"]` has the name of Evidently's page."""
    score = report["score"]
    ranked = sorted(report["columns"], key=lambda c: (-_rank(c["level"]), -c["size"]))
    shown = [*(score["columns"] if score else ()), *ranked[:SHOWN_COLUMNS]]
    return render(
        "monitoring", "drift.html",
        report=report, colours=COLOURS, words=WORDS, shown=[_column(column, report) for column in shown],
        more=[_column(column, report) for column in ranked[SHOWN_COLUMNS:]],
        pictured_rows=PICTURED_ROWS, pictured_columns=PICTURED_COLUMNS,
    )  # fmt: skip


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else 0


def _column(column: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the page's table."""
    statistics, p_value = column["statistics"], column["decisive_p_value"]
    distance = statistics.get("ks", statistics.get("jensen_shannon"))
    limit, usual = column["thresholds"]["psi"]["drift"], report["limits"]["psi"]["drift"]
    return {
        "name": shortened(column["column"], LONGEST_NAME), "kind": column["kind"], "level": column["level"],
        "change": column["change"], "psi": _finite(statistics.get("psi")), "distance": _finite(distance),
        "limit": limit if limit > usual else None,
        "p_value": "< 1e-300" if p_value == 0 else format(p_value, ".3f" if p_value >= 0.001 else ".0e"),
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
