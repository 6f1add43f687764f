"""Retract labels: from then on, the ids have no label again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from fraud.data import tables
from fraud.data.files import pieces
from fraud.data.spreadsheets import unescape
from fraud.errors import ConfigError, DataError
from fraud.labels.store import ID, LabelStore
from fraud.schema import Schema


@dataclass(frozen=True, kw_only=True)
class Retraction:
    """Who retracts, why, and when that became known (UTC)."""

    source: str
    by: str
    reason: str
    known_at: dt.datetime
    now: dt.datetime

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ConfigError("retract needs --reason TEXT: the label store keeps why the labels went")
        if self.known_at > self.now:
            raise ConfigError(f"--known-at {self.known_at:%Y-%m-%d %H:%M} is in the future: give a past time in UTC")


def ids_of_file(path: str, schema: Schema | None) -> list[str]:
    """The ids in a CSV or Parquet: its column "id", or the schema's id column. Raises DataError."""
    named = schema.id.name if schema is not None and schema.id is not None else ID
    ids: list[str] = []
    for name, frame in pieces(path, tables.CHUNK_ROWS, (named, ID)):
        column = named if named in frame else ID
        if column not in frame:
            raise DataError(f"{name} has no column {ID!r} or {named!r}: name the transactions to retract in one")
        ids += frame[column].dropna().astype("str").map(unescape).tolist()
    return ids


def retract(ids: Sequence[str], store: LabelStore, retraction: Retraction) -> str:
    """Retract the labels of ids; return the counts as text. Raises DataError."""
    done = store.retract(
        ids, source=retraction.source, known_at=retraction.known_at, now=retraction.now, by=retraction.by,
        reason=retraction.reason,
    )  # fmt: skip
    text = f"{done.retracted:,} of {len(set(ids)):,} ids have no label any more"
    if done.without_label:
        text += f"; {done.without_label:,} had none"
    if done.later:
        text += f"; {done.later:,} keep a label that became known after {retraction.known_at:%Y-%m-%d %H:%M} UTC"
    return text + "\n"
