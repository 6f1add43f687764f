"""The stored history at the end of each day, below FRAUD_HISTORY. Equals a replay of everything up to that day's end.

    <FRAUD_HISTORY>/<plan fingerprint>/date=2026-01-31/_manifest.json     counts, sources, chain; written last
    <FRAUD_HISTORY>/<plan fingerprint>/date=2026-01-31/events-....parquet transactions of that day (segments.py)

A snapshot is a day's manifest and the earlier manifests within the plan's memory. A day's files hold that day only, so
a corrected day is rewritten alone. Each manifest holds the chain hash of the day before, so a change is visible in
every later day. Labels are not part of a snapshot: known frauds come from the label store (`fraud.labels.store`), and
from the data's own labels if a training brought them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa

from fraud.data import filesystems
from fraud.data import tables as data
from fraud.errors import DataError, ObjectStoreError
from fraud.history.definition import EntityPlan
from fraud.history.label_intervals import label_intervals
from fraud.history.records import long_hashes, records_of
from fraud.history.snapshots import segments
from fraud.history.snapshots.catalog import ALL, Catalog
from fraud.history.snapshots.manifest import DayManifest
from fraud.history.snapshots.partition import partition_of
from fraud.history.snapshots.segments import ENTITY, IS_FRAUD, Part
from fraud.history.state import FRAUD_RECORD, HistoryState, KnownFrauds, count_per_group, frauds_that_matter, starts_of

_DAY = dt.timedelta(days=1)
_EARLIEST, _LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Snapshots(Catalog):
    """The stored history at the end of each day of a catalog."""

    def states(self, through: dt.date, labels: pd.DataFrame | None = None) -> tuple[HistoryState, ...]:
        """The state of each plan at the end of `through`, with the frauds known at that time.

        labels: from LabelStore.read or LabelStore.ledger. Raises DataError if a file was altered.
        """
        frauds = self.known_frauds(through, labels)
        return tuple(
            with_frauds(self.events(i, through), self.plans[i], frauds[i], self.zone.end_of(through))
            for i in range(len(self.plans))
        )

    def events(self, i: int, through: dt.date, partition: tuple[int, int] = ALL) -> HistoryState:
        """The state of plan number `i` at the end of `through`, without frauds.

        partition: read only these entities (fraud.history.snapshots.partition), to bound memory. Raises DataError.
        """
        plan = self.plans[i]
        tables = []
        for day in self._remembered_days(plan, through):
            for part in day.parts:
                groups, is_exact = part.groups_of(partition)
                if groups:
                    table = self.table(plan, day, part, "events", groups=groups)
                    tables.append(table if is_exact else _of_partition(table, partition))
        if not tables:
            return HistoryState.empty(plan)
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        del tables
        entities = table[ENTITY].combine_chunks()
        entities = entities.chunk(0) if isinstance(entities, pa.ChunkedArray) else entities
        codes, times = entities.indices.to_numpy(), table["time"].to_numpy()
        order = np.lexsort((times, codes))
        order = order[times[order] >= self.zone.end_of(through) - plan.memory]
        codes = codes[order]
        ends = np.searchsorted(codes, codes, side="right")
        order = order[np.arange(len(order)) >= ends - plan.store_capacity]
        events = np.empty(len(order), dtype=plan.record)
        for name in plan.record.names or ():
            events[name] = table[name].to_numpy()[order]
        present, counts = np.unique(entities.indices.to_numpy()[order], return_counts=True)
        keys = np.asarray(entities.dictionary.take(pa.array(present)).to_pylist(), dtype=object)
        nothing = np.zeros(len(keys) + 1, dtype=np.int64)
        return HistoryState(keys, events, starts_of(counts), np.empty(0, FRAUD_RECORD), nothing)

    def remembered_rows(self, plan: EntityPlan, through: dt.date) -> int:
        """Number of transactions in the days that a plan reads at the end of `through`."""
        return sum(day.rows for day in self._remembered_days(plan, through))

    def known_frauds(
        self, through: dt.date, labels: pd.DataFrame | None, *, since: dt.date | None = None
    ) -> tuple[KnownFrauds, ...]:
        """The frauds among the transactions stored at the end of `through`, one per plan.

        A label of the label store counts from the time it was known; before the first one, the data's own label counts.
        labels: LabelStore.ledger, or None. since: include transactions stored at the end of that earlier day.
        Raises DataError.
        """
        intervals = label_intervals(labels)
        hashes = np.unique(intervals.id_hashes)
        frauds = []
        for plan in self.plans:
            parts: list[KnownFrauds] = []
            for day in self._remembered_days(plan, through, since) if plan.keeps_frauds else ():
                for part in day.parts:
                    own = self._own_frauds(plan, day, part)
                    if len(hashes) and part.file("ids"):
                        position, rows = segments.look_up(self._index(plan, day, part), hashes)
                        labelled = _transactions(rows)
                        parts.append(intervals.of(hashes[position], labelled))
                        own = intervals.until_first_label(own, hashes[position], labelled)
                    parts.append(own)
            frauds.append(KnownFrauds.join(parts))
        return tuple(frauds)

    def find(self, ids: Sequence[str], through: dt.date | None = None) -> pd.DataFrame:
        """Find transactions by id: "id", "time" (datetime64[us]) and the entity columns whose frauds are counted.

        Ids outside the stored days are left out. Raises DataError.
        """
        texts = np.asarray(list(dict.fromkeys(ids)), dtype=object)
        hashes = long_hashes(texts) if len(texts) else np.empty(0, dtype=np.uint64)
        order = np.argsort(hashes)
        newest = through or self.newest_day()
        columns: dict[str, pd.DataFrame] = {}
        for plan in self.plans:
            if newest is None or not plan.keeps_frauds or not len(texts):
                continue
            pieces = []
            for day in self._remembered_days(plan, newest):
                for part in day.parts:
                    if part.file("ids"):
                        position, rows = segments.look_up(self._index(plan, day, part), hashes[order])
                        times = rows["time"].to_numpy().astype("datetime64[us]")
                        id_texts = texts[order][position]
                        pieces.append(
                            pd.DataFrame({"id": id_texts, "time": times, plan.column: segments.entity_texts(rows)})
                        )
            if pieces:
                columns[plan.column] = pd.concat(pieces, ignore_index=True).drop_duplicates("id", keep="last")
        if not columns:
            return pd.DataFrame({"id": [], "time": np.empty(0, "datetime64[us]")})
        transactions, *others = columns.values()
        for other in others:
            transactions = transactions.merge(other, on=["id", "time"], how="outer")
        return transactions.reset_index(drop=True)

    def write_part(
        self, i: int, day: dt.date, rows: pd.DataFrame, partition: tuple[int, int] = ALL, *, own_labels: bool = False
    ) -> Part:
        """Write the files of a day's canonical rows for plan number `i`. Unused until `publish` names them.

        own_labels: the rows' own label column counts; False: keep the own labels that the day has already. Raises
        DataError if the files cannot be written.
        """
        plan = self.plans[i]
        before = None if own_labels else self.read(plan, day)
        frauds = KnownFrauds.join([self._own_frauds(plan, before, part) for part in before.parts] if before else [])
        part, contents = segments.encode(rows, self.schema, plan, partition, own_labels=own_labels, frauds=frauds)
        self.write_files(plan, day, contents)
        return part

    def mark_frauds(self, day: dt.date, rows: pd.DataFrame) -> int:
        """Mark transactions of a day as frauds by the data's own labels; return the number of new marks.

        rows: canonical, frauds only; rows not in the day are ignored. Raises DataError.
        """
        most = 0
        for plan in self.plans:
            manifest = self.read(plan, day)
            if manifest is None or not plan.keeps_frauds:
                continue
            with_entity = rows[rows[plan.column].notna()]
            keys = np.asarray(with_entity[plan.column].astype(str), dtype=object)
            records = records_of(with_entity, self.schema, plan)
            named = pd.MultiIndex.from_arrays([keys, records["time"], records["id"]])
            parts, marked = [], 0
            for part in manifest.parts:
                tables = {kind: self.table(plan, manifest, part, kind) for kind in ("events", "ids") if part.file(kind)}
                events = tables["events"]
                columns = [segments.entity_texts(events), events["time"].to_numpy(), events["id"].to_numpy()]
                new = pd.MultiIndex.from_arrays(columns).isin(named) & ~events[IS_FRAUD].to_numpy()
                if new.any():
                    at = events.column_names.index(IS_FRAUD)
                    is_fraud = pa.array(events[IS_FRAUD].to_numpy() | new)
                    tables["events"] = events.set_column(at, IS_FRAUD, is_fraud)
                    part, contents = segments.pack(tables, plan, part.partition)
                    self.write_files(plan, day, contents)
                    marked += int(new.sum())
                parts.append(part)
            if marked:
                self.replace_parts(plan, replace(manifest, own_labels=True), parts)
                self.tidy(day)
            most = max(most, marked)
        return most

    def write_files(self, plan: EntityPlan, day: dt.date, contents: Mapping[str, bytes]) -> None:
        """Write files of a day, {name: content}; they have no effect until a manifest names them. Raises DataError."""
        for name, content in contents.items():
            data.write(f"{self._folder(plan, day)}/{name}", partial(_put, content))

    def check_files(self, day: dt.date) -> None:
        """Verify every file of a day against its manifest. Raises DataError for the first mismatch."""
        for plan in self.plans:
            manifest = self.read(plan, day)
            if manifest is None:
                continue
            for part in manifest.parts:
                for kind in ("events", "ids"):
                    if part.file(kind) is not None:
                        self.table(plan, manifest, part, kind)

    def _remembered_days(self, plan: EntityPlan, through: dt.date, since: dt.date | None = None) -> list[DayManifest]:
        """The days that the plan reads at the end of `through` (and of `since`), oldest first."""
        days: list[DayManifest] = []
        for back in range(self.memory_days(plan) + max(0, (through - (since or through)).days)):
            manifest = self.read(plan, through - back * _DAY)
            if manifest is None:
                break
            days.insert(0, manifest)
            if not manifest.previous:
                break
        return days

    def table(
        self,
        plan: EntityPlan,
        day: DayManifest,
        part: Part,
        kind: str,
        columns: list[str] | None = None,
        groups: list[int] | None = None,
    ) -> pa.Table:
        """A part's "events" or "ids"; groups: some row groups of the events.

        Raises DataError if the file is missing, altered or truncated.
        """
        name = part.file(kind)
        assert name is not None
        size, sha256 = part.files[name]
        url = f"{self._folder(plan, day.day)}/{name}"
        filesystem, path = filesystems.of(url)
        try:
            if kind == "ids" and "file" in filesystem.protocol:
                # A look-up reads a few pages. Mapped, all replicas share them in the page cache.
                content = pa.memory_map(path).read_buffer()
            else:
                with filesystem.open(path, "rb") as file:
                    content = pa.py_buffer(file.read())
        except ObjectStoreError:
            raise
        except OSError as error:
            raise DataError(f"{url} cannot be read ({error}): {_REMEDY}") from None
        if content.size != size or hashlib.sha256(content).hexdigest() != sha256:
            raise DataError(f"{url} does not match its manifest (altered or truncated): {_REMEDY}")
        return segments.decode(content, kind, columns, groups)

    def _index(self, plan: EntityPlan, day: DayManifest, part: Part) -> pa.Table:
        name = part.file("ids")
        assert name is not None
        if name not in self._indexes:
            self._indexes[name] = self.table(plan, day, part, "ids")
        return self._indexes[name]

    def _own_frauds(self, plan: EntityPlan, day: DayManifest, part: Part) -> KnownFrauds:
        """Frauds of the data's own labels. A day without own labels is not read."""
        if not day.own_labels or not part.rows:
            return KnownFrauds.join(())
        table = self.table(plan, day, part, "events", [ENTITY, "time", "id", IS_FRAUD])
        rows = table.filter(table[IS_FRAUD])
        return _always(_transactions(rows))


_REMEDY = "run `python -m ray_jobs.history build` with the daily data to rebuild the day"


def with_frauds(state: HistoryState, plan: EntityPlan, frauds: KnownFrauds, moment: int) -> HistoryState:
    """Add the frauds that are known at `moment` (microseconds since 1970) and can still have an effect.

    state: without frauds. Entities of frauds that it lacks are added.
    """
    known = frauds.take((frauds.known_from <= moment) & (moment < frauds.known_until))
    keys = pd.Index(state.keys, dtype=object)
    new = pd.unique(known.keys[keys.get_indexer(pd.Index(known.keys, dtype=object)) < 0])
    keys = keys.append(pd.Index(new, dtype=object))
    owners = keys.get_indexer(pd.Index(known.keys, dtype=object))
    order = np.lexsort((known.times, owners))
    records = np.empty(len(known), dtype=FRAUD_RECORD)
    records["time"], records["id"] = known.times[order], known.ids[order]
    starts = starts_of(np.bincount(owners, minlength=len(keys)))
    matter = frauds_that_matter(records["time"], starts, plan, moment)
    starts = starts_of(count_per_group(matter, starts))
    event_starts = np.concatenate([state.starts, np.full(len(new), state.starts[-1], dtype=np.int64)])
    return HistoryState(np.asarray(keys, dtype=object), state.events, event_starts, records[matter], starts)


def _of_partition(table: pa.Table, partition: tuple[int, int]) -> pa.Table:
    entities = table[ENTITY].combine_chunks()
    entities = entities.chunk(0) if isinstance(entities, pa.ChunkedArray) else entities
    keys = np.asarray(entities.dictionary.to_pylist(), dtype=object)
    mine = partition_of(keys, np.zeros(len(keys), dtype=np.int64), partition[1]) == partition[0]
    return table.filter(pa.array(mine[entities.indices.to_numpy()]))


def _transactions(rows: pa.Table) -> KnownFrauds:
    """The rows of an ids or events table as KnownFrauds, with empty intervals."""
    n = len(rows)
    return KnownFrauds(
        segments.entity_texts(rows), rows["time"].to_numpy(), rows["id"].to_numpy(), np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )  # fmt: skip


def _always(transactions: KnownFrauds) -> KnownFrauds:
    n = len(transactions)
    return replace(transactions, known_from=np.full(n, _EARLIEST), known_until=np.full(n, _LATEST))


def partitions_for(rows: Iterable[int], of_rows: int) -> int:
    """Number of partitions of about `of_rows` rows: a power of two, so that partitions of different days nest."""
    return 1 << max(0, (sum(rows) - 1) // of_rows).bit_length()


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)
