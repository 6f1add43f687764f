"""Compare a file with a reference: an HTML report for people, a JSON verdict for machines."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from fraud.cli import examples, next_step
from fraud.data import tables
from fraud.errors import ConfigError
from fraud.schema import Schema
from fraud.schema.zone import agreed
from fraud.settings import Settings, turn_telemetry_off
from fraud.thresholds.selection import Threshold
from monitoring import exports
from monitoring.drift.comparison import compare
from monitoring.drift.reconciliation import reconcile
from monitoring.drift.verdict import TOO_FEW_ROWS, DriftLimits

logger = logging.getLogger(__name__)

DRIFT_EXIT_CODE, TOO_FEW_ROWS_EXIT_CODE = 3, 4
EVIDENTLY = ".evidently.html"  # ends the name of Evidently's page


def report(
    reference: str,
    current: str,
    out: str,
    schema: Schema | None = None,
    *,
    threshold: Threshold | None = None,
    sample: int = 50_000,
    seed: int = 7,
    force: bool = False,
    limits: DriftLimits | None = None,
) -> dict[str, Any]:
    """Compare two files; write the page to `out`, and Evidently's page and the JSON verdict beside it.

    Returns the verdict.

    force: replace files that are no drift reports. Raises ConfigError, DataError or SchemaError, and then writes
    nothing.
    """
    from monitoring.drift import evidently_page, page

    if not out.endswith(".html"):
        raise ConfigError(f"--out {out!r} is not an .html file: name a file ending in .html")
    stem = out.removesuffix(".html")
    beside = f"{stem}{EVIDENTLY}"
    tables.check_out(out, tables.marked("<title>Drift: "), force=force)
    tables.check_out(beside, tables.marked("fraud-note"), force=force)
    tables.check_out(json_path(out), tables.marked('"format_version"', '"verdict"', '"reference"'), force=force)
    compared = compare(reference, current, schema, threshold=threshold, sample=sample, seed=seed, limits=limits)
    document = compared.document
    logger.info("verdict: %s; drawing the report", document["verdict"])
    shown = {name: compared.kinds[name] for name in compared.most_changed(evidently_page.PICTURED_COLUMNS)}
    columns = [*(document["score"]["columns"] if document["score"] else ()), *document["columns"]]
    psi_limits = {column["column"]: column["thresholds"]["psi"]["drift"] for column in columns}
    drawn, psi = evidently_page.evidently_page(compared.reference, compared.current, shown, psi_limits)
    document |= {"report": out, "evidently": {"page": beside, **reconcile(document, psi)}}
    tables.write_text(evidently_page.guarded(document, drawn, out.rpartition("/")[2]), beside)
    tables.write_text(page.page(document), out)
    tables.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", json_path(out))
    return document


def json_path(out: str) -> str:
    """The path of the verdict, beside the page."""
    return f"{out.removesuffix('.html')}.json"


def next_after(verdict: str, out: str) -> str:
    """The next command after a report: to tell people, to see the days together, or to see the alerts' precision."""
    if verdict in ("warning", "drift"):
        return next_step("python -m monitoring.alerts", "--drift", json_path(out))
    folder, _, name = out.rpartition("/")
    if re.fullmatch(r"\d{4}-\d\d-\d\d\.html", name):
        folder = folder or "."
        return next_step("python -m monitoring.trend", "--reports", folder, "--out", f"{folder}/trend.html")
    return next_step("python -m monitoring.performance")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.drift",
        description="Compare a file of transactions with a reference: data quality, every column, and the score if "
        "both files have one. Writes an HTML report and, beside it, a JSON verdict: ok, warning, drift "
        "or too_few_rows.",
        **examples(
            "python -m monitoring.drift --model champion --cur scored/date=2026-01-31 "
            "--out reports/drift/2026-01-31.html",
            "python -m monitoring.drift --ref data/may.csv --cur data/june.csv --schema transactions --fail-on-drift",
        ),
    )
    parser.add_argument(
        "--ref",
        help="reference: CSV or Parquet, raw or scored; file, folder, glob or URL (default: the reference that the "
        "training of --model stored: rows it did not learn from, with this model's scores)",
    )
    parser.add_argument("--cur", required=True, help="current data to compare with the reference")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--schema", help="schema YAML, or a shipped name (default: guessed from the reference)")
    what.add_argument("--model", help="alias, version or bundle folder that gives schema and threshold")
    parser.add_argument("--out", default="monitoring/drift_report.html", help="page to write (default: %(default)s)")
    parser.add_argument(
        "--sample", type=int, default=50_000, help="largest number of rows to test per file (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of the sample (default: %(default)s)")
    parser.add_argument(
        "--fail-on-drift",
        action="store_true",
        help=f"exit with {DRIFT_EXIT_CODE} when the verdict is drift, with {TOO_FEW_ROWS_EXIT_CODE} when there are too "
        "few rows for one (otherwise 0)",
    )
    parser.add_argument(
        "--min-rows",
        type=int,
        default=DriftLimits.min_rows,
        help="rows that a verdict needs on each side (default: %(default)s)",
    )
    exports.add_flags(parser)
    return parser


def _contract(
    schema: str | None, model: str | None, ref: str | None, settings: Settings
) -> tuple[Schema | None, Threshold | None, str]:
    """The schema, the threshold and the reference that the flags name."""
    if model is None:
        if ref is None:
            raise ConfigError("no reference: give --ref, or --model to use the reference of its training")
        if schema is None:
            return None, None, settings.locate(ref)
        return Schema.load(settings.locate_yaml(schema)), None, settings.locate(ref)
    from fraud.registry import models, reference

    opened = models.open_model(model, settings)
    path = str(reference.locate(opened, settings)) if ref is None else settings.locate(ref)
    detector = opened.bundle.detector
    return detector.schema, detector.threshold, path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 0; with --fail-on-drift, 3 for drift and 4 for too few rows."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    schema, threshold, reference = _contract(arguments.schema, arguments.model, arguments.ref, settings)
    if schema is not None:
        agreed(schema, settings.day_zone)
    document = report(
        reference,
        settings.locate(arguments.cur),
        settings.locate(arguments.out),
        schema,
        threshold=threshold,
        sample=arguments.sample,
        seed=arguments.seed,
        limits=DriftLimits(min_rows=arguments.min_rows),
        force=arguments.force,
    )
    pages = {".html": str(document["report"]), EVIDENTLY: str(document["evidently"]["page"])}
    exports.export(exports.of_drift(document), arguments, settings, os.environ, pages)
    verdict = document["verdict"]
    if verdict == TOO_FEW_ROWS:
        logger.warning("%s; no verdict, and no alert", document["reason"])
    sys.stdout.write(f"{verdict}: {document['reason']}\nreport: {document['report']}\n")
    sys.stdout.write(next_after(verdict, arguments.out))
    codes = {"drift": DRIFT_EXIT_CODE, TOO_FEW_ROWS: TOO_FEW_ROWS_EXIT_CODE}
    return codes.get(verdict, 0) if arguments.fail_on_drift else 0
