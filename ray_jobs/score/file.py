"""Write a scored file, its quarantine and its manifest, each atomically."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.data import filesystems, tables
from fraud.data.partitions import read_json
from fraud.errors import DataError, ObjectStoreError
from fraud.scoring.scored import MARK
from ray_jobs.score.output import ROW_GROUP, Collector, Job, completion, counts, made_otherwise, parquet_options

logger = logging.getLogger(__name__)

IDENTITY = b"fraud.score"  # key in the Parquet metadata for the file's identity


def write(
    job: Job, collector: Collector, identity: Mapping[str, Any], about: Mapping[str, Any], began: float
) -> dict[str, Any]:
    """Write the stream to output and quarantine; write and return the manifest.

    identity: what the output is made of, stored in its metadata so that one rename publishes both. about: further
    entries of the manifest. began: time.monotonic() at the start. Raises DataError if there is no good row.
    """

    def put(file: Any) -> None:
        with ExitStack() as stack:
            writer = None
            for table in collector.tables():
                if writer is None:
                    metadata = {IDENTITY: json.dumps(identity, sort_keys=True).encode(), **MARK}
                    schema = table.schema.with_metadata(metadata)
                    writer = stack.enter_context(pq.ParquetWriter(file, schema, **parquet_options(schema)))
                writer.write_table(table.replace_schema_metadata(writer.schema.metadata), row_group_size=ROW_GROUP)
            collector.check_other_days(job, about["day_zone"])
            collector.check_learnt(about["learnt_until"])
            refused = collector.refused_rows()
            if refused is not None:
                tables.write(job.refused, lambda stream: pq.write_table(refused, stream, compression="zstd"))
            collector.check_total()
            if writer is None:
                raise collector.no_rows_error(job.data)

    tables.write(job.out, put)
    if not collector.refused:
        filesystem, stale = filesystems.of(job.refused)
        if filesystem.exists(stale):
            filesystem.rm(stale)
    manifest = {
        **identity,
        **about,
        "output_fingerprint": tables.fingerprint(job.out),
        "quarantine": job.refused if collector.refused else None,
        "rows": counts(collector.rows, collector.flagged, collector.refused, collector.outside),
        "learnt_rows": collector.learnt,
        "other_days_by_day": dict(sorted(collector.other_days.by_day.items())),
        "warnings": collector.warnings,
        **completion(began),
    }
    tables.write_text(json.dumps(manifest, indent=2) + "\n", manifest_of(job.out))
    return manifest


def existing_manifest(job: Job, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of an existing output with this identity; None if there is work to do.

    Raises DataError if the output is another one and may not be replaced.
    """
    filesystem, path = filesystems.of(job.out)
    if job.force:
        return None
    _check_quarantine(job.refused)
    if not filesystem.exists(path):
        return None
    made_of = _identity(filesystem, path)
    if made_of is None:
        raise DataError(
            f"--out {job.out} exists and ray_jobs.score did not write it: name another file, or use --force"
        )
    differing = [name for name in identity if made_of.get(name) != identity[name]]
    if differing:
        raise DataError(f"--out {job.out} {made_otherwise(differing)}")
    manifest = read_json(filesystem, manifest_of(path))
    if manifest.get("output_fingerprint") == tables.fingerprint(job.out):
        return manifest
    logger.warning("%s does not match its manifest (cut short, or altered): scoring again", job.out)
    return None


def _check_quarantine(path: str) -> None:
    """Raise DataError if a file of something else is where refused rows go: it would be replaced, or removed."""
    filesystem, target = filesystems.of(path)
    if filesystem.exists(target):
        schema = _schema(filesystem, target)
        if schema is None or not {"row", "column", "value", "reason"} <= set(schema.names):
            raise DataError(
                f"{path} is where refused rows go, and it holds something else: name another --quarantine, or replace "
                "it by --force"
            )


def _identity(filesystem: Any, path: str) -> dict[str, Any] | None:
    schema = _schema(filesystem, path)
    try:
        return None if schema is None else dict(json.loads((schema.metadata or {})[IDENTITY]))
    except (KeyError, ValueError):
        return None


def _schema(filesystem: Any, path: str) -> pa.Schema | None:
    """The columns and metadata of a Parquet file; None if it is none."""
    try:
        with filesystem.open(path, "rb") as file:
            return pq.ParquetFile(file).schema_arrow
    except ObjectStoreError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return None


def manifest_of(out: str) -> str:
    """The path of a scored file's manifest, beside it."""
    return f"{out}.manifest.json"
