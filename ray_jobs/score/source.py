"""How to read a file for scoring: its pieces, and whether it is small."""

from __future__ import annotations

import fsspec
import pyarrow as pa

from fraud.data.files import Piece, find, parquet_pieces, reading
from fraud.errors import SchemaError
from fraud.schema import Schema
from ray_jobs.score.output import ROW_GROUP

# One process scores this many rows in the time that Ray and its actors need to start.
ROWS_ON_RAY = 1_000_000
_CSV_ROW_BYTES = 40  # of a short row, so that the number of rows is overestimated


def pieces_of(path: str, schema: Schema) -> tuple[list[Piece], int | None]:
    """Pieces that can be checked independently (may be none), and the number of rows, if known.

    Raises DataError, SchemaError.
    """
    by_footers = parquet_pieces(path, ROW_GROUP)
    if by_footers is None:
        return [], None
    pieces, files = by_footers
    rows = sum(piece.rows for piece in pieces)
    label = schema.label.name if schema.label else None
    if len({label in columns.names for _, columns in files}) > 1:
        raise SchemaError(f"{path}: the label column is in some files and not in others; make them alike")
    return (pieces if _is_independent(schema, [columns for _, columns in files]) else []), rows


def _is_independent(schema: Schema, files: list[pa.Schema]) -> bool:
    """Whether rows can be checked independently: no unique ids, no history, no time zones to compare."""
    if schema.id is not None or schema.history:
        return False
    if schema.timestamp is None or schema.timestamp.unit is not None:
        return True
    name = schema.timestamp.name
    kinds = [columns.field(name).type if name in columns.names else None for columns in files]
    typed = [kind for kind in kinds if kind is not None and pa.types.is_timestamp(kind)]
    return len(typed) == len(kinds) and len({kind.tz is None for kind in typed}) == 1


def is_small(path: str, rows: int | None, limit: int) -> bool:
    """Whether a file has at most `limit` rows; for CSV estimated from its size."""
    if rows is not None:
        return rows <= limit
    with reading(path):
        filesystem, files = find(path)
        packed = any(fsspec.utils.infer_compression(name) for name in files)
        return not packed and sum(filesystem.size(name) for name in files) <= limit * _CSV_ROW_BYTES
