"""Drift over many days on one page: a heat map of PSI, columns by days, and lines for what changed most.

Reads the daily JSONs of monitoring.drift. A day without a report is a gap, and where another model version took over,
whose reference is another, is marked.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fraud import data, filesystems, page
from fraud.errors import ConfigError, DataError, run_command
from fraud.settings import Settings, turn_telemetry_off

logger = logging.getLogger(__name__)

SCORE = "score"
LINES = 5
_MOST_DAYS = 30
_COLOUR = {"ok": "ok", "warning": "warning", "drift": "bad"}


@dataclass(frozen=True)
class DayReport:
    """One daily report. psi, levels, limits: by column, scores and alert rate among them; limits (warning, drift)."""

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
    """Reports side by side: days without a gap in the calendar, PSI (n_columns, n_days), NaN where there is none, to be
    held against `limits` (warning, drift).

    columns: the scores first, then the others, worst first. reports: by day. switches: days on which another model
    scored than before.
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
    """The daily reports `<folder>/<YYYY-MM-DD>.json`, oldest first; one that cannot be read is left out, and told.

    Raises DataError where there is none.
    """
    filesystem, root = filesystems.of(folder)
    found = []
    for path in sorted(filesystem.glob(f"{root.rstrip('/')}/*.json")):
        try:
            day = dt.date.fromisoformat(Path(path).stem)
        except ValueError:
            continue
        try:
            with filesystem.open(path, "rt", encoding="utf-8") as text:
                found.append(_report(day, json.load(text)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is no report of monitoring.drift and left out (%s)", path, type(error).__name__)
    if not found:
        raise DataError(f"{folder} holds no report named like 2026-01-31.json: run monitoring.drift with such an --out")
    return sorted(found, key=lambda report: report.day)


def trend(reports: Sequence[DayReport]) -> Trend:
    """Put daily reports side by side. A column is as bad as its PSI on its third worst day.

    Where the reference's own days raised a column's limits, its PSI is scaled down to the usual ones.
    """
    first, last = reports[0].day, reports[-1].day
    days = tuple(first + dt.timedelta(days=i) for i in range((last - first).days + 1))
    by_day = {report.day: report for report in reports}
    names = list(dict.fromkeys(name for report in reports for name in report.psi))
    limits = min(limit for report in reports for limit in report.limits.values())
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


def document(found: Trend) -> str:
    """The whole page."""
    from monitoring import trend_plots

    newest = found.reports[max(found.reports)]
    drifted = [day for day, report in found.reports.items() if report.verdict == "drift"]
    warned = [day for day, report in found.reports.items() if report.verdict == "warning"]
    span = f"{found.days[0]} to {found.days[-1]}"
    tiles = [
        ("days with a report", f"{len(found.reports)} of {len(found.days)}"), ("days of drift", str(len(drifted))),
        ("days of warning", str(len(warned))), ("columns and scores", str(len(found.columns))),
    ]  # fmt: skip
    shown = "".join(f'<div class="tile"><b>{page.text(value)}</b><span>{name}</span></div>' for name, value in tiles)
    said = f"PSI of {len(found.columns)} columns, {span}"
    parts = [
        f"<h1>{page.badge(_COLOUR[newest.verdict], newest.verdict)} {newest.day}: {page.words(newest.reason)}</h1>",
        f'<div class="tiles">{shown}</div>',
        page.section(
            "map", "Every column, every day",
            "<p>Population stability index of each day against the reference of the model that scored it; of columns "
            "whose limits the reference's own days raised, in proportion. Scores first, then the columns, worst first. "
            "White: no report. Dashed lines: another model took over.</p>",
            page.pictures(page.picture(lambda path: trend_plots.heat_map(found, path), said, "whole")),
        ),
        page.section(
            "lines", "What changed most",
            page.pictures(page.picture(lambda path: trend_plots.lines(found, path, LINES), "PSI by day", "whole")),
        ),
        page.section("days", "Days that were not ok", _days(found)),
    ]  # fmt: skip
    return page.document(f"Drift, {span}", "".join(parts))


def _days(found: Trend) -> str:
    bad = [report for _, report in sorted(found.reports.items(), reverse=True) if report.verdict != "ok"]
    told = bad[:_MOST_DAYS]
    rows = [
        [str(report.day), page.badge(_COLOUR[report.verdict], report.verdict), page.text(", ".join(report.models)),
         page.words(report.reason)]
        for report in told
    ]  # fmt: skip
    gaps = ", ".join(f"{day}" for day in found.gaps)
    earlier = f'<p class="quiet">And {len(bad) - len(told)} days before.</p>' if len(bad) > len(told) else ""
    return (
        page.table(["day", "verdict", "model", "what changed"], rows, names=4) + earlier if rows else "<p>None.</p>"
    ) + (f'<p class="missing">No report of {gaps}.</p>' if gaps else "")


def _report(day: dt.date, found: Mapping[str, Any]) -> DayReport:
    scores = [*(found["score"]["columns"] if found["score"] else ())]
    columns = [column for column in [*scores, *found["columns"]] if column["statistics"].get("psi") is not None]
    thresholds = {column["column"]: column["thresholds"]["psi"] for column in columns}
    return DayReport(
        day=day, verdict=str(found["verdict"]), reason=str(found["reason"]),
        models=tuple(map(str, found["current"]["models"])),
        psi={column["column"]: float(column["statistics"]["psi"]) for column in columns},
        levels={column["column"]: column["level"] for column in columns},
        limits={name: (float(both["warning"]), float(both["drift"])) for name, both in thresholds.items()},
        scores=tuple(column["column"] for column in scores),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.trend",
        description="Draw how far every column is from the reference, day by day, from the JSONs that monitoring.drift "
        "wrote (named by their day, such as 2026-01-31.json): one page that needs no network.",
        epilog="example:\n  python -m monitoring.trend --reports reports/drift --out reports/drift/trend.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reports", required=True, help="folder or URL with the daily JSONs")
    parser.add_argument("--out", default="trend.html", help="page to write (default: %(default)s)")
    parser.add_argument("--days", type=int, default=120, help="newest days to show (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    given = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    if given.days < 1 or not given.out.endswith(".html"):
        raise ConfigError("--days is a number of days, and --out a file ending in .html")
    reports = read_reports(settings.locate(given.reports))
    first = reports[-1].day - dt.timedelta(days=given.days - 1)
    found = trend([report for report in reports if report.day >= first])
    out = settings.locate(given.out)
    data.write_text(document(found), out)
    sys.stdout.write(f"{len(found.reports)} days, {len(found.columns)} columns → {out}\n")
    return 0


if __name__ == "__main__":
    run_command(main)
