"""The quick way from the bytes of a request to its canonical transaction, for what is plainly right and nothing else.

msgspec parses the bytes straight into a record compiled from the schema (types, ranges, required and unknown fields
are checked in C). Whatever it refuses, and whatever is merely unusual, is left to `serve_app.request.reader`, which
decides what is wrong and says so: both ways give the same values by construction, and only one of them ever gives an
error.

msgspec keeps the last of two fields of one name and says nothing. All values are scalars, and without a backslash
every quotation mark in the bytes begins or ends a name or a text, so their number tells whether a field was repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from fraud.schema import Schema
from fraud.schema.columns import Column
from fraud.schema.values import accepts
from serve_app.request.fields import Check, check_of

# What msgspec cannot rename a field to, because JSON must escape it.
_ESCAPED = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
# The careful reader takes whole numbers of more than 40 digits as floats, which are no text.
_LARGEST_TEXT_NUMBER = 10**39


class FastReader:
    """Reads transactions of one schema that need no second look."""

    def __init__(self, schema: Schema) -> None:
        columns = schema.inputs
        self._names = [column.name for column in columns]
        self._n_quotes = 2 * len(columns)
        self._finish = [(i, _finish_of(column)) for i, column in enumerate(columns) if not _is_plain(column)]
        self._finish_many = [None if _is_plain(column) else _finish_many_of(column) for column in columns]
        self._decode: Callable[[bytes], Any] | None = None
        self._decode_many: Callable[[bytes], list[Any]] | None = None
        if not any(_ESCAPED.search(name) for name in self._names):
            fields = [_field(f"f{i}", column) for i, column in enumerate(columns)]
            names = {f"f{i}": name for i, name in enumerate(self._names)}
            record = msgspec.defstruct("Transaction", fields, rename=names, forbid_unknown_fields=True, kw_only=True)
            self._decode = msgspec.json.Decoder(record).decode
            self._decode_many = msgspec.json.Decoder(list[record]).decode  # type: ignore[valid-type]

    def read(self, body: bytes) -> dict[str, object] | None:
        """Return {column: canonical value}, every input present, or None where the careful reader must look."""
        if self._decode is None or b"\\" in body:
            return None
        n_quotes = self._n_quotes
        try:
            values = list(msgspec.structs.astuple(self._decode(body)))
            for i, finish in self._finish:
                value = values[i]
                if value is msgspec.UNSET:
                    values[i] = None
                    n_quotes -= 2
                elif value is not None:
                    if type(value) is str:
                        n_quotes += 2
                    values[i] = finish(value)
        except (ValueError, RecursionError):  # msgspec's errors and those of the checks are ValueErrors
            return None
        if body.count(b'"') != n_quotes:
            return None
        return dict(zip(self._names, values, strict=True))

    def read_many(self, bodies: Sequence[bytes]) -> dict[str, Sequence[Any]] | None:
        """Return {column: canonical values, one of each body}, or None where the careful reader must look at one.

        They are parsed together. That each is one transaction of its own follows from what each looks like: without
        backslashes an even number of quotation marks keeps every text inside its body, and what then begins and ends
        with a brace and holds no object inside another is one object or more; one, where all of them make so many.
        """
        if self._decode_many is None or not all(body[:1] == b"{" and body[-1:] == b"}" for body in bodies):
            return None
        together = b"[" + b",".join(bodies) + b"]"
        if b"\\" in together:
            return None
        try:
            rows = list(map(msgspec.structs.astuple, self._decode_many(together)))
            if len(rows) != len(bodies):
                return None
            columns = list(zip(*rows, strict=True)) or [()] * len(self._names)
            n_quotes = np.full(len(rows), self._n_quotes)
            found = [
                finish(column, n_quotes) if finish else column
                for column, finish in zip(columns, self._finish_many, strict=True)
            ]
        except (ValueError, RecursionError):
            return None
        if [body.count(b'"') for body in bodies] != n_quotes.tolist():
            return None
        return dict(zip(self._names, found, strict=True))


def _is_plain(column: Column) -> bool:
    """Whether what msgspec returns for the column is its canonical value already."""
    return column.kind == "numeric" and not column.integer and not column.nullable


def _field(name: str, column: Column) -> tuple[Any, ...]:
    wanted: Any = str | int
    if column.kind == "numeric":
        low, high = column.bounds
        wanted = Annotated[float, msgspec.Meta(ge=low, le=high)]
    elif column.kind == "boolean":
        wanted = bool | float
    elif column.kind == "timestamp":
        wanted = float if column.unit else str
    return (name, wanted | None | msgspec.UnsetType, msgspec.UNSET) if column.nullable else (name, wanted)


def _finish_of(column: Column) -> Check:
    """What is left to do with a value that msgspec let pass; it raises ValueError for one that is not plainly right."""
    check = check_of(column)

    def whole(value: Any) -> object:
        if not value.is_integer():
            raise ValueError("not a whole number")
        return value

    def text(value: Any) -> object:
        if type(value) is int and not -_LARGEST_TEXT_NUMBER < value < _LARGEST_TEXT_NUMBER:
            raise ValueError("a very large number")
        return check(value)

    if column.kind == "numeric":
        return whole if column.integer else lambda value: value
    return check if column.kind in ("boolean", "timestamp") else text


def _finish_many_of(column: Column) -> Callable[[Sequence[Any], np.ndarray], Sequence[Any]]:
    """The same for the values of many bodies. It corrects how many quotation marks each body has."""
    finish = _finish_of(column)

    def finish_many(values: Sequence[Any], n_quotes: np.ndarray) -> Sequence[Any]:
        kinds = set(map(type, values))
        if str in kinds:
            n_quotes += 2 if len(kinds) == 1 else [2 * (type(value) is str) for value in values]
        if msgspec.UnsetType in kinds:
            n_quotes -= [2 * (value is msgspec.UNSET) for value in values]
        if kinds == {float} and column.kind in ("numeric", "boolean"):
            if not accepts(column, np.array(values)).all():
                raise ValueError("not a whole number, or neither 0 nor 1")
            return values
        if kinds in ({str}, {int}, {bool}):  # no two of them are equal that are not the same
            finished = {value: finish(value) for value in set(values)}
            return list(map(finished.__getitem__, values))
        return [None if value is None or value is msgspec.UNSET else finish(value) for value in values]

    return finish_many
