"""Read transactions from CSV or Parquet (file, folder, glob, fsspec URL), at once or in pieces; write atomically."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from fraud.data import filesystems
from fraud.data.files import find, pieces, reading
from fraud.data.spreadsheets import escape_formulas
from fraud.errors import DataError, ObjectStoreError, SchemaError
from fraud.schema.contract import Schema
from fraud.schema.validation import Validated, Validator

CHUNK_ROWS = 250_000
_TEXT_KINDS = ("entity", "id", "categorical")
# A wrong schema must not copy a 2 GB file into quarantine: `load` stops after this many bad rows, if they outnumber
# the good ones.
_MOST_REFUSED_ROWS = 1_000_000


def read(path: str) -> pd.DataFrame:
    """Read all rows of `path` without a schema; shape (n_rows, n_columns), index 0 to n_rows - 1.

    Raises DataError (missing, empty, header only, unreadable). To train or score use `load`, which checks a schema.
    """
    return pd.concat([frame for _, frame in pieces(path, None, ())], ignore_index=True)


def iter_frames(path: str, rows: int = CHUNK_ROWS) -> Iterator[pd.DataFrame]:
    """Yield the rows of `path` in pieces of at most `rows`, in order of file name; the index continues across files.

    Raises DataError as `read` does. CSV types are inferred for each piece on its own.
    """
    start = 0
    for _, frame in pieces(path, rows, ()):
        frame.index = pd.RangeIndex(start, start + len(frame))
        start += len(frame)
        yield frame


def load(path: str, schema: Schema, *, need_label: bool = False, chunk_rows: int = CHUNK_ROWS) -> Validated:
    """Read and check `path` piece by piece; memory holds good rows, quarantine and one piece of `chunk_rows`.

    Text columns (entity, id, categorical) of a CSV keep their leading zeros. Rows are numbered, and ids and time zones
    checked, across all files. Raises DataError if no row is good, if over a million rows are bad and they outnumber the
    good ones, or if labels are needed and no row has one; SchemaError if a file's columns do not match the schema.
    """
    rows = _RowBuffer()
    quarantines: list[pd.DataFrame] = []
    warnings: list[str] = []
    total, has_too_many_refused = 0, False
    for checked in iter_checked(path, schema, need_label=need_label, chunk_rows=chunk_rows):
        rows.append(checked.rows)
        quarantines += [checked.quarantine] if len(checked.quarantine) or not quarantines else []
        warnings += checked.warnings
        total += len(checked.rows) + len(checked.quarantine)
        if has_too_many_refused := total - len(rows) > max(len(rows), _MOST_REFUSED_ROWS):
            break
    quarantine = pd.concat(quarantines, ignore_index=True) if len(quarantines) > 1 else quarantines[0]
    if has_too_many_refused or len(rows) == 0:
        raise DataError(
            f"{path}: {len(rows):,} of the first {total:,} rows fit schema {schema.name!r}; "
            f"{_most_common_fault(quarantine)}"
        )
    frame = rows.frame()
    warnings += _data_warnings(frame, schema, need_label, path)
    return Validated(rows=frame, quarantine=quarantine, warnings=tuple(dict.fromkeys(warnings)))


def iter_checked(
    path: str, schema: Schema, *, need_label: bool = False, chunk_rows: int = CHUNK_ROWS
) -> Iterator[Validated]:
    """Yield the pieces that `load` joins, in bounded memory. A piece may have no good row.

    Raises as `load` does, but not for bad rows.
    """
    text = tuple(column.name for column in schema.columns if column.kind in _TEXT_KINDS)
    yield from check_frames(pieces(path, chunk_rows, text), path, schema, need_label=need_label)


def check_frames(
    frames: Iterable[tuple[str, pd.DataFrame]],
    path: str,
    schema: Schema,
    *,
    need_label: bool = False,
    first_row: int = 0,
) -> Iterator[Validated]:
    """Check frames of the files of `path`, each with its file's name, as `iter_checked` does.

    first_row: the number of the first frame's first row.
    """
    validator = Validator(schema, need_label=need_label)
    total, columns = first_row, None
    for name, frame in frames:
        try:
            checked = validator.check(frame, first_row=total)
        except SchemaError as error:
            raise SchemaError(f"{name}: {error}") from None
        if columns is not None and set(checked.rows.columns) != columns:
            raise SchemaError(f"{name}: the label column is in some files of {path} and not in others; make them alike")
        columns = set(checked.rows.columns)
        total += len(frame)
        yield checked


class _RowBuffer:
    """Collects pieces of rows without copies: number arrays grow in place (realloc), texts stay Arrow chunks."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._texts: dict[str, list[Any]] = {}
        self._index = np.empty(0, dtype=np.int64)
        self._order: list[str] = []

    def __len__(self) -> int:
        return len(self._index)

    def append(self, rows: pd.DataFrame) -> None:
        self._order = list(rows.columns)
        self._index = self._extended(self._index, rows.index.to_numpy())
        for name in self._order:
            if isinstance(rows[name].dtype, np.dtype):
                values = rows[name].to_numpy()
                self._arrays[name] = self._extended(self._arrays.get(name, np.empty(0, dtype=values.dtype)), values)
            else:
                self._texts.setdefault(name, []).append(rows[name].array)

    @staticmethod
    def _extended(array: np.ndarray, more: np.ndarray) -> np.ndarray:
        start = len(array)
        array.resize(start + len(more), refcheck=False)  # nothing else refers to it until `frame`
        array[start:] = more
        return array

    def frame(self) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        for name in self._order:
            parts = self._texts.get(name)
            columns[name] = (
                self._arrays[name] if parts is None else pd.concat([pd.Series(part) for part in parts]).array
            )
        return pd.DataFrame(columns, index=pd.Index(self._index, name="row"), copy=False)


def _most_common_fault(quarantine: pd.DataFrame) -> str:
    counts = quarantine.groupby(["column", "reason"], sort=False).size().sort_values(ascending=False)
    column, reason = counts.index[0]
    example = quarantine[(quarantine["column"] == column) & (quarantine["reason"] == reason)].iloc[0]
    return (
        f"most often, {column!r} {reason} (row {example['row']}: {example['value']!r}); correct the data or the schema"
    )


def _data_warnings(rows: pd.DataFrame, schema: Schema, need_label: bool, path: str) -> list[str]:
    """Warnings about good rows: no labels, one class only, constant columns."""
    warnings = []
    if schema.label is not None and schema.label.name in rows:
        name = schema.label.name
        classes = set(np.unique(rows[name].to_numpy()).tolist()) - {-1}
        if not classes and need_label:
            raise DataError(
                f"{path}: label column {name!r} is empty in every good row; give labels, or train without them"
            )
        if not classes:
            warnings.append(f"label column {name!r} is empty: no metric can be calculated")
        elif len(classes) == 1:
            kind = "fraud" if classes == {1} else "legitimate"
            warnings.append(
                f"every labelled row is {kind} (column {name!r}): metrics that compare classes cannot be calculated"
            )
    if len(rows) > 1:
        constant = [column.name for column in schema.features if _is_constant(rows[column.name])]
        if constant:
            warnings.append(f"constant in every row, so not useful: {', '.join(constant)}")
    return warnings


def _is_constant(values: pd.Series) -> bool:
    first = values.iloc[0]
    return bool(values.isna().all() if pd.isna(first) else (values == first).all())


def fingerprint(path: str) -> str:
    """SHA-256 (hex) over the names (relative to a folder), sizes and bytes of the data files of `path`."""
    with reading(path):
        filesystem, files = find(path)
    folder = posixpath.commonpath([posixpath.dirname(name) for name in files]) if files else ""
    digest = hashlib.sha256()
    for name in files:
        digest.update(f"{posixpath.relpath(name, folder or '.')}\0{filesystem.size(name)}\0".encode())
        with reading(name), filesystem.open(name, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_parquet(frame: pd.DataFrame, path: str) -> None:
    """Write `frame` without its index, atomically. Raises DataError."""
    write(path, lambda stream: frame.to_parquet(stream, index=False))


def write_csv(frame: pd.DataFrame, path: str) -> None:
    """Write `frame` as UTF-8 CSV without its index, atomically. Formulas are escaped (fraud.data.spreadsheets).

    Raises DataError.
    """
    safe = escape_formulas(frame)
    write(path, lambda stream: safe.to_csv(stream, index=False))


def write_text(text: str, path: str) -> None:
    """Write `text` as UTF-8, atomically. Raises DataError."""
    write(path, lambda stream: stream.write(text.encode()))


def check_out(path: str, is_own: Callable[[bytes], bool], *, force: bool = False, flag: str = "--out") -> None:
    """Accept a path where no file is, or one whose file this command may replace. Raises DataError with the remedy.

    is_own: whether a file with this beginning (16 MiB at most) is one that this command writes. force: accept any file.
    """
    filesystem, target = filesystems.of(path)
    if force or not filesystem.isfile(target):
        return
    try:
        with filesystem.open(target, "rb") as stream:
            head = stream.read(1 << 24)
    except ObjectStoreError as error:  # its message names the remedy
        raise DataError(f"{flag} {path} cannot be read: {error}") from None
    except OSError as error:
        raise DataError(f"{flag} {path} exists and cannot be read: {error}; name another file") from None
    if head and not is_own(head):
        raise DataError(
            f"{flag} {path} exists with other content than this command writes, or was edited: name another file, or "
            "replace it by --force"
        )


def marked(*texts: str) -> Callable[[bytes], bool]:
    """For `check_out`: a file is the command's own if its beginning holds all these texts."""
    return lambda head: all(text.encode() in head for text in texts)


def write(path: str, put: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: `put` gets the open file. If it raises, the old file stays. Raises DataError."""
    filesystem, target = filesystems.of(path)
    try:
        if filesystems.is_s3(filesystem):
            with filesystem.write_atomically(target) as stream:
                put(stream)
            return
        if "file" not in filesystem.protocol:
            # Closing a file publishes it, and an exception closes it: so write beside the target, then move.
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
    except ObjectStoreError as error:  # its message names the remedy
        raise DataError(f"{path} cannot be written: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; check the folder and its permissions") from None
