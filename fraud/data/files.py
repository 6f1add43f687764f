"""Find and read CSV and Parquet files: local paths or any fsspec URL."""

from __future__ import annotations

import csv
import io
import posixpath
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.data import filesystems
from fraud.data.partitions import published
from fraud.errors import DataError, ObjectStoreError, closest
from fraud.schema.columns import OTHER_DELIMITERS

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz")
_CSV_MISSING = ["", "nan", "NaN", "NAN", "null", "NULL", "Null", "none", "None", "NA", "N/A", "n/a", "<NA>"]


def pieces(path: str, rows: int | None, text: Collection[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (file, frame) for each piece with rows.

    rows: per piece at most; None is one piece per file. text: CSV columns to read as text.
    """
    with reading(path):
        filesystem, files = find(path)
    has_rows = False
    for name in files:
        reader = _parquet_frames if name.endswith(_PARQUET) else _csv_frames
        with reading(name), filesystem.open(name, "rb") as raw:
            if filesystem.size(name) == 0:
                raise DataError(f"{name} is an empty file (0 bytes); write it again or remove it")
            for frame in reader(raw, name, rows, text):
                has_rows = has_rows or len(frame) > 0
                if len(frame):
                    yield name, frame
    if not has_rows:
        raise DataError(f"{path} has a header and no rows; give at least one transaction")


@dataclass(frozen=True)
class Piece:
    """Adjacent row groups of a Parquet file, readable on their own.

    source: the requested path or URL. name: of the file. first_row: row number in `source`, from 0.
    """

    source: str
    name: str
    groups: tuple[int, ...]
    first_row: int
    rows: int

    def frames(self, rows: int) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield (file, frame) with at most `rows` rows each. Raises DataError."""
        with reading(self.name):
            filesystem, _ = filesystems.of(self.source)
            with filesystem.open(self.name, "rb") as raw:
                for frame in _batches(pq.ParquetFile(raw), rows, self.groups):
                    if len(frame):
                        yield self.name, frame


def parquet_pieces(path: str, rows: int) -> tuple[list[Piece], list[tuple[str, pa.Schema]]] | None:
    """Pieces of about `rows` rows in order, and each file's schema; None if a file is CSV.

    Reads only the footers. Raises DataError as `pieces` does, except for a `path` without rows, which has no pieces.
    """
    with reading(path):
        filesystem, files = find(path)
    if not all(name.endswith(_PARQUET) for name in files):
        return None
    pieces_of_files: list[Piece] = []
    schemas: list[tuple[str, pa.Schema]] = []
    first = 0
    for name in files:
        with reading(name), filesystem.open(name, "rb") as raw:
            if filesystem.size(name) == 0:
                raise DataError(f"{name} is an empty file (0 bytes); write it again or remove it")
            file = pq.ParquetFile(raw)
            schemas.append((name, file.schema_arrow))
            groups: list[int] = []
            n_rows = 0
            for i in range(file.num_row_groups):
                groups.append(i)
                n_rows += file.metadata.row_group(i).num_rows
                if n_rows >= rows or (i == file.num_row_groups - 1 and n_rows):
                    pieces_of_files.append(Piece(path, name, tuple(groups), first, n_rows))
                    first, n_rows, groups = first + n_rows, 0, []
    return pieces_of_files, schemas


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn a reader's exceptions into a one-line DataError with file and remedy."""
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(
            f"{name} is not UTF-8 text; convert it (iconv -t utf-8), or name it .parquet if it is Parquet"
        ) from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(
            f"{name} is not a table separated by commas: {_line(error)}; quote values that contain a comma"
        ) from None
    except pa.ArrowException as error:
        raise DataError(
            f"{name} cannot be read as Parquet ({_line(error)}); it may be cut off: write it again"
        ) from None
    except ObjectStoreError as error:  # its message names the remedy
        raise DataError(f"{name} cannot be read: {error}") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{name} cannot be read: {_line(error)}; check the file and its permissions") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _parquet_frames(raw: IO[bytes], name: str, rows: int | None, text: Collection[str]) -> Iterator[pd.DataFrame]:
    file = pq.ParquetFile(raw)
    if rows is None:
        yield file.read().to_pandas()
        return
    yield from _batches(file, rows, None)


def _batches(file: pq.ParquetFile, rows: int, groups: Collection[int] | None) -> Iterator[pd.DataFrame]:
    for batch in file.iter_batches(batch_size=rows, row_groups=groups):
        yield batch.to_pandas(split_blocks=True)


def _csv_frames(raw: IO[bytes], name: str, rows: int | None, text: Collection[str]) -> Iterator[pd.DataFrame]:
    compression = fsspec.utils.infer_compression(name)
    stream = fsspec.compression.compr[compression](raw, mode="r") if compression else raw
    header = _header(stream, name)
    options: dict[str, Any] = {
        "dtype": {column: "str" for column in text if column in header},
        "na_values": {column: [""] if column in text else _CSV_MISSING for column in header},
        "keep_default_na": False,
        "skipinitialspace": True,
        "index_col": False,  # else a first row that is too long shifts all columns by one
        "float_precision": "round_trip",  # the same float64 as JSON and Parquet give
        "low_memory": False,
    }
    with pd.read_csv(stream, iterator=True, **options) as frames:
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                try:
                    frame = frames.get_chunk(rows) if rows else frames.read()
                except StopIteration:
                    return
            yield frame
            if rows is None:
                return


def _header(stream: IO[bytes], name: str) -> list[str]:
    """Column names from the first line; rewinds. Raises DataError: other delimiter, no names, or a repeated name."""
    line = stream.readline(1_000_000).decode("utf-8-sig").strip("\r\n")
    stream.seek(0)
    columns = next(csv.reader(io.StringIO(line), skipinitialspace=True), [])
    if not any(column.strip() for column in columns):
        raise DataError(f"{name} starts with an empty line; the first line must name the columns")
    used = next((word for mark, word in OTHER_DELIMITERS.items() if len(columns) == 1 and mark in line), None)
    if used is not None:
        raise DataError(f"{name} is separated by {used} ({line[:60]!r}); save it separated by commas")
    if all(re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", column.strip()) for column in columns):
        raise DataError(f"{name} has no header, its first line is numbers ({line[:60]!r}); put a line of names above")
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise DataError(f"{name} names column {', '.join(repeated)} twice; keep one")
    return columns


def find(path: str) -> tuple[Any, list[str]]:
    """The file system and the data files of `path`, sorted by name. Raises DataError if there are none."""
    try:
        filesystem, root = filesystems.of(path)
    except (ImportError, ValueError) as error:
        raise DataError(f"{path}: {error}; install that filesystem's package or use another kind of address") from None
    if any(mark in root for mark in "*?["):
        files = [name for name in filesystem.glob(root) if not filesystem.isdir(name)]
        if not files:
            raise DataError(f"no file matches {path}; check the pattern")
    elif filesystem.isdir(root):
        inside = [(name, name[len(root.rstrip("/")) :].strip("/").split("/")) for name in filesystem.find(root)]
        visible = [name for name, parts in inside if not any(part.startswith((".", "_")) for part in parts)]
        files = published(filesystem, [name for name in visible if name.endswith(_PARQUET + _CSV)])
        if not files:
            raise DataError(f"folder {path} has no .csv or .parquet file; put the data there or name another folder")
    elif filesystem.exists(root):
        files = [root]
    else:
        raise DataError(f"{path} does not exist{_neighbour(filesystem, root)}; check the path")
    unknown = next((name for name in files if not name.endswith(_PARQUET + _CSV)), None)
    if unknown is not None:
        raise DataError(f"{unknown}: unknown file type; give it a name ending in .csv or .parquet")
    return filesystem, sorted(files)


def is_empty(path: str) -> bool:
    """Whether `path` has no data files: no match, an empty folder, or no such path."""
    filesystem, root = filesystems.of(path)
    if not any(mark in root for mark in "*?[") and not filesystem.exists(root):
        return True
    try:
        return not find(path)[1]
    except DataError:
        return filesystem.isdir(root) or not filesystem.exists(root)


def _neighbour(filesystem: Any, root: str) -> str:
    folder, name = posixpath.split(root)
    try:
        names = [posixpath.basename(entry) for entry in filesystem.ls(folder, detail=False)]
    except (OSError, NotImplementedError):
        return ""
    return closest(name, names)
