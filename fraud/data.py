"""Read transactions from CSV or Parquet (file, folder, glob, fsspec URL), at once or in pieces; write atomically."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import posixpath
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.columns import closest
from fraud.contract import Schema
from fraud.errors import DataError, SchemaError
from fraud.validation import Validated, Validator

CHUNK_ROWS = 500_000
_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz")
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_TEXT_KINDS = ("entity", "id", "categorical")
_CSV_MISSING = ["", "nan", "NaN", "NAN", "null", "NULL", "Null", "none", "None", "NA", "N/A", "n/a", "<NA>"]
# A wrong schema must not copy a 2 GB file into quarantine: stop when more rows than this, and than are good, are bad.
_HOPELESS_ROWS = 1_000_000


def read(path: str) -> pd.DataFrame:
    """Read every row of `path` with the types the files suggest; shape (n_rows, n_columns), index 0 to n_rows - 1.

    Raises DataError (missing, empty, header only, unreadable). To train or score use `load`, which checks a schema.
    """
    return pd.concat([frame for _, frame in _pieces(path, None, ())], ignore_index=True)


def iter_frames(path: str, rows: int = CHUNK_ROWS) -> Iterator[pd.DataFrame]:
    """Yield the rows of `path` in pieces of at most `rows`, in order of file name; the index counts on across files.

    Raises DataError as `read` does. In CSV a piece's types follow that piece's own values.
    """
    start = 0
    for _, frame in _pieces(path, rows, ()):
        frame.index = pd.RangeIndex(start, start + len(frame))
        start += len(frame)
        yield frame


def load(path: str, schema: Schema, *, need_label: bool = False, chunk_rows: int = CHUNK_ROWS) -> Validated:
    """Read and check `path` piece by piece; memory holds good rows, quarantine and one piece of `chunk_rows`.

    Text columns (entity, id, categorical) of a CSV keep their leading zeros. Rows are numbered, and ids and time zones
    checked, across all files together. Raises DataError when no row is good (in a large file: few), or when labels are
    needed and no row has one; SchemaError when a file's columns are not the schema's.
    """
    indexes: list[np.ndarray] = []
    pieces: dict[str, list[Any]] = {}
    quarantines: list[pd.DataFrame] = []
    told: list[str] = []
    total = good = 0
    for checked in iter_checked(path, schema, need_label=need_label, chunk_rows=chunk_rows):
        indexes.append(checked.rows.index.to_numpy())
        for column in checked.rows.columns:
            pieces.setdefault(column, []).append(checked.rows[column].array)
        quarantines += [checked.quarantine] if len(checked.quarantine) or not quarantines else []
        told += checked.warnings
        total += len(checked.rows) + len(checked.quarantine)
        good += len(checked.rows)
        if total - good > max(good, _HOPELESS_ROWS):
            break
    quarantine = pd.concat(quarantines, ignore_index=True) if len(quarantines) > 1 else quarantines[0]
    if good == 0 or total - good > max(good, _HOPELESS_ROWS):
        raise DataError(
            f"{path}: {good:,} of the first {total:,} rows fit schema {schema.name!r}; {_commonest(quarantine)}"
        )
    rows = _joined(indexes, pieces)
    told += _oddities(rows, schema, need_label, path)
    return Validated(rows=rows, quarantine=quarantine, warnings=tuple(dict.fromkeys(told)))


def iter_checked(
    path: str, schema: Schema, *, need_label: bool = False, chunk_rows: int = CHUNK_ROWS
) -> Iterator[Validated]:
    """Yield what `load` would join, piece by piece in bounded memory; a piece may hold no good row.

    Raises DataError and SchemaError as `load` does, but never because rows are bad.
    """
    validator = Validator(schema, need_label=need_label)
    text = tuple(column.name for column in schema.columns if column.kind in _TEXT_KINDS)
    total, columns = 0, None
    for name, frame in _pieces(path, chunk_rows, text):
        try:
            checked = validator.check(frame, first_row=total)
        except SchemaError as error:
            raise SchemaError(f"{name}: {error}") from None
        if columns is not None and set(checked.rows.columns) != columns:
            raise SchemaError(f"{name}: the label column is in some files of {path} and not in others; make them alike")
        columns = set(checked.rows.columns)
        total += len(frame)
        yield checked


def _joined(indexes: list[np.ndarray], pieces: dict[str, list[Any]]) -> pd.DataFrame:
    """Join column by column, letting go of each column's pieces: the peak is the result and one more column."""
    columns = {}
    for name in list(pieces):
        parts = pieces.pop(name)
        columns[name] = parts[0] if len(parts) == 1 else pd.concat([pd.Series(part) for part in parts]).array
        del parts
    return pd.DataFrame(columns, index=pd.Index(np.concatenate(indexes), name="row"), copy=False)


def _commonest(quarantine: pd.DataFrame) -> str:
    counts = quarantine.groupby(["column", "reason"], sort=False).size().sort_values(ascending=False)
    column, reason = counts.index[0]
    example = quarantine[(quarantine["column"] == column) & (quarantine["reason"] == reason)].iloc[0]
    return f"most often, {column!r} {reason} (row {example['row']}: {example['value']!r}); mend the data or the schema"


def _oddities(rows: pd.DataFrame, schema: Schema, need_label: bool, path: str) -> list[str]:
    """Lines about good rows that will still disappoint: no labels, one class, constant columns."""
    told = []
    if schema.label is not None and schema.label.name in rows:
        name = schema.label.name
        classes = set(np.unique(rows[name].to_numpy()).tolist()) - {-1}
        if not classes and need_label:
            raise DataError(
                f"{path}: label column {name!r} is empty in every good row; give labels, or train without them"
            )
        if not classes:
            told.append(f"label column {name!r} is empty: nothing can be measured against it")
        elif len(classes) == 1:
            kind = "fraud" if classes == {1} else "legitimate"
            told.append(
                f"every labelled row is {kind} (column {name!r}): metrics that compare the classes cannot be given"
            )
    if len(rows) > 1:
        constant = [column.name for column in schema.features if _is_constant(rows[column.name])]
        if constant:
            told.append(f"constant in every row, so of no help: {', '.join(constant)}")
    return told


def _is_constant(values: pd.Series) -> bool:
    first = values.iloc[0]
    return bool(values.isna().all() if pd.isna(first) else (values == first).all())


def _pieces(path: str, rows: int | None, text: Collection[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (file, frame) with at least one row each; `rows` None: each file whole; `text` columns stay text in CSV."""
    with _reading(path):
        filesystem, files = _find(path)
    found = False
    for name in files:
        reader = _parquet_frames if name.endswith(_PARQUET) else _csv_frames
        with _reading(name), filesystem.open(name, "rb") as raw:
            if filesystem.size(name) == 0:
                raise DataError(f"{name} is an empty file (0 bytes); write it again or take it away")
            for frame in reader(raw, name, rows, text):
                found = found or len(frame) > 0
                if len(frame):
                    yield name, frame
    if not found:
        raise DataError(f"{path} has a header and no rows; give at least one transaction")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what the readers raise into one line that names the file and the remedy."""
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(
            f"{name} is not UTF-8 text; convert it (iconv -t utf-8), or name it .parquet if it is Parquet"
        ) from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(
            f"{name} is not a table separated by commas: {_line(error)}; quote values that hold a comma"
        ) from None
    except pa.ArrowException as error:
        raise DataError(
            f"{name} cannot be read as Parquet ({_line(error)}); it may be cut off: write it again"
        ) from None
    except (OSError, EOFError) as error:
        raise DataError(f"{name} cannot be read: {_line(error)}; check the file and its permissions") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _parquet_frames(raw: IO[bytes], name: str, rows: int | None, text: Collection[str]) -> Iterator[pd.DataFrame]:
    file = pq.ParquetFile(raw)
    if rows is None:
        yield file.read().to_pandas()
        return
    for batch in file.iter_batches(batch_size=rows):
        yield batch.to_pandas()


def _csv_frames(raw: IO[bytes], name: str, rows: int | None, text: Collection[str]) -> Iterator[pd.DataFrame]:
    compression = fsspec.utils.infer_compression(name)
    stream = fsspec.compression.compr[compression](raw, mode="r") if compression else raw
    header = _header(stream, name)
    options: dict[str, Any] = {
        "dtype": {column: "str" for column in text if column in header},
        "na_values": {column: [""] if column in text else _CSV_MISSING for column in header},
        "keep_default_na": False,
        "skipinitialspace": True,
        "index_col": False,  # else a first row that is too long shifts every column by one
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
    """Read the first line and go back. Raises DataError for another delimiter, no names, or a name given twice."""
    line = stream.readline(1_000_000).decode("utf-8-sig").strip("\r\n")
    stream.seek(0)
    columns = next(csv.reader(io.StringIO(line), skipinitialspace=True), [])
    if not any(column.strip() for column in columns):
        raise DataError(f"{name} starts with an empty line; the first line must name the columns")
    used = next((word for mark, word in _OTHER_DELIMITERS.items() if len(columns) == 1 and mark in line), None)
    if used is not None:
        raise DataError(f"{name} is separated by {used} ({line[:60]!r}); save it separated by commas")
    if all(re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", column.strip()) for column in columns):
        raise DataError(
            f"{name} has no header, its first line holds numbers ({line[:60]!r}); put a line of names above"
        )
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise DataError(f"{name} names column {', '.join(repeated)} twice; keep one")
    return columns


def _find(path: str) -> tuple[Any, list[str]]:
    """The filesystem and the data files of `path`, sorted by name. Raises DataError when there is none."""
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise DataError(f"{path}: {error}; install that filesystem's package or use another kind of address") from None
    if any(mark in root for mark in "*?["):
        files = [name for name in filesystem.glob(root) if not filesystem.isdir(name)]
        if not files:
            raise DataError(f"no file matches {path}; check the pattern")
    elif filesystem.isdir(root):
        inside = [(name, name[len(root.rstrip("/")) :].strip("/").split("/")) for name in filesystem.find(root)]
        visible = [name for name, parts in inside if not any(part.startswith((".", "_")) for part in parts)]
        files = [name for name in visible if name.endswith(_PARQUET + _CSV)]
        if not files:
            raise DataError(f"folder {path} holds no .csv or .parquet file; put the data there or name another folder")
    elif filesystem.exists(root):
        files = [root]
    else:
        raise DataError(f"{path} does not exist{_neighbour(filesystem, root)}; check the path")
    unknown = next((name for name in files if not name.endswith(_PARQUET + _CSV)), None)
    if unknown is not None:
        raise DataError(f"{unknown}: the kind of file is unknown; give it a name ending in .csv or .parquet")
    return filesystem, sorted(files)


def _neighbour(filesystem: Any, root: str) -> str:
    folder, name = posixpath.split(root)
    try:
        names = [posixpath.basename(found) for found in filesystem.ls(folder, detail=False)]
    except (OSError, NotImplementedError):
        return ""
    return closest(name, names)


def fingerprint(path: str) -> str:
    """SHA-256 (hex) over the names (relative to a folder), sizes and bytes of the data files of `path`."""
    with _reading(path):
        filesystem, files = _find(path)
    folder = posixpath.commonpath([posixpath.dirname(name) for name in files]) if files else ""
    digest = hashlib.sha256()
    for name in files:
        digest.update(f"{posixpath.relpath(name, folder or '.')}\0{filesystem.size(name)}\0".encode())
        with _reading(name), filesystem.open(name, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_parquet(frame: pd.DataFrame, path: str) -> None:
    """Write `frame` without its index; readers see the old file or the whole new one. Raises DataError."""
    write(path, lambda stream: frame.to_parquet(stream, index=False))


def write_csv(frame: pd.DataFrame, path: str) -> None:
    """Write `frame` as UTF-8 CSV without its index, as atomically as `write_parquet`. Raises DataError."""
    write(path, lambda stream: frame.to_csv(stream, index=False))


def write_text(text: str, path: str) -> None:
    """Write `text` as UTF-8, as atomically as `write_parquet`. Raises DataError."""
    write(path, lambda stream: stream.write(text.encode()))


def write(path: str, put: Callable[[IO[bytes]], object]) -> None:
    """Write what `put` writes to the file it is given; when it raises, what was at `path` stays. Raises DataError."""
    filesystem, target = fsspec.core.url_to_fs(path)
    try:
        if "file" not in filesystem.protocol:
            # Object stores show a file once it is closed, and an exception closes it: so write beside it, and move.
            folder, _, name = target.rpartition("/")
            partial = f"{folder}/.{name}.{os.getpid()}.tmp"
            try:
                with filesystem.open(partial, "wb") as stream:
                    put(stream)
                filesystem.mv(partial, target)
            finally:
                if filesystem.exists(partial):
                    filesystem.rm(partial)
            return
        final = Path(target)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as stream:
                put(stream)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; check the folder and its permissions") from None
