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
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockAccessor

from fraud import scored
from fraud.history import partition as history_partition
from fraud.history.definition import entry_names, feature_names, plans
from fraud.history.records import microseconds_since_epoch
from fraud.history.replay import replay
from fraud.history.state import HistoryState
from fraud.schema import Schema
from ray_jobs.checked_blocks import on_date, outside, with_notes, without_notes

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

    dataset: the blocks that came in, in their order: rows (of the wanted day), one float64 column a feature
    (fraud.history.definition), notes. n_partitions: of each plan. oldest: the first row's time, microseconds since
    1970; None without a row.
    """

    dataset: ray.data.Dataset
    n_partitions: int
    oldest: int | None
    _schema: Schema
    _newest: int
    _states: tuple[tuple[ray.ObjectRef, ...], ...]

    def states(self) -> States:
        """The states after the last row, one for each plan, as one replay over all rows leaves them."""
        found = []
        for plan, refs in zip(plans(self._schema), self._states, strict=True):
            parts: list[HistoryState] = ray.get(list(refs))
            newest = max([self._newest, *(part.last_time for part in parts if part.last_time is not None)])
            found.append(history_partition.join(parts, plan, newest))
        return tuple(found)


def with_history(
    rows: ray.data.Dataset,
    schema: Schema,
    *,
    states: Callable[[int], States] | States = (),
    partitions: int | None = None,
    date: dt.date | None = None,
    cpus: float = 1.0,
) -> WithHistory:
    """Compute every history feature of a data set of canonical rows; returns when the replays are done.

    rows: Arrow or pandas blocks with `fraud.scored.ROW` (distinct; rows of one time count in its order) and the
    schema's columns (`fraud.scored.name_of`), in any order of time; notes (ray_jobs.checked_blocks) stay where they
    are. states: where to go on from, or a function of the oldest row's time (microseconds since 1970) that says so.
    partitions: of each plan; by default one for every `PARTITION_ROWS` rows. date: rows of other days only feed the
    history. cpus: of each task. Raises ray.exceptions.RayError.
    """
    blocks = [entry for bundle in rows.iter_internal_ref_bundles() for entry in bundle.blocks]
    found, n = plans(schema), partitions or _partitions(blocks)
    split_rows = ray.remote(_split).options(num_cpus=cpus, num_returns=2 + len(found) * n)
    splits = [
        split_rows.remote(schema, n, date, *(block.ref for block in group)) for group in _groups(blocks, n * SHARD_ROWS)
    ]
    del blocks  # each goes when its split is done
    _wait([split[1] for split in splits], "split")
    spans = [span for span in ray.get([split[1] for split in splits]) if span is not None]
    oldest = min((first for first, _ in spans), default=None)
    begin = () if oldest is None else states(oldest) if callable(states) else states
    begins: list[Sequence[HistoryState | None]] = [[None] * n for _ in found]
    begins = [history_partition.split(state, n) for state in begin] or begins
    replay_part = ray.remote(_replay).options(num_cpus=cpus, num_returns=2 + len(splits))
    replays = [
        [
            replay_part.remote(plan_schema, begins[k][p], REPLAY_ROWS, *(split[2 + k * n + p] for split in splits))
            for p in range(n)
        ]
        for k, plan_schema in enumerate(history_partition.cut(schema, plan) for plan in found)
    ]
    kept = [split[0] for split in splits]
    del splits  # each shard goes when its replay is done
    _wait([part[0] for parts in replays for part in parts], "replayed")
    # One object for each split: a task that knew the features of all splits would unpack thousands of references.
    sources = [ray.put((kept[i], [[part[2 + i] for part in parts] for parts in replays])) for i in range(len(kept))]
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
    )


def _partitions(blocks: list[Any]) -> int:
    return max(1, math.ceil(sum(block.metadata.num_rows or 0 for block in blocks) / PARTITION_ROWS))


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
    """The rows of the wanted day with all notes; the oldest and newest time; for each plan and partition its columns.

    A plan's columns come with the row number and the position among the wanted rows, -1 for a row of another day.
    """
    block = pa.concat_tables([BlockAccessor.for_block(block).to_arrow() for block in blocks], promote_options="default")
    rows, notes = without_notes(block)
    if scored.ROW not in rows.column_names:  # nothing but the note that reading failed
        return (block, None, *([None] * (len(plans(schema)) * n)))
    assert schema.timestamp is not None
    numbers = rows[scored.ROW].to_numpy()
    timed = scored.source_columns(rows.select([scored.name_of(schema.timestamp.name)]).to_pandas(), schema)
    wanted = on_date(timed, schema, date)
    kept = with_notes(rows.filter(wanted), pa.chunked_array([*notes.chunks, outside(wanted)], pa.string()))
    position = pa.array(np.where(wanted, np.cumsum(wanted) - 1, -1).astype(np.int32))
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
    return (kept, (int(times.min()), int(times.max())) if len(times) else None, *shards)


def _replay(schema: Schema, state: HistoryState | None, chunk: int, *shards: pa.Table | None) -> tuple[Any, ...]:
    """How many rows, the state after them; for each split their positions, int32 (n,), and features, (n, width)."""
    (plan,) = plans(schema)
    names = feature_names(schema)
    nothing = (np.empty(0, dtype=np.int32), np.empty((0, len(names))))
    states: States = (HistoryState.empty(plan) if state is None else state,)
    there = [shard for shard in shards if shard is not None]
    if not there:
        return (0, states[0], *([nothing] * len(shards)))
    table = pa.concat_tables(there, promote_options="default")
    position, number = table[_POSITION].to_numpy(), table[scored.ROW].to_numpy()
    rows = scored.source_columns(table.drop_columns([_POSITION, scored.ROW]).to_pandas(), schema)
    assert schema.timestamp is not None
    in_time = np.lexsort((number, microseconds_since_epoch(rows[schema.timestamp.name])))
    is_wanted = position >= 0
    place = np.cumsum(is_wanted) - 1
    found = np.empty((int(is_wanted.sum()), len(names)))
    for start in range(0, len(rows), chunk):
        piece = in_time[start : start + chunk]
        features, states = replay(rows.iloc[piece], schema, states)
        found[place[piece][is_wanted[piece]]] = features[is_wanted[piece]]
    ends = np.cumsum([0 if shard is None else len(shard) for shard in shards])
    bounds = np.concatenate([[0], np.concatenate([[0], np.cumsum(is_wanted)])[ends]])
    position = position[is_wanted]
    pieces = [slice(begin, end) for begin, end in itertools.pairwise(bounds.tolist())]
    return (len(rows), states[0], *((position[piece], found[piece]) for piece in pieces))


def _join(block: pa.Table, schema: Schema, sources: list[ray.ObjectRef]) -> Iterator[pa.Table]:
    """The rows of a split with their features."""
    for i in block["split"].to_pylist():
        kept, parts = ray.get(sources[i])
        rows, notes = without_notes(ray.get(kept))
        if scored.ROW not in rows.column_names:
            yield ray.get(kept)
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
