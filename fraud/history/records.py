"""Convert rows to history records: 32-bit values and hashes, 64-bit id hashes, and a fingerprint of many records."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from fraud.history import kernels as history_kernels
from fraud.history.definition import LARGEST_FLOAT32, EntityPlan
from fraud.schema import Schema

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64
_SECOND_HASH = np.uint64(0x9E3779B97F4A7C15)


def microseconds_since_epoch(times: pd.Series | np.ndarray) -> np.ndarray:
    """Convert canonical timestamps to int64 microseconds since 1970, shape (n_rows,)."""
    return np.asarray(times, dtype="datetime64[us]").astype(np.int64)


def id_hashes(rows: pd.DataFrame, schema: Schema) -> np.ndarray:
    """`hashed` of every row's id, uint32 (n_rows,); 0 if the schema or the frame has no id."""
    if schema.id is None or schema.id.name not in rows:
        return np.zeros(len(rows), dtype=np.uint32)
    return text_hashes(rows[schema.id.name])


def long_hashes(texts: pd.Series | np.ndarray) -> np.ndarray:
    """64-bit hashes of texts, uint64 (n,), stable across processes. A billion ids collide with probability 1/40."""
    return pd.util.hash_array(np.asarray(texts, dtype=object), categorize=False)


def remembered_column(rows: pd.DataFrame, name: str) -> np.ndarray:
    """A column of EntityPlan.record: "value NAME" as float32, "hash NAME" as 32-bit hashes."""
    kind, _, column = name.partition(" ")
    if kind == "value":
        return np.clip(rows[column].to_numpy(dtype=np.float64), -LARGEST_FLOAT32, LARGEST_FLOAT32).astype(np.float32)
    return text_hashes(rows[column])


def text_hashes(texts: pd.Series) -> np.ndarray:
    """`hashed` of every value: uint32 (n_rows,)."""
    column = pa.array(texts, type=pa.large_string(), from_pandas=True)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    _, offsets, letters = column.buffers()
    begin = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    out = np.empty(len(column), dtype=np.uint32)
    history_kernels.crc32_of_texts(np.frombuffer(letters or b"", dtype=np.uint8), begin, out)
    out[np.asarray(column.is_null())] = 0
    return out


def records_of(rows: pd.DataFrame, schema: Schema, plan: EntityPlan) -> np.ndarray:
    """The rows as EntityPlan.record, (n_rows,)."""
    records = np.empty(len(rows), dtype=plan.record)
    assert schema.timestamp is not None  # Schema refuses a history without one
    records["time"] = microseconds_since_epoch(rows[schema.timestamp.name])
    records["id"] = id_hashes(rows, schema)
    for name in (plan.record.names or ())[2:]:
        records[name] = remembered_column(rows, name)
    return records


def record_hashes(keys: np.ndarray, records: np.ndarray) -> np.ndarray:
    """64-bit hash of each entity's text and record, uint64 (n,)."""
    mixed = long_hashes(keys)
    for name in records.dtype.names or ():
        column = np.ascontiguousarray(records[name])
        mixed = _mixed(mixed ^ column.view(f"u{column.itemsize}").astype(np.uint64))
    return mixed


def fingerprint_of(hashes: np.ndarray) -> tuple[int, int]:
    """Two 64-bit sums: independent of the order of the rows, and additive over parts."""
    with np.errstate(over="ignore"):
        return int(hashes.sum(dtype=np.uint64)), int(_mixed(hashes ^ _SECOND_HASH).sum(dtype=np.uint64))


def _mixed(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * _MIX[0]
        values = (values ^ (values >> np.uint64(27))) * _MIX[1]
        return values ^ (values >> np.uint64(31))
