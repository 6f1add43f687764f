"""The daily drift reports side by side: days by columns, with gaps and changes of the model."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fraud.data import filesystems
from fraud.errors import DataError
from monitoring.drift.verdict import LEVELS, DriftLimits

logger = logging.getLogger(__name__)

SCORE = "score"


@dataclass(frozen=True)
class DayReport:
    """One daily report. psi, levels, limits (warning, drift): by column, including scores and alert rate.

    A day with too few rows for a verdict has no columns: it is a gap in the pictures.
    """

    day: dt.date
    verdict: str
    reason: str
    models: tuple[str, ...]
    psi: Mapping[str, float]
    levels: Mapping[str, str]
    limits: Mapping[str, tuple[float, float]]
    scores: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trend:
    """Daily reports side by side.

    days: every calendar day. psi: (n_columns, n_days), NaN where missing; compare with `limits` (warning, drift).
    columns: scores first, then the others, worst first. reports: by day. switches: {first day of a model: model}.
    """

    days: tuple[dt.date, ...]
    columns: tuple[str, ...]
    psi: np.ndarray
    reports: Mapping[dt.date, DayReport]
    limits: tuple[float, float]
    switches: Mapping[dt.date, str] = field(default_factory=dict)

    @property
    def gaps(self) -> tuple[dt.date, ...]:
        """Days without a report."""
        return tuple(day for day in self.days if day not in self.reports)


def read_reports(folder: str) -> list[DayReport]:
    """Read `<folder>/<YYYY-MM-DD>.json`, oldest first. Skips unreadable files with a warning.

    Raises DataError if there is no report.
    """
    filesystem, root = filesystems.of(folder)
    reports = []
    for path in sorted(filesystem.glob(f"{root.rstrip('/')}/*.json")):
        try:
            day = dt.date.fromisoformat(Path(path).stem)
        except ValueError:
            continue
        try:
            with filesystem.open(path, "rt", encoding="utf-8") as text:
                reports.append(_report(day, json.load(text)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is not a report of monitoring.drift: skipped (%s)", path, type(error).__name__)
    if not reports:
        raise DataError(f"{folder} holds no report named like 2026-01-31.json: run monitoring.drift with such an --out")
    return sorted(reports, key=lambda report: report.day)


def align(reports: Sequence[DayReport]) -> Trend:
    """Align daily reports, oldest first. Columns are ranked by their PSI on their third worst day.

    If the reference's own variation raised a column's limits, its PSI is scaled down to match the usual limits.
    """
    first, last = reports[0].day, reports[-1].day
    days = tuple(first + dt.timedelta(days=i) for i in range((last - first).days + 1))
    by_day = {report.day: report for report in reports}
    names = list(dict.fromkeys(name for report in reports for name in report.psi))
    limits = min((limit for report in reports for limit in report.limits.values()), default=DriftLimits().psi)
    psi = np.full((len(names), len(days)), np.nan)
    for j, day in enumerate(days):
        for i, name in enumerate(names if day in by_day else ()):
            if (value := by_day[day].psi.get(name)) is not None:
                psi[i, j] = value * limits[1] / by_day[day].limits[name][1]
    third = np.sort(np.nan_to_num(psi), axis=1)[:, -min(3, len(days))]
    scores = {name for report in reports for name in report.scores}
    order = sorted(
        range(len(names)), key=lambda i: (names[i] not in scores, -third[i] if names[i] not in scores else i)
    )
    switches, before = {}, reports[0].models
    for report in reports[1:]:
        if report.models and report.models != before:
            switches[report.day] = ", ".join(report.models)
            before = report.models
    return Trend(days, tuple(names[i] for i in order), psi[order], by_day, limits, switches)


def _report(day: dt.date, document: Mapping[str, Any]) -> DayReport:
    scores = [*(document["score"]["columns"] if document["score"] else ())]
    judged = [column for column in [*scores, *document["columns"]] if column["level"] in LEVELS]
    columns = [column for column in judged if column["statistics"].get("psi") is not None]
    thresholds = {column["column"]: column["thresholds"]["psi"] for column in columns}
    return DayReport(
        day=day, verdict=str(document["verdict"]), reason=str(document["reason"]),
        models=tuple(map(str, document["current"]["models"])),
        psi={column["column"]: float(column["statistics"]["psi"]) for column in columns},
        levels={column["column"]: column["level"] for column in columns},
        limits={name: (float(both["warning"]), float(both["drift"])) for name, both in thresholds.items()},
        scores=tuple(column["column"] for column in scores),
    )  # fmt: skip
