"""Ingest label files: analysts' verdicts, chargebacks and random reviews."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import posixpath
import re

import pandas as pd

from fraud.counts import counted
from fraud.data import files, tables
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.labels.store import ID, IS_FRAUD, RETRACTION, LabelStore, check
from fraud.schema import Schema
from fraud.scoring import own_decisions
from ray_jobs.labels.unknown_ids import KnownTransactions

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingestion:
    """How to ingest label files. known_at: for files without that column; quarantine: Parquet for refused rows.

    known: the transactions with which ids are compared.
    """

    source: str
    known_at: dt.datetime | None
    quarantine: str
    now: dt.datetime
    known: KnownTransactions
    force: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", self.source) or self.source == RETRACTION:
            raise ConfigError(f"--source {self.source!r}: use lower-case letters, digits, - and _, e.g. chargeback")
        if self.known_at is not None and self.known_at > self.now:
            raise ConfigError(f"--known-at {self.known_at:%Y-%m-%d %H:%M} is in the future: give a past time in UTC")


def ingest(path: str, store: LabelStore, schema: Schema, ingestion: Ingestion) -> str:
    """Ingest label files and return a summary as text. Ingesting a file twice from one source has no effect.

    Each file of a pattern or folder is ingested by itself, so later calls only take the new files.
    Raises DataError when a file has no valid row or holds the model's own decisions, ConfigError and SchemaError as
    fraud.labels.store.check does.
    """
    filesystem, names = files.find(path)
    paths = [filesystem.unstrip_protocol(name) for name in names] if len(names) > 1 else [path]
    summaries, refused = [], []
    for index, file in enumerate(paths):
        of_file = ingestion
        if len(paths) > 1:
            quarantine = f"{ingestion.quarantine.removesuffix('.parquet')}-{index}.parquet"
            of_file = dataclasses.replace(ingestion, quarantine=quarantine)
        try:
            text = _ingest(file, store, schema, of_file)
        except (DataError, SchemaError) as error:
            if len(paths) == 1:
                raise
            refused.append(str(error))  # go on to the other files
            continue
        summaries.append(text if len(paths) == 1 else f"{posixpath.basename(file)}: {text}")
    if refused:
        others = "the others were" if summaries else "and none was"
        raise DataError(f"{len(refused)} of {len(paths)} files were not ingested, {others}: {refused[0]}")
    return "".join(summaries)


def _ingest(path: str, store: LabelStore, schema: Schema, ingestion: Ingestion) -> str:
    name = f"{ingestion.source}-{tables.fingerprint(path)[:32]}"
    if store.has(name) and not ingestion.force:
        return f"{path} is already in {store.url}: nothing to do (--force ingests it again)\n"
    own_decisions.refuse(path, schema)
    checked = list(check(path, schema, source=ingestion.source, known_at=ingestion.known_at, now=ingestion.now))
    labels, refused = (pd.concat(parts) for parts in zip(*checked, strict=True))  # labels: by row number of the file
    if len(refused):
        tables.write_parquet(refused.fillna(""), ingestion.quarantine)
        logger.warning("%s refused, see %s for the reasons", counted(len(refused), "row"), ingestion.quarantine)
    if not len(labels):
        first = refused.iloc[0]
        example = f"row {first['row']}, column {first['column']!r}: {first['value']!r} {first['reason']}"
        raise DataError(f"{path}: none of {len(refused):,} rows is a valid label; {example}")
    added = store.add(labels, name, ingested_at=ingestion.now)
    compared, has_unknown = ingestion.known.report(labels[ID])
    if has_unknown:
        logger.warning("%s", compared)
    retracted = f", {added.retracted:,} stay retracted: their label is older" if added.retracted else ""
    return (
        f"{counted(len(labels), 'label')} from {ingestion.source}, {int(labels[IS_FRAUD].sum()):,} of them frauds: "
        f"{counted(added.new, 'new id')}, {added.changed:,} changed their label, {added.same:,} kept it"
        f"{retracted}; {counted(len(refused), 'row')} refused\n" + ("" if has_unknown else f"{compared}\n")
    )
