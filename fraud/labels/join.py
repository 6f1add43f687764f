"""Join transactions with the labels known by a day, as a training on that day may use them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.counts import counted
from fraud.data import tables
from fraud.days import UTC, Zone
from fraud.errors import ConfigError, DataError
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT, SOURCE, id_of, newest
from fraud.schema import Schema

Unlabelled = Literal["legitimate", "unknown", "drop"]
NONE = "none"  # source of rows without a label
RECENT_DAYS = 14  # sources of these days' labels are counted separately
_FRAUD, _LEGITIMATE, _UNKNOWN = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How rows get their labels. Raises ConfigError for a value out of range.

    as_of: only labels known at the start of this day, in `zone`, count. matured_days: younger rows are left out.
    unlabelled: label of a matured row without one: "legitimate" (no complaint in time), "unknown" (empty) or "drop".
    keep_own: rows without a label in the store keep the data's label; False: they lose it.
    """

    as_of: dt.date
    matured_days: float
    unlabelled: Unlabelled = "legitimate"
    keep_own: bool = False
    zone: Zone = UTC

    def __post_init__(self) -> None:
        if not 0 <= self.matured_days < 36_500:
            raise ConfigError(f"matured_days={self.matured_days:g} must be a number of days, 0 or more")
        if self.unlabelled not in get_args(Unlabelled):
            raise ConfigError(f"unlabelled={self.unlabelled!r} must be one of {', '.join(get_args(Unlabelled))}")

    @property
    def moment(self) -> dt.datetime:
        """Start of the day `as_of`, UTC."""
        return self.zone.moment_of(self.as_of)

    @property
    def mature_before(self) -> np.datetime64:
        """Rows before this instant are mature."""
        return np.datetime64(self.moment, "us") - np.timedelta64(round(self.matured_days * 86_400e6), "us")


@dataclass
class Counts:
    """Rows by outcome. frauds_recent, frauds_earlier: by source, within the newest 14 matured days and before.

    frauds_too_young: rows left out as too young that a known label calls fraud.
    """

    read: int = 0
    refused: int = 0
    too_young: int = 0
    frauds_too_young: int = 0
    labelled: int = 0
    without_label: int = 0
    own_label: int = 0
    written: int = 0
    frauds: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    frauds_recent: dict[str, int] = field(default_factory=dict)
    frauds_earlier: dict[str, int] = field(default_factory=dict)


def join(path: str, by_source: pd.DataFrame, schema: Schema, policy: Policy, out: str) -> tuple[Counts, dict[str, Any]]:
    """Write the matured rows of `path` with their labels to the Parquet `out`, atomically and in bounded memory.

    by_source: labels known by `policy.as_of` (LabelStore.read_by_source). Returns the counts, and the label source
    figures that `fraud.judging.gate` checks. Raises ConfigError (schema without id, label or time), DataError (a row
    without an id; no matured row; a file that cannot be read or written), SchemaError.
    """
    name = id_of(schema)
    if schema.label is None:
        raise ConfigError(f"schema {schema.name!r} has no label column to fill in: add one (kind: label)")
    if schema.timestamp is None and policy.matured_days > 0:
        raise ConfigError(
            f"schema {schema.name!r} has no timestamp, so the age of its rows is unknown: add one, or "
            "set matured_days to 0"
        )
    labels = newest(by_source)
    counts, used = Counts(), np.zeros(len(labels), dtype=bool)
    index = pd.Index(labels[ID])

    def write(file: Any) -> None:
        writer = None
        for checked in tables.iter_checked(path, schema):
            _check_ids(checked.quarantine, name, path)
            counts.read += len(checked.rows) + len(checked.quarantine)
            counts.refused += len(checked.quarantine)
            rows = _labelled(checked.rows, labels, index, used, schema, policy, counts)
            if not len(rows):
                continue
            table = pa.Table.from_pandas(rows, preserve_index=False)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
        if writer is None:
            raise DataError(
                f"{path}: none of {counts.read:,} rows is valid and before {policy.mature_before.astype('M8[s]')} UTC "
                f"({policy.matured_days:g} days before {policy.as_of}): nothing to train on yet"
            )
        writer.close()

    tables.write(out, write)
    sources = {
        "conflicts": conflicts(by_source),
        "frauds_recent": counts.frauds_recent,
        "frauds_earlier": counts.frauds_earlier,
        "labels": len(labels),
        "labels_without_row": int((~used).sum()),
    }
    return counts, sources


def conflicts(by_source: pd.DataFrame) -> dict[str, int]:
    """Number of ids labelled by several sources, and of those with differing labels: {pairs, differ}."""
    several = by_source[by_source.duplicated(ID, keep=False)].groupby(ID)[IS_FRAUD].agg(["min", "max"])
    return {"pairs": len(several), "differ": int((several["min"] != several["max"]).sum())}


def only(by_source: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    """Labels of these sources; all if `sources` is empty. Raises ConfigError for a source without labels."""
    if not sources:
        return by_source
    known = sorted(set(by_source[SOURCE]))
    unknown = [source for source in sources if source not in known]
    if unknown:
        raise ConfigError(
            f"no label has the source {', '.join(unknown)}; there are {', '.join(known) or 'none at all'}"
        )
    return by_source[by_source[SOURCE].isin(list(sources))]


def summary(counts: Counts, policy: Policy, sources: Mapping[str, Any]) -> str:
    """The counts as text, one line each."""
    treatment = {
        "legitimate": "counted as legitimate: no complaint in time",
        "unknown": "with an empty label",
        "drop": "left out",
    }[policy.unlabelled]
    origins = ", ".join(f"{count:,} from {source}" for source, count in sorted(counts.by_source.items()))
    lines = [
        f"{counted(counts.read, 'row')}: {counts.written:,} written, {counts.frauds:,} of them frauds",
        f"  {counts.labelled:,} labelled by {policy.as_of}" + (f" ({origins})" if origins else ""),
        f"  {counts.without_label:,} matured without a label, {treatment}",
        f"  {counts.too_young:,} younger than {counted(policy.matured_days, 'day')}, left out",
    ]
    lines += [f"  {counts.own_label:,} with the label from the data"] if counts.own_label else []
    lines += [f"  {counts.refused:,} that break the schema, left out"] if counts.refused else []
    lines += [f"  {counted(sources['labels_without_row'], 'label')} without a row among them"]
    return "\n".join(lines) + "\n"


def late(labels: pd.DataFrame, policy: Policy) -> tuple[int, int, dt.date | None]:
    """Labels that became known after `policy.moment`: their number, the frauds, and the first day that knows them all.

    labels: LabelStore.read, of all labels.
    """
    after = labels[labels[KNOWN_AT].to_numpy(dtype="datetime64[us]") > np.datetime64(policy.moment, "us")]
    if not len(after):
        return 0, 0, None
    last = policy.zone.day_of(after[KNOWN_AT].to_numpy(dtype="datetime64[us]").max()[None])[0].astype(dt.date)
    return len(after), int(after[IS_FRAUD].sum()), last + dt.timedelta(days=1)


def why_no_fraud(labels: pd.DataFrame, counts: Counts, policy: Policy) -> str:
    """Why a join wrote no fraud, and what to do. labels: LabelStore.read, of all labels."""
    if not len(labels):
        return "the label store is empty: `python -m ray_jobs.labels ingest FILE` adds labels"
    n_frauds, (_, late_frauds, day) = int(labels[IS_FRAUD].sum()), late(labels, policy)
    if not n_frauds:
        return f"none of the store's {len(labels):,} labels is a fraud: check the label column of what was ingested"
    reasons = []
    if late_frauds:
        reasons.append(f"{late_frauds:,} became known after {policy.as_of} began: --as-of {day} counts them")
    if counts.frauds_too_young:
        reasons.append(
            f"{counts.frauds_too_young:,} are of rows younger than {policy.matured_days:g} days: wait, or lower "
            "--matured-days"
        )
    if n_frauds > late_frauds + counts.frauds_too_young:
        reasons.append(f"{n_frauds - late_frauds - counts.frauds_too_young:,} match no row: check the ids and --data")
    return f"of the store's {n_frauds:,} frauds, " + "; ".join(reasons)


def _check_ids(quarantine: pd.DataFrame, name: str, path: str) -> None:
    lacking = quarantine[(quarantine["column"] == name) & (quarantine["value"] == "")]
    if len(lacking):
        raise DataError(
            f"{path}: row {lacking['row'].iloc[0]} has no {name}, so no label can match it; give every row its id, or "
            "remove such rows"
        )


def _labelled(
    rows: pd.DataFrame, labels: pd.DataFrame, index: pd.Index, used: np.ndarray, schema: Schema, policy: Policy,
    counts: Counts,
) -> pd.DataFrame:  # fmt: skip
    """The rows to write, with their labels. Updates `counts`, and `used`, which marks labels with a row."""
    assert schema.label is not None and schema.id is not None
    column = schema.label.name
    matches = index.get_indexer(pd.Index(rows[schema.id.name]))
    used[matches[matches >= 0]] = True
    times = None
    if schema.timestamp is not None:
        times = rows[schema.timestamp.name].to_numpy(dtype="datetime64[us]")
        is_mature = times < policy.mature_before
        counts.too_young += int((~is_mature).sum())
        young = matches[~is_mature & (matches >= 0)]
        counts.frauds_too_young += int(labels[IS_FRAUD].to_numpy(dtype=bool)[young].sum())
        rows, matches, times = rows[is_mature], matches[is_mature], times[is_mature]
    has = matches >= 0
    row_labels = np.full(len(rows), _UNKNOWN, dtype=np.int8)
    row_labels[has] = labels[IS_FRAUD].to_numpy(dtype=np.int8)[matches[has]]
    if policy.keep_own and column in rows:
        own = rows[column].to_numpy(dtype=np.int8)
        borrowed = ~has & (own >= 0)
        row_labels[borrowed] = own[borrowed]
        counts.own_label += int(borrowed.sum())
    unlabelled = row_labels == _UNKNOWN
    counts.labelled += int(has.sum())
    counts.without_label += int(unlabelled.sum())
    sources = np.where(
        has, labels[SOURCE].to_numpy(dtype=object)[np.maximum(matches, 0)] if len(labels) else NONE, NONE
    )
    if policy.unlabelled == "legitimate":
        row_labels[unlabelled] = _LEGITIMATE
    _count_sources(sources, row_labels, times, policy, counts)
    rows = rows.assign(**{column: row_labels})
    if policy.unlabelled == "drop":
        rows, row_labels = rows[~unlabelled], row_labels[~unlabelled]
    counts.written += len(rows)
    counts.frauds += int((row_labels == _FRAUD).sum())
    # In the Parquet file an unknown label is empty, not -1.
    rows[column] = pd.Series(row_labels, index=rows.index).astype("Int8").mask(row_labels == _UNKNOWN)
    return rows[[c.name for c in schema.columns]]


def _count_sources(
    sources: np.ndarray, labels: np.ndarray, times: np.ndarray | None, policy: Policy, counts: Counts
) -> None:
    recent = np.zeros(len(labels), bool)
    if times is not None:
        recent = times >= policy.mature_before - np.timedelta64(RECENT_DAYS, "D")
    for into, mask in (
        (counts.by_source, sources != NONE),
        (counts.frauds_recent, (labels == _FRAUD) & recent),
        (counts.frauds_earlier, (labels == _FRAUD) & ~recent),
    ):
        for source, count in zip(*np.unique(sources[mask].astype(str), return_counts=True), strict=True):
            into[str(source)] = into.get(str(source), 0) + int(count)
