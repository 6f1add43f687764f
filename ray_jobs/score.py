"""Score a file of transactions: scores, decisions and reasons to Parquet, refused rows to quarantine."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.session import connected, terminable
from fraud import bundle, data
from fraud.errors import run_command
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs import score_output
from ray_jobs.score_output import Job, day

if TYPE_CHECKING:
    from fraud.bundle import Bundle
    from ray_jobs.score_stream import Model

logger = logging.getLogger(__name__)


def score(job: Job, settings: Settings) -> dict[str, Any]:
    """Score a file on Ray, and return the manifest; `already_scored` in it says that nothing had to be done.

    Connects to Ray unless the caller did. Raises DataError (no good row; an output of something else is in the way),
    SchemaError (the file is not what the model's schema describes), BundleError, RegistryError.
    """
    began = time.monotonic()
    model, loaded = _model(job.model, settings)
    identity = {
        "input_fingerprint": data.fingerprint(job.data),
        "bundle_sha256": model.sha256,
        "model_version": model.version,
        "reasons": job.reasons,
        "date": job.date.isoformat() if job.date else None,
    }
    done = score_output.already_there(job, identity)
    if done is not None:
        logger.info("already scored: %s matches its manifest, this input and this model", job.out)
        return {**done, "already_scored": True}
    schema = loaded.detector.schema
    if job.date and schema.timestamp is None:
        logger.warning("schema %r has no timestamp column: every row counts as of %s", schema.name, job.date)
    with connected(), terminable():
        from ray_jobs.score_stream import stream

        found = score_output.Collector(
            stream(
                job.data, model, loaded.detector, reasons=job.reasons, date=job.date,
                history_partitions=job.history_partitions,
            )
        )  # fmt: skip
        score_output.write(job, found, identity)
    threshold = loaded.detector.threshold
    manifest = {
        **identity,
        "input": job.data,
        "output": job.out,
        "output_fingerprint": data.fingerprint(job.out),
        "quarantine": job.quarantine if found.refused else None,
        "rows": {
            "read": found.rows + found.outside + len(found.refused),
            "scored": found.rows,
            "flagged": found.flagged,
            "quarantined": len(found.refused),
            "other_days": found.outside,
        },
        "model": job.model,
        "schema_name": schema.name,
        "schema_fingerprint": schema.fingerprint,
        "threshold": {"value": threshold.value, "policy": threshold.policy},
        "replayed_history": bool(schema.history),
        "warnings": found.warnings,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 2),
    }
    data.write_text(json.dumps(manifest, indent=2) + "\n", job.manifest)
    return {**manifest, "already_scored": False}


def _model(reference: str, settings: Settings) -> tuple[Model, Bundle]:
    """The model that an alias, a version or a bundle folder names, and its loaded bundle."""
    from ray_jobs.score_stream import Model

    folder, number = Path(settings.locate(reference)), None
    if not folder.is_dir():
        from fraud import registry

        folder = registry.fetch(reference, settings)
        number = int(folder.name)
    loaded = bundle.load(folder)
    version = str(number) if number is not None else f"bundle {loaded.sha256[:12]}"
    model = Model(folder=str(folder), sha256=loaded.sha256, version=version, number=number, settings=settings)
    return model, loaded


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.score",
        description="Score a file of transactions with a model. Rows that break the schema go to a quarantine file "
        "with the reason; the rest get scores, a decision and, when flagged, reasons. The output appears when it is "
        "complete, beside a manifest; running again with the same input and model checks that and does nothing.",
        epilog="examples:\n"
        "  python -m ray_jobs.score --data data/transactions.csv --out scored.parquet\n"
        "  python -m ray_jobs.score --data 'days/2026-01-*.parquet' --out scored.parquet --model 3 --force\n"
        "  python -m ray_jobs.score --data cards.parquet --out day.parquet --date 2026-01-31 --model artifacts/bundle",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument("--out", required=True, help="Parquet file to write; <out>.manifest.json comes beside it")
    parser.add_argument("--model", default="champion", help="alias, version or bundle folder (default: %(default)s)")
    parser.add_argument(
        "--quarantine", help="Parquet file for refused rows (default: <out without .parquet>.quarantine.parquet)"
    )
    parser.add_argument(
        "--reasons", action=argparse.BooleanOptionalAction, default=True, help="explain flagged rows (default: yes)"
    )
    parser.add_argument(
        "--date",
        type=day,
        metavar="YYYY-MM-DD",
        help="write only the rows of this day (UTC); the file's earlier rows still feed their customers' history. "
        "Without a timestamp column the date is only noted in the manifest",
    )
    parser.add_argument(
        "--history-partitions",
        type=int,
        metavar="N",
        help="split the replay of entity history into N parts by a hash of the entity; memory is bounded by a part "
        "(default: one for a million rows). The scores do not depend on it",
    )
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    out = settings.locate(arguments.out)
    job = Job(
        data=settings.locate(arguments.data),
        out=out,
        quarantine=settings.locate(
            arguments.quarantine or f"{arguments.out.removesuffix('.parquet')}.quarantine.parquet"
        ),
        model=arguments.model,
        reasons=arguments.reasons,
        date=arguments.date,
        history_partitions=arguments.history_partitions,
        force=arguments.force,
    )
    found = score(job, settings)
    rows = found["rows"]
    told = f"{rows['read']:,} rows: {rows['scored']:,} scored, {rows['flagged']:,} of them flagged"
    told += f"; {rows['quarantined']:,} refused, see {found['quarantine']}" if rows["quarantined"] else ""
    told += f"; {rows['other_days']:,} of other days" if rows["other_days"] else ""
    verb = "already scored, verified" if found["already_scored"] else f"{found['seconds']:.1f} s"
    sys.stdout.write(f"{told} → {job.out} (model {found['model_version']}, {verb})\n")
    return 0


if __name__ == "__main__":
    run_command(main)
