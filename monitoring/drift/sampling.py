"""Read a file in one pass with bounded memory: totals over all rows, and a uniform sample.

Every row gets a random key from the seed; the rows with the smallest keys are the sample (Efraimidis and Spirakis,
2006, with equal weights). So the sample depends only on the seed and the order of rows, not on file or batch sizes.
Raw rows are all checked against the schema. Scoring has checked scored rows already, so only their sample is checked
again. From scored Parquet, only the compared columns are read.
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
class SampledData:
    """A file's totals and its sample.

    sample: valid rows with the schema's columns, scores (some of `SCORES`) and `ALERTS` (1.0 where flagged). usable:
    valid rows; refused: rows refused here or by scoring (refused_earlier). models: model versions that scored the file.
    reasons: {(column, reason): refused rows}. window: first and last timestamp. entities: {column: rows per value},
    over all rows.
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
        """Rows in the file plus rows that scoring refused."""
        return self.usable + self.refused


def read_sampled(path: str, schema: Schema, threshold: Threshold | None, *, sample: int, seed: int) -> SampledData:
    """Read raw data or scored tables. threshold: decides which scores are alerts; None uses the file's is_fraud.

    Raises DataError (no data, or no row fits the schema) or SchemaError (columns are missing).
    """
    head = next(tables.iter_frames(path, rows=1))
    names = {column.name for column in schema.columns}
    scores = [name for name in SCORES if name in head.columns and name not in names]
    reader = _read_scored if scored.is_scored(head) else _read_raw
    side = reader(path, schema, scores, sample, seed)
    if threshold is not None and "score" in scores:
        flagged = threshold.decide(side.sample["score"].to_numpy())
        side = replace(side, sample=side.sample.assign(**{ALERTS: flagged.astype(np.float64)}))
    return side


@dataclass
class _Reservoir:
    """Keeps the `size` rows with the smallest random keys of a stream of batches."""

    size: int
    rng: np.random.Generator
    _pieces: list[Any] = field(default_factory=list)
    _keys: list[np.ndarray] = field(default_factory=list)
    _limit: float = 1.0

    def take(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw keys for the next `rows`; returns the positions that may be in the sample, and their keys."""
        keys = self.rng.random(rows)
        positions = np.flatnonzero(keys < self._limit)
        return positions, keys[positions]

    def keep(self, piece: Any, keys: np.ndarray) -> None:
        """Add the rows at those positions. Drops rows with too large keys once twice `size` rows are held."""
        self._pieces.append(piece)
        self._keys.append(keys)
        if sum(map(len, self._keys)) > 2 * self.size:
            self._limit = float(np.partition(np.concatenate(self._keys), self.size)[self.size])
            for i, piece_keys in enumerate(self._keys):
                selected = np.flatnonzero(piece_keys < self._limit)
                earlier = self._pieces[i]
                self._pieces[i] = earlier.take(selected) if isinstance(earlier, pa.Table) else earlier.iloc[selected]
                self._keys[i] = piece_keys[selected]

    def drawn(self) -> list[Any]:
        """The sample as a list of batches, in the order of the rows."""
        keys = np.concatenate(self._keys) if self._keys else np.empty(0)
        limit = np.partition(keys, self.size)[self.size] if len(keys) > self.size else np.inf
        selections = [np.flatnonzero(piece_keys < limit) for piece_keys in self._keys]
        return [
            piece.take(selected) if isinstance(piece, pa.Table) else piece.iloc[selected]
            for piece, selected in zip(self._pieces, selections, strict=True)
        ]


@dataclass
class _Totals:
    """Totals over all rows: time window, and rows per entity."""

    schema: Schema
    first: Any = None
    last: Any = None
    counts: dict[str, list[pd.Series]] = field(default_factory=dict)

    def times(self, low: Any, high: Any) -> None:
        if low is not None and not pd.isna(low):
            self.first = low if self.first is None else min(self.first, low)
            self.last = high if self.last is None else max(self.last, high)

    def entity(self, name: str, counts: pd.Series) -> None:
        pieces = self.counts.setdefault(name, [])
        pieces.append(counts)
        if len(pieces) >= 16:
            pieces[:] = [_added(pieces)]

    def summary(self) -> dict[str, Any]:
        window = None if self.first is None else (pd.Timestamp(self.first), pd.Timestamp(self.last))
        empty = pd.Series(dtype=np.int64)
        entities = {c.name: _added(self.counts.get(c.name, [])) if c.name in self.counts else empty
                    for c in self.schema.entities}  # fmt: skip
        return {"window": window, "entities": entities}


def _added(counts: Sequence[pd.Series]) -> pd.Series:
    joined = pd.concat(counts)
    return joined.groupby(level=0, sort=False).sum()


def _read_raw(path: str, schema: Schema, scores: Sequence[str], sample: int, seed: int) -> SampledData:
    """Read raw data. Scores are read as extra numeric columns."""
    more = tuple(Column(name=name, kind="numeric", nullable=True) for name in scores)
    extended = replace(schema, columns=schema.columns + more)
    draw, totals, reasons = _Reservoir(sample, np.random.default_rng(seed)), _Totals(schema), Counter[Any]()
    warnings: list[str] = []
    usable = refused = 0
    example = ""
    for checked in tables.iter_checked(path, extended, chunk_rows=_BATCH):
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
            totals.times(times.min(), times.max())
        for entity in schema.entities:
            totals.entity(entity.name, rows[entity.name].value_counts(sort=False))
    if not usable:
        raise DataError(f"{path}: none of {refused:,} rows fits schema {schema.name!r}; {example}")
    return SampledData(
        path, pd.concat(draw.drawn()), usable, refused, (), dict(reasons.most_common(_MOST_REASONS)),
        tuple(dict.fromkeys(warnings)), **totals.summary(),
    )  # fmt: skip


def _read_scored(path: str, schema: Schema, scores: Sequence[str], sample: int, seed: int) -> SampledData:
    """Read the output of batch scoring."""
    draw, totals, models = _Reservoir(sample, np.random.default_rng(seed)), _Totals(schema), set[str]()
    by_name = {scored.name_of(column.name): column for column in schema.columns}
    read = 0
    for table in _tables(path, [*by_name, *scores, "is_fraud", _VERSION]):
        read += len(table)
        models.update(str(version) for version in pc.unique(table[_VERSION]).to_pylist() if version is not None)
        for name, column in by_name.items():
            if name not in table.column_names:
                continue
            if column.kind == "timestamp":
                ends = pc.min_max(table[name]).as_py()
                totals.times(ends["min"], ends["max"])
            elif column.kind == "entity":
                counted = pc.value_counts(table[name])
                values = counted.field("values").cast(pa.string()).to_pylist()
                counts = pd.Series(counted.field("counts").to_numpy(zero_copy_only=False), index=values)
                totals.entity(column.name, counts[counts.index.notna()])
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
    beside = frame[list(scores)].assign(**{ALERTS: frame["is_fraud"].astype(np.float64)})
    # Estimated from the sample. Rows that were scored with the same schema are never refused here.
    refused = round(read * len(checked.quarantine) / len(frame))
    reasons = Counter(zip(checked.quarantine["column"], checked.quarantine["reason"], strict=True))
    earlier = _refused_by_scoring(path)
    return SampledData(
        path, checked.rows.join(beside, validate="one_to_one"), read - refused, refused + earlier,
        tuple(sorted(models)), dict(reasons), checked.warnings, **totals.summary(), refused_earlier=earlier,
    )  # fmt: skip


def _tables(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Batches of the files' rows, with those of `columns` that exist."""
    with reading(path):
        filesystem, files = find(path)
    for name in files:
        if not name.endswith((".parquet", ".pq")):  # a scored table converted to CSV
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
    """Rows that batch scoring quarantined, from the manifests of its output; 0 without a manifest."""
    try:
        return sum(int(manifest["rows"]["quarantined"]) for manifest in partitions.manifests(path))
    except (KeyError, TypeError, ValueError):
        return 0
