"""Drift over many days on one page: a heat map of PSI, columns by days, and lines for what changed most.

Reads the daily JSONs of monitoring.drift. A day without a report is a gap, and where another model version took over,
whose reference is another, is marked.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
from collections.abc import Sequence

from fraud.data import tables
from fraud.errors import ConfigError
from fraud.judging import page
from fraud.settings import Settings, turn_telemetry_off
from monitoring.trend.reports import Trend, read_reports, trend

logger = logging.getLogger(__name__)

LINES = 5
_MOST_DAYS = 30
_COLOUR = {"ok": "ok", "warning": "warning", "drift": "bad"}


def document(found: Trend) -> str:
    """The whole page."""
    from monitoring.trend import plots

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
            page.pictures(page.picture(lambda path: plots.heat_map(found, path), said, "whole")),
        ),
        page.section(
            "lines", "What changed most",
            page.pictures(page.picture(lambda path: plots.lines(found, path, LINES), "PSI by day", "whole")),
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
    tables.write_text(document(found), out)
    sys.stdout.write(f"{len(found.reports)} days, {len(found.columns)} columns → {out}\n")
    return 0
