"""Read one side of a comparison in one pass and bounded memory: counts of all its rows, and a uniform sample of them.

Every row gets a random key from the seed and the rows with the smallest keys are the sample (Efraimidis and Spirakis,
2006, with equal weights), so that it depends on the seed and the rows' order alone, not on how a file is cut in pieces.
Raw rows are all checked against the schema; rows that were scored were checked then, and of those the sample is checked
again. Of Parquet that scoring wrote only the columns that are compared are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.data import partitions, tables
from fraud.data.files import find, reading
from fraud.detectors import registry
from fraud.errors import DataError, SchemaError
from fraud.schema import Column, Schema, validate
from fraud.scoring import scored
from fraud.scoring.engine import SCORE
from fraud.thresholds.selection import Threshold

SCORES = (SCORE, *registry.score_columns())
ALERTS = "alert rate"
_BATCH = 65_536
_MOST_REASONS = 1_000
_VERSION = "model_version"


@dataclass(frozen=True)
class Side:
    """One of the two files.

    sample: checked rows with the schema's columns, scores (some of `SCORES`) and `ALERTS`, 1 where flagged. usable:
    good rows; refused: rows refused here, and before when the file was scored (refused_earlier). models: versions that
    scored it. reasons: {(column, reason): refused rows}. window: first and last time. entities: {column: rows of each
    value}, over all rows.
    """

    path: str
    sample: pd.DataFrame
    usable: int
    refused: int
    models: tuple[str, ...]
    reasons: dict[tuple[str, str], int]
    warnings: tuple[str, ...]
    window: tuple[pd.Timestamp, pd.Timestamp] | None
    entities: dict[str, pd.Series]
    refused_earlier: int = 0

    @property
    def total(self) -> int:
        """Rows in the file, and those that scoring kept out of it."""
        return self.usable + self.refused


def read_side(path: str, schema: Schema, threshold: Threshold | None, *, sample: int, seed: int) -> Side:
    """Read raw data or what scoring wrote. threshold: says which scores are alerts, else the file does.

    Raises DataError (nothing to read, or no row fits the schema) or SchemaError (columns are missing).
    """
    head = next(tables.iter_frames(path, rows=1))
    names = {column.name for column in schema.columns}
    held = [name for name in SCORES if name in head.columns and name not in names]
    reader = _read_scored if scored.is_scored(head) else _read_raw
    side = reader(path, schema, held, sample, seed)
    if threshold is not None and "score" in held:
        flagged = threshold.decide(side.sample["score"].to_numpy())
        side = replace(side, sample=side.sample.assign(**{ALERTS: flagged.astype(np.float64)}))
    return side


@dataclass
class _Draw:
    """The rows with the smallest keys so far, of pieces that come one after another."""

    size: int
    rng: np.random.Generator
    _pieces: list[Any] = field(default_factory=list)
    _keys: list[np.ndarray] = field(default_factory=list)
    _limit: float = 1.0

    def take(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions among the next `rows` that may be drawn, and their keys."""
        keys = self.rng.random(rows)
        positions = np.flatnonzero(keys < self._limit)
        return positions, keys[positions]

    def keep(self, piece: Any, keys: np.ndarray) -> None:
        """Keep rows at those positions; what later keys have beaten is dropped when it has become as much again."""
        self._pieces.append(piece)
        self._keys.append(keys)
        if sum(map(len, self._keys)) > 2 * self.size:
            self._limit = float(np.partition(np.concatenate(self._keys), self.size)[self.size])
            for i, kept in enumerate(self._keys):
                stay = np.flatnonzero(kept < self._limit)
                taken = self._pieces[i]
                self._pieces[i] = taken.take(stay) if isinstance(taken, pa.Table) else taken.iloc[stay]
                self._keys[i] = kept[stay]

    def drawn(self) -> list[Any]:
        """The sample, in pieces, in the order of the rows."""
        keys = np.concatenate(self._keys) if self._keys else np.empty(0)
        limit = np.partition(keys, self.size)[self.size] if len(keys) > self.size else np.inf
        stays = [np.flatnonzero(kept < limit) for kept in self._keys]
        return [
            piece.take(stay) if isinstance(piece, pa.Table) else piece.iloc[stay]
            for piece, stay in zip(self._pieces, stays, strict=True)
        ]


@dataclass
class _Seen:
    """What is known of all rows: the times' window, and how many rows each entity has."""

    schema: Schema
    first: Any = None
    last: Any = None
    counts: dict[str, list[pd.Series]] = field(default_factory=dict)

    def times(self, low: Any, high: Any) -> None:
        if low is not None and not pd.isna(low):
            self.first = low if self.first is None else min(self.first, low)
            self.last = high if self.last is None else max(self.last, high)

    def entity(self, name: str, counts: pd.Series) -> None:
        kept = self.counts.setdefault(name, [])
        kept.append(counts)
        if len(kept) >= 16:
            kept[:] = [_added(kept)]

    def found(self) -> dict[str, Any]:
        window = None if self.first is None else (pd.Timestamp(self.first), pd.Timestamp(self.last))
        empty = pd.Series(dtype=np.int64)
        entities = {c.name: _added(self.counts.get(c.name, [])) if c.name in self.counts else empty
                    for c in self.schema.entities}  # fmt: skip
        return {"window": window, "entities": entities}


def _added(counts: Sequence[pd.Series]) -> pd.Series:
    joined = pd.concat(counts)
    return joined.groupby(level=0, sort=False).sum()


def _read_raw(path: str, schema: Schema, held: Sequence[str], sample: int, seed: int) -> Side:
    """Raw data, whose scores are more numbers beside the schema's columns."""
    more = tuple(Column(name=name, kind="numeric", nullable=True) for name in held)
    wanted = replace(schema, columns=schema.columns + more)
    draw, seen, reasons = _Draw(sample, np.random.default_rng(seed)), _Seen(schema), Counter[Any]()
    warnings: list[str] = []
    usable = refused = 0
    example = ""
    for checked in tables.iter_checked(path, wanted, chunk_rows=_BATCH):
        rows = checked.rows
        usable, refused = usable + len(rows), refused + len(checked.quarantine)
        warnings += checked.warnings
        if len(checked.quarantine):
            reasons.update(zip(checked.quarantine["column"], checked.quarantine["reason"], strict=True))
            example = example or _example(checked.quarantine)
        positions, keys = draw.take(len(rows))
        draw.keep(rows.iloc[positions], keys)
        if schema.timestamp:
            times = rows[schema.timestamp.name]
            seen.times(times.min(), times.max())
        for entity in schema.entities:
            seen.entity(entity.name, rows[entity.name].value_counts(sort=False))
    if not usable:
        raise DataError(f"{path}: none of {refused:,} rows fits schema {schema.name!r}; {example}")
    return Side(
        path, pd.concat(draw.drawn()), usable, refused, (), dict(reasons.most_common(_MOST_REASONS)),
        tuple(dict.fromkeys(warnings)), **seen.found(),
    )  # fmt: skip


def _read_scored(path: str, schema: Schema, held: Sequence[str], sample: int, seed: int) -> Side:
    """What batch scoring wrote, with its decisions."""
    draw, seen, models = _Draw(sample, np.random.default_rng(seed)), _Seen(schema), set[str]()
    places = {scored.name_of(column.name): column for column in schema.columns}
    read = 0
    for table in _tables(path, [*places, *held, "is_fraud", _VERSION]):
        read += len(table)
        models.update(str(version) for version in pc.unique(table[_VERSION]).to_pylist() if version is not None)
        for place, column in places.items():
            if place not in table.column_names:
                continue
            if column.kind == "timestamp":
                ends = pc.min_max(table[place]).as_py()
                seen.times(ends["min"], ends["max"])
            elif column.kind == "entity":
                counted = pc.value_counts(table[place])
                values = counted.field("values").cast(pa.string()).to_pylist()
                counts = pd.Series(counted.field("counts").to_numpy(zero_copy_only=False), index=values)
                seen.entity(column.name, counts[counts.index.notna()])
        positions, keys = draw.take(len(table))
        draw.keep(table.take(positions), keys)
    frame = pa.concat_tables(draw.drawn(), promote_options="permissive").to_pandas()
    try:
        checked = validate(scored.source_columns(frame, schema), schema)
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}") from None
    if not len(checked.rows):
        raise DataError(
            f"{path}: none of {len(frame):,} rows fits schema {schema.name!r}; {_example(checked.quarantine)}"
        )
    beside = frame[list(held)].assign(**{ALERTS: frame["is_fraud"].astype(np.float64)})
    # The sample speaks for the file: rows that were scored by this very schema are never refused here.
    refused = round(read * len(checked.quarantine) / len(frame))
    reasons = Counter(zip(checked.quarantine["column"], checked.quarantine["reason"], strict=True))
    earlier = _refused_by_scoring(path)
    return Side(
        path, checked.rows.join(beside, validate="one_to_one"), read - refused, refused + earlier,
        tuple(sorted(models)), dict(reasons), checked.warnings, **seen.found(), refused_earlier=earlier,
    )  # fmt: skip


def _tables(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The files' rows in pieces, of the named columns those that are there."""
    with reading(path):
        filesystem, files = find(path)
    for name in files:
        if not name.endswith((".parquet", ".pq")):  # a scored table that somebody turned into CSV
            for frame in tables.iter_frames(filesystem.unstrip_protocol(name), rows=_BATCH):
                yield pa.Table.from_pandas(frame[[c for c in columns if c in frame]], preserve_index=False)
            continue
        with reading(name), filesystem.open(name, "rb") as stream:
            file = pq.ParquetFile(stream)
            there = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_BATCH, columns=there):
                if len(batch):
                    yield pa.Table.from_batches([batch])


def _example(quarantine: pd.DataFrame) -> str:
    first = quarantine.iloc[0]
    return f"row {first['row']}, column {first['column']!r}: {first['value']!r} {first['reason']}"


def _refused_by_scoring(path: str) -> int:
    """Rows that batch scoring quarantined, by the manifest beside its output or in its partitions; 0 without one."""
    try:
        return sum(int(manifest["rows"]["quarantined"]) for manifest in partitions.manifests(path))
    except (KeyError, TypeError, ValueError):
        return 0
