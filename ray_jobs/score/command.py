"""Score a file of transactions: scores, decisions and reasons to Parquet, refused rows to quarantine."""

from __future__ import annotations

import argparse
import logging
import posixpath
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from cluster.session import connected, terminable
from fraud.cli import examples, next_step
from fraud.counts import counted
from fraud.data import filesystems, tables
from fraud.data.partitions import day_named, folder_of
from fraud.days import Zone
from fraud.errors import ConfigError
from fraud.registry.models import open_model
from fraud.schema.zone import agreed
from fraud.scoring.bundle import Bundle
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs.score import file, source
from ray_jobs.score.blocks import Model, Work, score_locally
from ray_jobs.score.history import JobHistory
from ray_jobs.score.other_days import Policy
from ray_jobs.score.output import Collector, Job
from ray_jobs.score.partitions import DayFolders
from ray_jobs.score.publish import locked

logger = logging.getLogger(__name__)


def score(job: Job, settings: Settings) -> dict[str, Any]:
    """Score a file and return the manifest. `already_scored` in it: the output was there and valid.

    A file of more than `rows_on_ray` rows, or with entity history, is scored on Ray: the caller's session, or a new
    one. Raises DataError (no good row, or another output is in the way), SchemaError (the file does not match the
    model's schema), ConfigError, BundleError, RegistryError.
    """
    began = time.monotonic()
    model, loaded = _model(job.model, settings)
    schema = loaded.detector.schema
    zone = agreed(schema, settings.day_zone)
    if job.is_partitioned and job.date is None and schema.timestamp is None:
        raise ConfigError(
            f"schema {schema.name!r} has no timestamp column, so rows have no day: give --date, "
            "or an --out that ends in .parquet"
        )
    identity = _identity(job, model)
    days = DayFolders(job, identity) if job.is_partitioned else None
    filesystem, out = filesystems.of(job.out)
    lock = days.lock_path() if days else f"{posixpath.dirname(out)}/.{posixpath.basename(out)}.lock"
    with locked(filesystem, lock) as lease:
        if days:
            days.lease = lease
        done = days.existing_manifest() if days else file.existing_manifest(job, identity)
        history = JobHistory(job, loaded, settings) if schema.history else None
        if done is not None:
            if history is not None:
                history.repair()
            logger.info("already scored: %s matches its manifest, this input and this model", job.out)
            return {**done, "already_scored": True}
        if job.date and schema.timestamp is None:
            logger.warning("schema %r has no timestamp column: every row counts as of %s", schema.name, job.date)
        pieces, total = source.pieces_of(job.data, schema)
        learnt_until = _learnt_until(loaded)
        work = Work(
            model=model,
            reasons=job.reasons,
            date=job.date,
            in_parts=job.is_partitioned,
            learnt_until=learnt_until,
            pieces=pieces,
        )
        about = {
            **_about(job, loaded, zone),
            "history": history.report if history else None,
            "learnt_until": None if learnt_until is None else str(learnt_until),
        }
        with _stream(job, work, loaded, total, history) as stream:
            if days:
                manifest = days.write(stream, total, about, began)
            else:
                manifest = file.write(job, Collector(stream, total), identity, about, began)
        if history is not None:
            history.publish()
    return {**manifest, "already_scored": False}


def _identity(job: Job, model: Model) -> dict[str, Any]:
    """What identifies an output: an existing one must have the same values."""
    return {
        "input_fingerprint": tables.fingerprint(job.data),
        "bundle_sha256": model.sha256,
        "model_version": model.version,
        "reasons": job.reasons,
        "date": job.date.isoformat() if job.date else None,
    }


def _about(job: Job, loaded: Bundle, zone: Zone) -> dict[str, Any]:
    """The manifest's entries on the job and its model."""
    schema, threshold = loaded.detector.schema, loaded.detector.threshold
    return {
        "input": job.data,
        "output": job.out,
        "model": job.model,
        "schema_name": schema.name,
        "schema_fingerprint": schema.fingerprint,
        "day_zone": zone.name,
        "threshold": {"value": threshold.value, "policy": threshold.policy},
        "replayed_history": bool(schema.history),
    }


@contextmanager
def _stream(
    job: Job, work: Work, loaded: Bundle, total: int | None, history: JobHistory | None
) -> Iterator[Iterator[pa.Table]]:
    """The scored blocks, from this process if there are few rows, else from Ray."""
    limit = source.ROWS_ON_RAY if job.rows_on_ray is None else job.rows_on_ray
    schema = loaded.detector.schema
    if not schema.history and source.is_small(job.data, total, limit):
        with terminable():
            yield score_locally(job.data, work, schema)
        return
    with connected(has_actor_pool=True), terminable():
        from ray_jobs.score.stream import stream

        yield stream(job.data, work, loaded.detector, job.history_partitions, history)


def _learnt_until(loaded: Bundle) -> np.datetime64 | None:
    """End of the training and validation windows; None if the bundle has no windows or no times."""
    windows = [window for window in loaded.manifest.get("windows") or [] if window["name"] in ("train", "validation")]
    if loaded.detector.schema.timestamp is None or not windows:
        return None
    ends = [str(window["end"]) for window in windows]
    return None if any(end.startswith("row ") for end in ends) else max(np.datetime64(end, "us") for end in ends)


def _model(reference: str, settings: Settings) -> tuple[Model, Bundle]:
    """The model of an alias, version or bundle folder, and its loaded bundle."""
    opened = open_model(reference, settings)
    sha256, number = opened.bundle.sha256, opened.number
    version = str(number) if number is not None else f"bundle {sha256[:12]}"
    model = Model(folder=str(opened.folder), sha256=sha256, version=version, number=number, settings=settings)
    return model, opened.bundle


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.score",
        description="Score a file of transactions with a model. Rows that break the schema go to quarantine "
        "with the reason; the rest get scores, a decision and, when flagged, reasons. The output, a file or a folder "
        "with a folder a day, appears when it is complete, with a manifest; running again with the same input and "
        "model checks that and does nothing.",
        **examples(
            "python -m ray_jobs.score --data data/transactions.csv --out scored.parquet",
            "python -m ray_jobs.score --data 'days/2026-01-*.parquet' --out scored.parquet --model 3 --force",
            "python -m ray_jobs.score --data cards.parquet --out scored --date 2026-01-31    scored/date=2026-01-31/",
            "python -m ray_jobs.score --data cards.parquet --out scored --model 3    every day in the file",
        ),
    )
    parser.add_argument("--data", "--input", required=True, help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument(
        "--out",
        "--output",
        required=True,
        help="Parquet file to write (<out>.manifest.json comes beside it); or, without the ending .parquet, a folder: "
        "date=<day>/part-*.parquet and _manifest.json in it for each day, refused rows in _quarantine",
    )
    parser.add_argument("--model", default="champion", help="alias, version or bundle folder (default: %(default)s)")
    parser.add_argument(
        "--quarantine",
        help="Parquet file for refused rows of a single file (default: <out without .parquet>.quarantine.parquet)",
    )
    parser.add_argument(
        "--reasons", action=argparse.BooleanOptionalAction, default=True, help="explain flagged rows (default: yes)"
    )
    parser.add_argument(
        "--date",
        type=day_named,
        metavar="YYYY-MM-DD",
        help="write only the rows of this day (in the schema's day_zone); their history comes from earlier days "
        "(FRAUD_HISTORY). Without a timestamp column the date is only written to the manifest",
    )
    parser.add_argument(
        "--other-days",
        choices=get_args(Policy),
        default="stop",
        help="with --date, what to do if the file of a day has rows of one or two other days (such as a file cut at "
        "another midnight): stop before writing, or skip these rows with a warning (default: %(default)s)",
    )
    _add_history_flags(parser)
    parser.add_argument(
        "--rows-on-ray",
        type=int,
        metavar="N",
        help=f"score files of more than N rows on Ray (default {source.ROWS_ON_RAY:,}; 0: always), smaller ones in "
        "this process, which is faster than starting Ray. Entity history always needs Ray",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    return parser


def _add_history_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--history-partitions",
        type=int,
        metavar="N",
        help="split the replay of entity history into N parts by a hash of the entity, to bound memory (default: one "
        "part per million rows). Scores do not depend on it",
    )
    parser.add_argument(
        "--history-data",
        metavar="PATH",
        help="daily transactions (a glob such as 'daily/*.parquet') to build days that are missing in FRAUD_HISTORY "
        "before the first row; default: earlier rows of --data",
    )
    parser.add_argument(
        "--stale-history",
        action="store_true",
        help="if earlier days are missing and cannot be built, score with the history there is instead of stopping; "
        "the manifest and a warning say so",
    )


def _next(arguments: argparse.Namespace, manifest: Mapping[str, Any]) -> str:
    """The next command: compare the scored rows, or the newest scored day, with the model's training."""
    day = manifest["date"] or max(manifest.get("days", ()), default=None)
    scored, page = arguments.out, []
    if not scored.endswith(".parquet") and day:
        scored, page = f"{scored.rstrip('/')}/{folder_of(day)}", ["--out", f"reports/drift/{day}.html"]
    return next_step("python -m monitoring.drift", "--model", arguments.model, "--cur", scored, *page)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    out = settings.locate(arguments.out)
    job = Job(
        data=settings.locate(arguments.data),
        out=out,
        quarantine=settings.locate(arguments.quarantine) if arguments.quarantine else None,
        model=arguments.model,
        reasons=arguments.reasons,
        date=arguments.date,
        other_days=arguments.other_days,
        history_partitions=arguments.history_partitions,
        history_data=settings.locate(arguments.history_data) if arguments.history_data else None,
        stale_history=arguments.stale_history,
        rows_on_ray=arguments.rows_on_ray,
        force=arguments.force,
    )
    manifest = score(job, settings)
    rows = manifest["rows"]
    summary = f"{counted(rows['read'], 'row')}: {rows['scored']:,} scored, {rows['flagged']:,} of them flagged"
    summary += f"; {rows['quarantined']:,} refused, see {manifest['quarantine']}" if rows["quarantined"] else ""
    others = len(manifest.get("other_days_by_day", ()))
    summary += (
        f"; {counted(rows['other_days'], 'row')} of {counted(others, 'other day')} skipped"
        if rows["other_days"]
        else ""
    )
    summary += f"; {counted(len(manifest['days']), 'day')}" if "days" in manifest else ""
    verb = "already scored, verified" if manifest["already_scored"] else f"{manifest['seconds']:.1f} s"
    sys.stdout.write(f"{summary} → {manifest['output']} (model {manifest['model_version']}, {verb})\n")
    sys.stdout.write(_next(arguments, manifest))
    return 0
