"""Build days of history from transaction files. Only missing and changed days are written."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from fraud.data import filesystems, tables
from fraud.data.files import find, reading
from fraud.errors import DataError
from fraud.history.records import microseconds_since_epoch
from fraud.history.snapshots.days import Snapshots, partitions_for
from fraud.history.snapshots.partition import partition_of
from fraud.history.snapshots.segments import Part

logger = logging.getLogger(__name__)

_BUFFER_ROWS, _PART_ROWS = 2_000_000, 1_000_000
_DAY = dt.timedelta(days=1)


@dataclass
class BuildReport:
    """Result of a build.

    made: new days. changed: days whose rows changed. same: days read again without a change. empty: days without rows.
    later: days that were scored with the old history of a changed day.
    rows: rows read. refused: rows that violate the schema. outside: rows of days that were not requested.
    """

    made: list[dt.date] = field(default_factory=list)
    changed: list[dt.date] = field(default_factory=list)
    same: list[dt.date] = field(default_factory=list)
    empty: list[dt.date] = field(default_factory=list)
    later: list[dt.date] = field(default_factory=list)
    rows: int = 0
    refused: int = 0
    outside: int = 0


class DayWriter:
    """Collects canonical rows of any days in any order and writes them day by day, in bounded memory."""

    def __init__(self, snapshots: Snapshots, *, own_labels: bool) -> None:
        self._snapshots, self._own_labels = snapshots, own_labels
        schema = snapshots.schema
        assert schema.timestamp is not None  # Schema refuses a history without one
        roles = [column.name for column in (schema.timestamp, schema.id, schema.label) if column is not None]
        remembered = [name for plan in snapshots.plans for name in (plan.column, *plan.values, *plan.others)]
        self._columns, self._time = list(dict.fromkeys([*roles, *remembered])), schema.timestamp.name
        self._buffers: dict[dt.date, list[pd.DataFrame]] = {}
        self._parts: dict[dt.date, list[list[Part]]] = {}
        self._sources: dict[dt.date, dict[str, Sequence[Any]]] = {}

    def add(
        self, rows: pd.DataFrame, *, source: Mapping[str, Sequence[Any]], is_requested: Callable[[dt.date], bool]
    ) -> int:
        """Add the rows of requested days; return the number of other rows. Raises DataError."""
        days = self._snapshots.zone.day_of(microseconds_since_epoch(rows[self._time]))
        rows, outside = rows[[name for name in self._columns if name in rows]], 0
        for day in np.unique(days):
            date, of_day = day.astype(dt.date), days == day
            if not is_requested(date):
                outside += int(of_day.sum())
                continue
            self._buffers.setdefault(date, []).append(rows[of_day])
            self._sources.setdefault(date, {}).update(source)
        while sum(len(frame) for frames in self._buffers.values() for frame in frames) > _BUFFER_ROWS:
            self._flush(max(self._buffers, key=lambda date: sum(map(len, self._buffers[date]))))
        return outside

    @property
    def days(self) -> list[dt.date]:
        """The days with rows, ascending."""
        return sorted({*self._buffers, *self._parts})

    def publish(self, days: Iterable[dt.date], built: BuildReport, *, made_by: str) -> None:
        """Publish the days in order; a day without rows becomes an empty day. Raises DataError."""
        snapshots = self._snapshots
        for day in days:
            self._flush(day)
            before = [snapshots.read(plan, day) for plan in snapshots.plans]
            parts = self._parts.pop(day, [[] for _ in snapshots.plans])
            later = snapshots.publish(
                day, parts, made_by=made_by, sources=self._sources.pop(day, {}), own_labels=self._own_labels
            )
            after = [snapshots.read(plan, day) for plan in snapshots.plans]
            if not any(part.rows for plan_parts in parts for part in plan_parts):
                built.empty.append(day)
            if any(manifest is None for manifest in before):
                built.made.append(day)
            elif [m.fingerprint for m in before if m] != [m.fingerprint for m in after if m]:
                built.changed.append(day)
            else:
                built.same.append(day)
            built.later = sorted({*built.later, *later})
            snapshots.tidy(day)

    def _flush(self, day: dt.date) -> None:
        frames = self._buffers.pop(day, [])
        if not frames:
            return
        rows = pd.concat(frames)
        parts = self._parts.setdefault(day, [[] for _ in self._snapshots.plans])
        n = partitions_for([len(rows)], _PART_ROWS)
        for i, plan in enumerate(self._snapshots.plans):
            partition = partition_of(rows[plan.column], np.arange(len(rows)), n)
            for p in range(n):
                mine = rows if n == 1 else rows[partition == p]
                parts[i].append(self._snapshots.write_part(i, day, mine, (p, n), own_labels=self._own_labels))


def build(
    snapshots: Snapshots,
    path: str,
    through: dt.date,
    *,
    since: dt.date | None = None,
    own_labels: bool = False,
    allow_empty: bool = False,
) -> BuildReport:
    """Build the days up to `through` that are missing or whose files have changed.

    path: file, folder, glob or URL with the transactions; other days are ignored. since: first day; default: as far
    back as the plans need. own_labels: the data's label column counts until the label store has a label.
    allow_empty: `through` may be a day without rows.
    Raises DataError (no row on `through`, a gap before the first day, no readable file) or SchemaError.
    """
    first = since or through - snapshots.longest_memory_days * _DAY
    if first > through:
        raise DataError(f"--since {first} is later than --through {through}: give an earlier day")
    built, writer = BuildReport(), DayWriter(snapshots, own_labels=own_labels)
    files = {name: stamp for name, stamp in sources_of(path).items() if _may_hold(snapshots, name, first, through)}
    existing = set(snapshots.days())
    recorded = _recorded_sources(snapshots, existing)
    unread = [name for name, stamp in files.items() if recorded.get(name) != stamp]
    has_read: set[str] = set()
    _read(snapshots, writer, built, {name: files[name] for name in unread}, lambda day: first <= day <= through)
    has_read.update(unread)
    # A rewritten day needs the rows of all its files. A dropped day needs files that were read before.
    rewritten = {day for day in writer.days if day in existing}
    siblings = {name for day in rewritten for name in _sources_of_day(snapshots, day) if name in files} - has_read
    _read(snapshots, writer, built, {name: files[name] for name in sorted(siblings)}, lambda day: day in rewritten)
    missing = _missing(existing | set(writer.days), first, through)
    rest = [name for name in files if name not in has_read]
    if missing and rest:
        _read(snapshots, writer, built, {name: files[name] for name in rest}, lambda day: day in missing)
    days = writer.days
    if through not in existing and through not in days and not allow_empty:
        raise DataError(
            f"{path} holds no row of {through}: the day has not ended or its file is missing; give the data of that "
            f"day, or --allow-empty if it had no transactions"
        )
    earliest = min([*days, *(day for day in existing if day >= first)], default=through)
    gaps = [day for day in _range(earliest, through) if day not in existing and day not in days]
    writer.publish(sorted([*days, *gaps]), built, made_by="build")
    for day in built.empty:
        logger.warning("%s: no rows; stored as a day without transactions", day)
    return built


def _read(
    snapshots: Snapshots,
    writer: DayWriter,
    built: BuildReport,
    files: Mapping[str, Sequence[Any]],
    is_requested: Callable[[dt.date], bool],
) -> None:
    for number, (name, stamp) in enumerate(files.items(), 1):
        before = built.rows
        for checked in tables.iter_checked(name, snapshots.schema):
            built.rows += len(checked.rows)
            built.refused += len(checked.quarantine)
            if len(checked.rows):
                built.outside += writer.add(checked.rows, source={name: stamp}, is_requested=is_requested)
        logger.info("%d of %d files read: %s, %s rows", number, len(files), name, f"{built.rows - before:,}")


def sources_of(path: str) -> dict[str, list[Any]]:
    """The data files of a path: {URL: [size, modification stamp]}. Raises DataError."""
    with reading(path):
        filesystem, names = find(path)
        filesystem.invalidate_cache()
        infos = {str(filesystem.unstrip_protocol(name)): filesystem.info(name) for name in names}
    keys = ("ETag", "mtime", "LastModified", "created")
    return {
        name: [int(info.get("size") or 0), str(next((info[key] for key in keys if key in info), ""))]
        for name, info in infos.items()
    }


def _may_hold(snapshots: Snapshots, name: str, first: dt.date, through: dt.date) -> bool:
    """Whether a file may have rows of these days, by the statistics in its Parquet footer; True for other files."""
    timestamp, zone = snapshots.schema.timestamp, snapshots.zone
    if timestamp is None or timestamp.unit is not None or not name.endswith((".parquet", ".pq")):
        return True
    filesystem, path = filesystems.of(name)
    with reading(name), filesystem.open(path, "rb") as raw:
        metadata = pq.ParquetFile(raw).metadata
    spans = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        columns = [group.column(j) for j in range(group.num_columns)]
        limits = next((c.statistics for c in columns if c.path_in_schema == timestamp.name), None)
        if limits is None or not limits.has_min_max or not isinstance(limits.min, dt.datetime):
            return True
        spans.append((limits.min, limits.max))
    edges = [np.datetime64(moment.replace(tzinfo=None), "us") for span in spans for moment in span]
    if any(moment.tzinfo is not None and moment.utcoffset() for span in spans for moment in span) or not edges:
        return True
    days = zone.day_of(np.array([min(edges), max(edges)]))
    return bool(days[0] <= np.datetime64(through) and days[1] >= np.datetime64(first))


def _sources_of_day(snapshots: Snapshots, day: dt.date) -> dict[str, list[Any]]:
    manifests = [snapshots.read(plan, day) for plan in snapshots.plans]
    return {name: list(stamp) for manifest in manifests if manifest for name, stamp in manifest.sources.items()}


def _recorded_sources(snapshots: Snapshots, days: Iterable[dt.date]) -> dict[str, list[Any]]:
    return {name: stamp for day in days for name, stamp in _sources_of_day(snapshots, day).items()}


def _missing(existing: set[dt.date], first: dt.date, through: dt.date) -> set[dt.date]:
    return {day for day in _range(first, through) if day not in existing}


def _range(first: dt.date, last: dt.date) -> list[dt.date]:
    return [first + n * _DAY for n in range((last - first).days + 1)]
