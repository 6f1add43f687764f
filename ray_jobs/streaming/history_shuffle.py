"""Entity history of data that does not fit in one place: rows shuffled by a hash of the entity, features brought back.

Three kinds of Ray tasks, all in rounds over objects that Ray keeps in shared memory and spills to disk:

1. split: a few blocks of rows → for each plan (entity column) and partition the few columns that its replay reads;
2. replay: one partition of one plan, in time order → the features of its rows, sorted by where they came from;
3. join: the rows of a split and the features of every partition, as blocks of a new data set, made when it is read.

No process holds more than a partition's narrow columns or a split's rows, and the features are those of one replay over
everything, to the last bit. Ray Data's own hash shuffle (2.60) collects partitions in the memory of a fixed number of
actors, as many bytes as the data; its sort shuffle would need three of them and a join by row number.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockAccessor

from fraud.history.definition import entry_names, feature_names, plans
from fraud.history.label_intervals import LabelIntervals
from fraud.history.records import microseconds_since_epoch, records_of
from fraud.history.replay import replay
from fraud.history.snapshots import partition as history_partition
from fraud.history.snapshots.days import Snapshots, partitions_for
from fraud.history.snapshots.replay_start import ReplayStart, ReplayStartPart, day_starts, frauds_of_rows, is_new
from fraud.history.snapshots.segments import Part
from fraud.history.state import HistoryState
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from fraud.scoring import scored
from ray_jobs.streaming.checked_blocks import notes_table, on_date, outside, with_notes, without_notes

logger = logging.getLogger(__name__)

PARTITION_ROWS = 1_000_000
# Rows of a split that go to one partition: enough that Ray does not keep the pieces in the driver (below 100 KB).
SHARD_ROWS = 4_000
# Rows that a replay takes at a time, however large a partition an entity of many rows makes.
REPLAY_ROWS = 1_000_000
PROGRESS_SECONDS = 5.0
_POSITION = "_position"

States = tuple[HistoryState, ...]


@dataclass(frozen=True)
class WithHistory:
    """Rows with their history features, and what is remembered after them.

    dataset: the blocks that came in, in their order: rows (of the day `date`), one float64 column a feature
    (fraud.history.definition), notes. n_partitions: of each plan. oldest: the first row's time, microseconds since
    1970; None without a row.
    """

    dataset: ray.data.Dataset
    n_partitions: int
    oldest: int | None
    _schema: Schema
    _newest: int
    _states: tuple[tuple[ray.ObjectRef, ...], ...]
    _parts: tuple[tuple[ray.ObjectRef, ...], ...]

    def parts(self) -> dict[dt.date, list[list[Part]]]:
        """What each day adds to the history, for Snapshots.publish; empty where nothing was to be left."""
        by_day: dict[dt.date, list[list[Part]]] = {}
        for k, refs in enumerate(self._parts):
            for parts in ray.get(list(refs)):
                for day, part in parts.items():
                    by_day.setdefault(day, [[] for _ in self._parts])[k].append(part)
        return by_day

    def states(self) -> States:
        """The states after the last row, one for each plan, as one replay over all rows leaves them."""
        states = []
        for plan, refs in zip(plans(self._schema), self._states, strict=True):
            parts: list[HistoryState] = ray.get(list(refs))
            newest = max([self._newest, *(part.last_time for part in parts if part.last_time is not None)])
            states.append(history_partition.join(parts, plan, newest))
        return tuple(states)


def with_history(
    rows: ray.data.Dataset,
    schema: Schema,
    *,
    begin: Callable[[int], ReplayStart] | ReplayStart | None = None,
    leave: Snapshots | None = None,
    remembered: int = 0,
    partitions: int | None = None,
    date: dt.date | None = None,
    cpus: float = 1.0,
) -> WithHistory:
    """Compute every history feature of a data set of canonical rows; returns when the replays are done.

    rows: Arrow or pandas blocks with `fraud.scoring.scored.ROW` (distinct; rows of one time count in its order) and the
    schema's columns (`fraud.scoring.scored.name_of`), in any order of time; notes (ray_jobs.streaming.checked_blocks)
    stay where they are. begin: where to begin, or a function of the oldest row's time (microseconds since 1970) that
    says so; default with nothing. leave: write what each day adds (of the day `date`, with late rows that came with
    it), for `WithHistory.parts`. remembered: about how many transactions each plan remembers in snapshots. partitions:
    of each plan; by default a power of two, of at most `PARTITION_ROWS` rows each. date: rows of other days only feed
    the history. cpus: of each task. Raises ray.exceptions.RayError.
    """
    blocks = [entry for bundle in rows.iter_internal_ref_bundles() for entry in bundle.blocks]
    all_plans, n = plans(schema), partitions or _partitions(blocks, remembered)
    split_rows = ray.remote(_split).options(num_cpus=cpus, num_returns=2 + len(all_plans) * n)
    splits = [
        split_rows.remote(schema, n, date, *(block.ref for block in group)) for group in _groups(blocks, n * SHARD_ROWS)
    ]
    del blocks  # each goes when its split is done
    _wait([split[1] for split in splits], "split")
    spans = [span for span in ray.get([split[1] for split in splits]) if span is not None]
    oldest = min((first for first, _ in spans), default=None)
    beginning = begin(oldest) if callable(begin) and oldest is not None else begin
    beginning = beginning if isinstance(beginning, ReplayStart) else ReplayStart()
    replay_part = ray.remote(_replay).options(num_cpus=cpus, num_returns=3 + len(splits))
    labels, replays = ray.put(beginning.labels), []
    for k, plan in enumerate(all_plans):
        cut = history_partition.cut(schema, plan)
        work = [_Work(cut, part, leave, date, REPLAY_ROWS) for part in beginning.split(k, n)]
        replays.append(
            [replay_part.remote(work[p], labels, *(split[2 + k * n + p] for split in splits)) for p in range(n)]
        )
    rows_of_splits = [split[0] for split in splits]
    del splits  # each shard goes when its replay is done
    _wait([part[0] for parts in replays for part in parts], "replayed")
    # One object for each split: a task that knew the features of all splits would unpack thousands of references.
    sources = [
        ray.put((rows_of_splits[i], [[part[3 + i] for part in parts] for parts in replays]))
        for i in range(len(rows_of_splits))
    ]
    order = ray.data.from_items([{"split": i} for i in range(len(sources))], override_num_blocks=len(sources))
    return WithHistory(
        dataset=order.map_batches(
            _join, fn_args=(schema, sources), num_cpus=cpus, batch_format="pyarrow", batch_size=None
        ),
        n_partitions=n,
        oldest=oldest,
        _schema=schema,
        _newest=max((last for _, last in spans), default=0),
        _states=tuple(tuple(part[1] for part in parts) for parts in replays),
        _parts=tuple(tuple(part[2] for part in parts) for parts in replays),
    )


def _partitions(blocks: list[Any], remembered: int) -> int:
    # A remembered transaction is a quarter of a row that is scored: a record, and no row number, position or feature.
    return partitions_for([remembered // 4, *(block.metadata.num_rows or 0 for block in blocks)], PARTITION_ROWS)


def _groups(blocks: list[Any], rows: int) -> Iterator[list[Any]]:
    """Neighbouring blocks, at least `rows` rows together but for the last group."""
    group: list[Any] = []
    for block in blocks:
        group.append(block)
        if sum(member.metadata.num_rows or 0 for member in group) >= rows:
            yield group
            group = []
    if group:
        yield group


def _wait(refs: list[ray.ObjectRef], what: str) -> None:
    """Wait for tasks, saying now and then how far they are. Raises what a task raised, as soon as it did."""
    waiting, reported = refs, time.monotonic()
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
        ray.get(done)
        if time.monotonic() - reported >= PROGRESS_SECONDS:
            reported = time.monotonic()
            logger.info("entity history: %d of %d parts %s", len(refs) - len(waiting), len(refs), what)


def _split(schema: Schema, n: int, date: dt.date | None, *blocks: Any) -> tuple[Any, ...]:
    """The rows of the day `date` with all notes; the oldest and newest time; for each plan and partition its columns.

    A plan's columns come with the row number and the position among the rows of that day, -1 for a row of another day.
    """
    block = pa.concat_tables([BlockAccessor.for_block(block).to_arrow() for block in blocks], promote_options="default")
    rows, notes = without_notes(block)
    if scored.ROW not in rows.column_names:  # nothing but the note that reading failed
        return (block, None, *([None] * (len(plans(schema)) * n)))
    assert schema.timestamp is not None
    numbers = rows[scored.ROW].to_numpy()
    timed = scored.source_columns(rows.select([scored.name_of(schema.timestamp.name)]).to_pandas(), schema)
    is_of_day = on_date(timed, schema, date)
    of_day = with_notes(rows.filter(is_of_day), notes, notes_table(outside(timed, is_of_day, schema, date)))
    position = pa.array(np.where(is_of_day, np.cumsum(is_of_day) - 1, -1).astype(np.int32))
    shards: list[pa.Table] = []
    for plan in plans(schema):
        names = [scored.name_of(column.name) for column in history_partition.cut(schema, plan).columns]
        narrow = rows.select([scored.ROW, *(name for name in names if name in rows.column_names)])
        narrow = narrow.append_column(_POSITION, position).combine_chunks()
        entities = rows[scored.name_of(plan.column)].to_pandas()
        partition = history_partition.partition_of(entities, numbers, n)
        in_order = np.argsort(partition, kind="stable")
        bounds = np.searchsorted(partition[in_order], np.arange(n + 1))
        shards += [narrow.take(in_order[bounds[p] : bounds[p + 1]]) for p in range(n)]
    times = microseconds_since_epoch(timed[schema.timestamp.name])
    return (of_day, (int(times.min()), int(times.max())) if len(times) else None, *shards)


@dataclass(frozen=True)
class _Work:
    """What a replay does with one partition of one plan. See `with_history`. schema: of that plan alone."""

    schema: Schema
    begin: ReplayStartPart
    leave: Snapshots | None
    date: dt.date | None
    chunk: int


def _replay(work: _Work, labels: LabelIntervals | None, *shards: pa.Table | None) -> tuple[Any, ...]:
    """How many rows, the state after them, what each day adds; for each split their positions, int32 (n,), and
    features, (n, width).
    """
    schema, begin = work.schema, work.begin
    (plan,) = plans(schema)
    names = feature_names(schema)
    nothing = (np.empty(0, dtype=np.int32), np.empty((0, len(names))))
    there = [shard for shard in shards if shard is not None]
    if not there or not any(map(len, there)):
        return (0, HistoryState.empty(plan), {}, *([nothing] * len(shards)))
    state = begin.remembered() or HistoryState.empty(plan)
    table = pa.concat_tables(there, promote_options="default")
    position, number = table[_POSITION].to_numpy(), table[scored.ROW].to_numpy()
    rows = scored.source_columns(table.drop_columns([_POSITION, scored.ROW]).to_pandas(), schema)
    zone = zone_of(schema)
    assert schema.timestamp is not None
    times = microseconds_since_epoch(rows[schema.timestamp.name])
    frauds, moments, is_used = None, None, np.ones(len(rows), dtype=bool)
    if begin.frauds is not None or begin.has_earlier_days:
        keys, records = np.asarray(rows[plan.column], dtype=object), records_of(rows, schema, plan)
        if begin.has_earlier_days and work.date is not None:
            is_used = position >= 0
            late = np.flatnonzero(~is_used & (times < zone.start_of(work.date)))
            is_used[late] = is_new(keys[late], records[late], state)
        if begin.frauds is not None:
            ids = np.asarray(rows[schema.id.name], dtype=object) if schema.id and schema.id.name in rows else None
            frauds = [frauds_of_rows(begin.frauds, labels, keys, records, ids)]
            moments = day_starts(times, zone)
    in_time = np.lexsort((number, times))
    in_time = in_time[is_used[in_time]]
    is_wanted = position >= 0
    row_of = np.cumsum(is_wanted) - 1
    features = np.empty((int(is_wanted.sum()), len(names)))
    states: States = (state,)
    for start in range(0, len(in_time), work.chunk):
        piece = in_time[start : start + work.chunk]
        values, states = replay(
            rows.iloc[piece], schema, states, frauds=frauds, moments=None if moments is None else moments[piece]
        )
        features[row_of[piece][is_wanted[piece]]] = values[is_wanted[piece]]
    parts = {}
    if work.leave is not None:
        days = zone.day_of(times) if work.date is None else np.full(len(rows), np.datetime64(work.date))
        for day in np.unique(days[is_used]):
            date, of_day = day.astype(dt.date), rows[is_used & (days == day)]
            parts[date] = work.leave.write_part(begin.plan, date, of_day, begin.partition)
    ends = np.cumsum([0 if shard is None else len(shard) for shard in shards])
    bounds = np.concatenate([[0], np.concatenate([[0], np.cumsum(is_wanted)])[ends]])
    position = position[is_wanted]
    pieces = [slice(first, last) for first, last in itertools.pairwise(bounds.tolist())]
    return (len(rows), states[0], parts, *((position[piece], features[piece]) for piece in pieces))


def _join(block: pa.Table, schema: Schema, sources: list[ray.ObjectRef]) -> Iterator[pa.Table]:
    """The rows of a split with their features."""
    for i in block["split"].to_pylist():
        rows_ref, parts = ray.get(sources[i])
        rows, notes = without_notes(ray.get(rows_ref))
        if scored.ROW not in rows.column_names:
            yield ray.get(rows_ref)
            continue
        names = feature_names(schema)
        history = np.empty((len(names), len(rows)))
        column = 0
        for plan, of_plan in zip(plans(schema), parts, strict=True):
            width = sum(len(entry_names(entry)) for entry in plan.entries)
            for position, features in ray.get(of_plan):
                history[column : column + width, position] = features.T
            column += width
        for name, values in zip(names, history, strict=True):
            rows = rows.append_column(name, pa.array(values))
        yield with_notes(rows, notes)
