"""The files of one day of one entity column: transactions by entity, and an index by id.

    events-<hash>.parquet   entity, time, id, the columns of the plan, whether the row is labelled fraud
    ids-<hash>.arrow        64-bit hash of the id (ascending), time, entity; only for plans that count frauds

A file holds one partition of the entities (fraud.history.snapshots.partition), or all of them. Its row groups divide
the entities further, so that reading 1/64 of the entities reads 1/64 of a large day. File names are content hashes, so
two jobs can write the same day at once. The manifest (fraud.history.snapshots.manifest) names the valid files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.history.definition import EntityPlan
from fraud.history.records import fingerprint_of, long_hashes, record_hashes, records_of
from fraud.history.snapshots.partition import partition_of
from fraud.history.state import KnownFrauds, positions_of
from fraud.schema import Schema

ENTITY, IS_FRAUD, ID_HASH = "entity", "is_fraud", "id_hash"
_MOST_GROUPS, _GROUP_ROWS = 64, 8_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """One partition of a day: its row counts, and the names, sizes and hashes of its files.

    partition: (p, n): entities of partition p of n. groups: number of rows of each row group of the events file; group
    j holds the entities of partition p + n * j of n * len(groups). sums: `fingerprint_of` the rows. files:
    {name: (bytes, SHA-256)}.
    """

    partition: tuple[int, int]
    rows: int
    groups: tuple[int, ...]
    sums: tuple[int, int]
    files: dict[str, tuple[int, str]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a manifest."""
        return {
            "partition": list(self.partition), "rows": self.rows, "groups": list(self.groups),
            "sums": [f"{n:016x}" for n in self.sums],
            "files": {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in self.files.items()},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Part:
        """Reverse `to_dict`. Raises KeyError, ValueError or TypeError for anything else."""
        (p, n), (first, second) = plain["partition"], plain["sums"]
        files = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in plain["files"].items()}
        return cls(
            partition=(int(p), int(n)),
            rows=int(plain["rows"]),
            groups=tuple(map(int, plain["groups"])),
            sums=(int(first, 16), int(second, 16)),
            files=files,
        )

    def file(self, kind: str) -> str | None:
        """Name of the "events" or "ids" file; None if there is none."""
        return next((name for name in self.files if name.startswith(f"{kind}-")), None)

    def groups_of(self, partition: tuple[int, int]) -> tuple[list[int], bool]:
        """Row groups of the events file that can hold entities of `partition`, and whether they hold only those."""
        (p, n), (q, m) = self.partition, partition
        finer = n * len(self.groups)
        common = int(np.gcd(finer, m))
        chosen = [j for j in range(len(self.groups)) if (p + n * j) % common == q % common and self.groups[j]]
        # Groups without a row are not in the file.
        positions = np.cumsum([0, *(rows > 0 for rows in self.groups)])
        return [int(positions[j]) for j in chosen], common == m


def encode(
    rows: pd.DataFrame,
    schema: Schema,
    plan: EntityPlan,
    partition: tuple[int, int] = (0, 1),
    *,
    own_labels: bool,
    frauds: KnownFrauds | None = None,
) -> tuple[Part, dict[str, bytes]]:
    """Encode canonical rows as files. Returns their Part and {name: content}. Rows without the entity are dropped.

    own_labels: the rows' own label column marks frauds. frauds: transactions already marked as frauds by the data.
    """
    rows = rows[rows[plan.column].notna()]
    keys = np.asarray(rows[plan.column].astype(str), dtype=object)
    records = records_of(rows, schema, plan)
    is_fraud = np.zeros(len(rows), dtype=bool)
    if own_labels and plan.keeps_frauds and schema.label is not None and schema.label.name in rows:
        is_fraud = rows[schema.label.name].to_numpy() == 1
    if frauds is not None and len(frauds):
        named = pd.MultiIndex.from_arrays([frauds.keys, frauds.times, frauds.ids])
        is_fraud |= pd.MultiIndex.from_arrays([keys, records["time"], records["id"]]).isin(named)
    codes, entities = pd.factorize(keys, sort=True)
    order = np.lexsort((records["time"], codes))
    dictionary = pa.array(entities, pa.string())

    def entity_column(positions: np.ndarray) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes[positions].astype(np.int32)), dictionary)

    columns = {ENTITY: entity_column(order)}
    columns |= {name: pa.array(np.ascontiguousarray(records[name][order])) for name in records.dtype.names or ()}
    columns[IS_FRAUD] = pa.array(is_fraud[order])
    tables = {"events": pa.table(columns)}
    if plan.keeps_frauds and schema.id is not None and schema.id.name in rows:
        hashes = long_hashes(rows[schema.id.name])
        by_id = np.argsort(hashes, kind="stable")
        tables["ids"] = pa.table(
            {ID_HASH: hashes[by_id], "time": records["time"][by_id], "id": records["id"][by_id],
             ENTITY: entity_column(by_id)}
        )  # fmt: skip
    return pack(tables, plan, partition)


def pack(tables: dict[str, pa.Table], plan: EntityPlan, partition: tuple[int, int]) -> tuple[Part, dict[str, bytes]]:
    """Encode the tables "events" and, if present, "ids". Returns their Part and {name: content}."""
    files, contents = {}, {}
    tables["events"], groups = _grouped(tables["events"], partition)
    for kind, table in tables.items():
        sink = pa.BufferOutputStream()
        if kind == "events":
            # As text: with a dictionary column, each row group would store the dictionary of all groups.
            table = table.set_column(0, ENTITY, pc.cast(table[ENTITY], pa.string()))
            with pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=[ENTITY]) as file:
                for start, rows in zip(np.cumsum([0, *groups]), groups, strict=False):
                    if rows:
                        file.write_table(table.slice(start, rows), row_group_size=rows)
        else:
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table.unify_dictionaries().combine_chunks())
        content = bytes(sink.getvalue().to_pybytes())
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"{kind}-{sha256[:16]}.{'parquet' if kind == 'events' else 'arrow'}"
        files[name], contents[name] = (len(content), sha256), content
    events = tables["events"]
    records = np.empty(len(events), dtype=plan.record)
    for name in plan.record.names or ():
        records[name] = events[name].to_numpy()
    sums = fingerprint_of(record_hashes(entity_texts(events), records))
    part = Part(partition=partition, rows=len(events), groups=tuple(groups), sums=sums, files=files)
    return part, contents


def _grouped(events: pa.Table, partition: tuple[int, int]) -> tuple[pa.Table, list[int]]:
    """The events ordered by row group, and the number of rows of each group."""
    n_groups = 1
    while n_groups < _MOST_GROUPS and len(events) >= 2 * n_groups * _GROUP_ROWS:
        n_groups *= 2
    if n_groups == 1:
        return events, [len(events)]
    events = events.unify_dictionaries()
    entities = events[ENTITY].combine_chunks()
    keys = np.asarray(entities.dictionary.to_pylist(), dtype=object)
    finer = partition_of(keys, np.zeros(len(keys), dtype=np.int64), partition[1] * n_groups)
    group = (finer // partition[1])[entities.indices.to_numpy()]
    order = np.argsort(group, kind="stable")
    return events.take(pa.array(order)), np.bincount(group, minlength=n_groups).tolist()


def decode(
    content: pa.Buffer, kind: str, columns: list[str] | None = None, groups: list[int] | None = None
) -> pa.Table:
    """Read a file, with `ENTITY` as a dictionary; groups: row groups to read. Raises pyarrow.ArrowException."""
    if kind == "events":
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=[ENTITY])
        return file.read(columns) if groups is None else file.read_row_groups(groups, columns)
    with pa.ipc.open_file(pa.BufferReader(content)) as reader:
        return reader.read_all()


def look_up(index: pa.Table, hashes: np.ndarray) -> tuple[np.ndarray, pa.Table]:
    """Look up id hashes (uint64, ascending, distinct) in an ids table: positions in `hashes`, and the matching rows."""
    stored = index[ID_HASH].to_numpy()
    first, last = np.searchsorted(stored, hashes, side="left"), np.searchsorted(stored, hashes, side="right")
    counts = last - first
    position = np.repeat(np.arange(len(hashes)), counts)
    return position, index.take(pa.array(positions_of(first, counts)))


def entity_texts(table: pa.Table) -> np.ndarray:
    """The entities of a table's rows as texts, object (n,)."""
    return np.asarray(pc.cast(table[ENTITY], pa.string()).to_pylist(), dtype=object)
