"""Check a table against a schema: good rows become canonical, bad rows go to quarantine with a reason."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fraud.errors import SchemaError, closest
from fraud.schema.columns import OTHER_DELIMITERS, Column
from fraud.schema.contract import Schema
from fraud.schema.inference import LABEL_NAMES, VAGUE_LABEL_NAMES
from fraud.schema.values import Converted, Fault, TimeLimits, convert

_SHOWN_LENGTH = 80
QUARANTINE_COLUMNS = ("row", "column", "value", "reason")


@dataclass(frozen=True)
class Validated:
    """The result of a check. Each source row is either in `rows` or in `quarantine`.

    rows: good rows in source order, with the schema's columns (the label only if the source has it) and the dtypes of
        `fraud.schema.values.convert`; the index is the row number in the source, from 0.
    quarantine: row (int64), column, value (as text), reason, then the source's own columns as text, prefixed "raw_".
    warnings: one line each.
    """

    rows: pd.DataFrame
    quarantine: pd.DataFrame
    warnings: tuple[str, ...]


class Validator:
    """Checks a source in pieces. Ids must be unique, and time zones consistent, across pieces.

    now: the clock, seconds since 1970 (default: this machine's); times too far ahead of it are refused.

    Ids of earlier pieces are stored as 64-bit hashes (8 bytes per row). At 10 million rows, the chance of a false
    duplicate is about 1 in 400,000.
    """

    def __init__(self, schema: Schema, *, need_label: bool = False, now: float | None = None) -> None:
        self._schema = schema
        clock = time.time() if now is None else now  # read once, so that all pieces have the same limit
        self._times = TimeLimits(schema.timestamp, lambda: clock) if schema.timestamp else None
        self._need_label = need_label
        self._zone: bool | None = None
        self._seen_ids = np.empty(0, dtype=np.uint64)
        self._last_ids: pd.Series | None = None
        self._reported: set[str] = set()

    def check(self, frame: pd.DataFrame, *, first_row: int = 0) -> Validated:
        """Check the next piece, shape (n_rows, any); its first row has number `first_row` in the source.

        Raises SchemaError if a column is missing or misspelt, or the delimiter is wrong.
        """
        columns = self._columns_in(frame)
        verdict = np.zeros(len(frame), dtype=np.int32)  # 0 = good, else 1 + position in `reasons`
        reasons: list[tuple[str, str]] = []
        values: dict[str, np.ndarray | pd.Series] = {}
        for column in columns:
            converted = self._convert(frame[column.name], column)
            values[column.name] = converted.values
            for fault in converted.faults:
                reasons.append((column.name, fault.reason))
                verdict[fault.mask & (verdict == 0)] = len(reasons)
        if self._schema.id is not None:
            name = self._schema.id.name
            reasons.append((name, "repeats the id of an earlier row; ids must be unique"))
            verdict[self._repeated(values[name], verdict == 0)] = len(reasons)
        good = verdict == 0
        rows = _rows(values, good, first_row)
        quarantine = _quarantine(frame, verdict, reasons, first_row)
        return Validated(rows=rows, quarantine=quarantine, warnings=self._warnings(frame))

    def _convert(self, series: pd.Series, column: Column) -> Converted:
        if column.kind != "timestamp":
            return convert(series, column)
        converted = convert(series, column, self._zone)
        self._zone = converted.zone
        assert self._times is not None
        refused = [Fault(mask, why.reason) for mask, why in self._times.refusals(np.asarray(converted.values))]
        return replace(converted, faults=[*converted.faults, *refused])

    def _columns_in(self, frame: pd.DataFrame) -> list[Column]:
        """The schema's columns in `frame`. Raises SchemaError if a required one is missing."""
        names = [str(name) for name in frame.columns]
        if len(names) == 1 and len(self._schema.columns) > 1:
            used = next((word for mark, word in OTHER_DELIMITERS.items() if mark in names[0]), None)
            if used is not None:
                raise SchemaError(
                    f"the table has one column, {names[0]!r}: it is separated by {used}; save it with commas"
                )
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise SchemaError(f"column {', '.join(repeated)} appears twice in the table; keep one")
        needed = list(self._schema.inputs)
        if self._need_label:
            if self._schema.label is None:
                raise SchemaError(f"schema {self._schema.name!r} has no label column but labels are needed; add one")
            needed.append(self._schema.label)
        unclaimed = [name for name in names if name not in {column.name for column in self._schema.columns}]
        missing = [column.name for column in needed if column.name not in names]
        if missing:
            message = "; ".join(
                f"column {name!r} is missing{closest(name, unclaimed).rstrip('?')}" for name in missing[:5]
            )
            more = f" (and {len(missing) - 5} more)" if len(missing) > 5 else ""
            raise SchemaError(
                f"{message}{more}; the table has {', '.join(map(repr, names[:40]))}: rename or add the column, "
                f"or change schema {self._schema.name!r}"
            )
        return [column for column in self._schema.columns if column.name in names]

    def _warnings(self, frame: pd.DataFrame) -> tuple[str, ...]:
        known = {column.name for column in self._schema.columns} | set(self._schema.ignore) | self._reported
        extra = [str(name) for name in frame.columns if str(name) not in known]
        self._reported.update(extra)
        if not extra:
            return ()
        left_out = f"not in schema {self._schema.name!r} and left out: {', '.join(extra)}; list them under `ignore`"
        return (left_out, *self._ignored_labels(extra, frame))

    def _ignored_labels(self, extra: list[str], frame: pd.DataFrame) -> list[str]:
        """Warnings about columns that are named like a label and are not the schema's."""
        label = self._schema.label
        names = LABEL_NAMES if label is not None and label.name in frame else LABEL_NAMES + VAGUE_LABEL_NAMES
        known_as = f"its label is {label.name!r}" if label is not None else "it has no label"
        absent = ", which the data do not have" if label is not None and label.name not in frame else ""
        return [
            f"column {name!r} looks like a label and is IGNORED: schema {self._schema.name!r} does not name it, "
            f"{known_as}{absent}"
            for name in extra
            if name.lower() in names
        ]

    def _repeated(self, ids: np.ndarray | pd.Series, candidates: np.ndarray) -> np.ndarray:
        """Mask of candidates whose id an earlier candidate has, in this or an earlier piece."""
        ids = pd.Series(ids)
        repeated = np.zeros(len(ids), dtype=bool)
        present = ids[candidates & ids.notna().to_numpy()]
        twice = np.array(present.duplicated())
        self._remember(self._last_ids)
        if len(self._seen_ids):
            hashes = _hashes(present)
            positions = np.searchsorted(self._seen_ids, hashes)
            twice |= self._seen_ids[np.minimum(positions, len(self._seen_ids) - 1)] == hashes
        repeated[present.index.to_numpy()] = twice
        self._last_ids = present[~twice]
        return repeated

    def _remember(self, ids: pd.Series | None) -> None:
        """Store hashes of the previous piece's ids. A table in one piece, the common case, is never hashed."""
        if ids is not None:
            # Timsort merges two sorted runs in one pass.
            self._seen_ids = np.sort(np.concatenate([self._seen_ids, np.sort(_hashes(ids))]), kind="stable")


def validate(
    frame: pd.DataFrame, schema: Schema, *, first_row: int = 0, need_label: bool = False, now: float | None = None
) -> Validated:
    """Check one whole table, shape (n_rows, any), against `schema`; see Validated and Validator.check.

    need_label: require the label column (single labels may be missing). now: see Validator. Raises SchemaError.
    """
    return Validator(schema, need_label=need_label, now=now).check(frame, first_row=first_row)


def _hashes(ids: pd.Series) -> np.ndarray:
    return pd.util.hash_array(ids.to_numpy(dtype=object), categorize=False)


def _rows(values: dict[str, np.ndarray | pd.Series], good: np.ndarray, first_row: int) -> pd.DataFrame:
    index: pd.Index = pd.RangeIndex(first_row, first_row + len(good), name="row")
    if not good.all():
        index = index[good]
        values = {name: array[good] for name, array in values.items()}
    arrays = {name: array.array if isinstance(array, pd.Series) else array for name, array in values.items()}
    return pd.DataFrame(arrays, index=index, copy=False)


def _quarantine(
    frame: pd.DataFrame, verdict: np.ndarray, reasons: list[tuple[str, str]], first_row: int
) -> pd.DataFrame:
    bad = np.flatnonzero(verdict)
    raw = {f"raw_{name}": _as_text(frame[name].iloc[bad]) for name in frame.columns}
    codes = verdict[bad] - 1
    columns = np.array([name for name, _ in reasons], dtype=object)[codes] if len(bad) else np.empty(0, dtype=object)
    texts = np.array([reason for _, reason in reasons], dtype=object)[codes] if len(bad) else np.empty(0, dtype=object)
    shown = np.empty(len(bad), dtype=object)
    for name in set(columns):
        here = columns == name
        shown[here] = [value[:_SHOWN_LENGTH] for value in raw[f"raw_{name}"][here]]
    fault = {"column": columns, "value": shown, "reason": texts}
    first = {name: pd.array(values, dtype="str") for name, values in fault.items()}
    return pd.DataFrame({"row": (bad + first_row).astype(np.int64), **first, **raw})


def _as_text(series: pd.Series) -> pd.api.extensions.ExtensionArray:
    """The values as text; empty if missing."""
    if isinstance(series.dtype, pd.CategoricalDtype) or not pd.api.types.is_object_dtype(series.dtype):
        return series.astype("str").fillna("").array
    return pd.array(["" if value is None else str(value) for value in series], dtype="str")
