"""Drift over many days on one page: a heat map of PSI by column and day, and lines for the most changed columns.

Reads the daily JSONs of monitoring.drift. A day without a report is a gap. A change of the model version, and with it
of the reference, is marked.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
from collections import Counter
from collections.abc import Sequence

from fraud.counts import counted
from fraud.data import tables
from fraud.errors import ConfigError
from fraud.judging.page import picture, render
from fraud.settings import Settings, turn_telemetry_off
from monitoring.trend.reports import Trend, align, read_reports

logger = logging.getLogger(__name__)

LINES = 5
_MOST_DAYS = 30


def document(trend: Trend) -> str:
    """The page as HTML."""
    from monitoring.trend import plots

    reports = [report for _, report in sorted(trend.reports.items(), reverse=True)]
    verdicts = Counter(report.verdict for report in reports)
    return render(
        "monitoring", "trend.html",
        trend=trend, newest=reports[0], most_days=_MOST_DAYS,
        bad_days=[report for report in reports if report.verdict != "ok"],
        tiles=[
            (f"{len(reports)} of {len(trend.days)}", "", "days with a report"),
            (verdicts["drift"], "", "days of drift"), (verdicts["warning"], "", "days of warning"),
            (len(trend.columns), "", "columns and scores"),
        ],
        pictures={
            "map": picture(lambda path: plots.heat_map(trend, path)),
            "lines": picture(lambda path: plots.lines(trend, path, LINES)),
        },
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.trend",
        description="Draw how far every column is from the reference, day by day. Reads the JSONs of monitoring.drift "
        "(named by day, such as 2026-01-31.json) and writes one HTML page that needs no network.",
        epilog="example:\n  python -m monitoring.trend --reports reports/drift --out reports/drift/trend.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reports", required=True, help="folder or URL with the daily JSONs")
    parser.add_argument("--out", default="trend.html", help="page to write (default: %(default)s)")
    parser.add_argument("--days", type=int, default=120, help="newest days to show (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    if arguments.days < 1 or not arguments.out.endswith(".html"):
        raise ConfigError(
            f"--days {arguments.days} --out {arguments.out!r}: --days must be 1 or more, --out must end in .html"
        )
    reports = read_reports(settings.locate(arguments.reports))
    first = reports[-1].day - dt.timedelta(days=arguments.days - 1)
    trend = align([report for report in reports if report.day >= first])
    out = settings.locate(arguments.out)
    tables.write_text(document(trend), out)
    sys.stdout.write(f"{counted(len(trend.reports), 'day')}, {counted(len(trend.columns), 'column')} → {out}\n")
    return 0
