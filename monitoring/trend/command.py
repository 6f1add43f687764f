"""Drift over many days on one page: a heat map of PSI by column and day, and lines for the most changed columns.

Reads the daily JSONs of monitoring.drift. A day without a report is a gap. A change of the model version, and with it
of the reference, is marked.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import logging
import sys
from collections import Counter
from collections.abc import Sequence

from fraud.cli import add_force, examples, next_step
from fraud.counts import counted
from fraud.data import tables
from fraud.errors import ConfigError
from fraud.judging.page import picture, render
from fraud.settings import Settings, turn_telemetry_off
from monitoring.drift.verdict import COLOURS, TOO_FEW_ROWS, WORDS
from monitoring.trend.reports import Trend, align, read_reports

logger = logging.getLogger(__name__)

LINES = 5
_MOST_DAYS = 30


def document(trend: Trend) -> str:
    """The page as HTML."""
    from monitoring.trend import plots

    reports = [report for _, report in sorted(trend.reports.items(), reverse=True)]
    drawings = {"map": plots.heat_map, "lines": functools.partial(plots.lines, columns=LINES)}
    verdicts = Counter(report.verdict for report in reports)
    return render(
        "monitoring", "trend.html",
        trend=trend, colours=COLOURS, words=WORDS, newest=reports[0], most_days=_MOST_DAYS,
        bad_days=[report for report in reports if report.verdict != "ok"],
        tiles=[
            (f"{len(reports)} of {len(trend.days)}", "", "days with a report"),
            (verdicts["drift"], "", "days of drift"), (verdicts["warning"], "", "days of warning"),
            (verdicts[TOO_FEW_ROWS], "", "days with too few rows"), (len(trend.columns), "", "columns and scores"),
        ],
        pictures={
            name: picture(lambda path, draw=draw: draw(trend, path))  # type: ignore[misc]
            for name, draw in drawings.items()
            if trend.columns
        },
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.trend",
        description="Draw how far every column is from the reference, day by day. Reads the JSONs of monitoring.drift "
        "(named by day, such as 2026-01-31.json) and writes one HTML page that needs no network.",
        **examples("python -m monitoring.trend --reports reports/drift --out reports/drift/trend.html"),
    )
    parser.add_argument("--reports", required=True, help="folder or URL with the daily JSONs")
    parser.add_argument("--out", default="trend.html", help="page to write (default: %(default)s)")
    parser.add_argument("--days", type=int, default=120, help="newest days to show (default: %(default)s)")
    add_force(parser)
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
    out = settings.locate(arguments.out)
    tables.check_out(out, tables.marked("<title>Drift, "), force=arguments.force)
    reports = read_reports(settings.locate(arguments.reports))
    first = reports[-1].day - dt.timedelta(days=arguments.days - 1)
    trend = align([report for report in reports if report.day >= first])
    tables.write_text(document(trend), out)
    sys.stdout.write(f"{counted(len(trend.reports), 'day')}, {counted(len(trend.columns), 'column')} → {out}\n")
    sys.stdout.write(next_step("python -m monitoring.performance"))
    return 0
