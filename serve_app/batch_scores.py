"""Scores the good rows of a part of a batch in one call, each as if it had come alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from fraud.engine import RowScore
from fraud.errors import DataError
from fraud.reasons import Reason
from fraud.schema import Column, Schema
from serve_app.problems import Rejected, problem
from serve_app.state import MOST_REASONS, NO_LIVE_HISTORY, ServedModel

Problems = tuple[dict[str, Any], ...]
PART_S = 0.010  # for so long a batch may keep other requests waiting


class Part:
    """Some neighbouring rows of a batch, checked.

    rows: the good ones, canonical (fraud.schema.validate), n_good of them; places: where each of them stands in the
    part, from 0; rejected: the problems of each of the others; size: how many there are of both.
    transactions: the good ones once more, as requests are read; made of `rows` when they are needed.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        places: list[int],
        rejected: dict[int, Problems],
        transactions: list[dict[str, object]] | None = None,
    ) -> None:
        self.rows = rows
        self.places = places
        self.rejected = rejected
        self.size = len(places) + len(rejected)
        if transactions is not None:
            self.transactions = transactions

    @cached_property
    def transactions(self) -> list[dict[str, object]]:
        return _transactions(self.rows)

    def transaction(self, place: int) -> dict[str, object]:
        """One of them."""
        return _transactions(self.rows[place : place + 1])[0]


@dataclass
class ScoredPart:
    """What the engine says of a part's good rows.

    values: {name of engine.score_names: float64 (n_good,)}; is_fraud, is_history_live: bool (n_good,); reasons: of each
    row, or None where nobody asked.
    """

    model: ServedModel
    part: Part
    values: dict[str, np.ndarray]
    is_fraud: np.ndarray
    is_history_live: np.ndarray
    reasons: list[list[Reason]] | None

    def answers(self) -> list[Any]:
        """`contents`, as whatever JSON encodes to the same most quickly."""
        if self.reasons is not None or not self.part.places:
            return self.contents
        columns: dict[str, Any] = {name: values.tolist() for name, values in self.values.items()}
        columns |= {"is_fraud": self.is_fraud.tolist(), "warnings": self.warnings}
        schema = self.model.engine.schema
        if schema.id is not None:
            columns["id"] = _plain(self.part.rows[schema.id.name])
        first = self._content(0, self.part.transaction(0))
        record = _record(tuple(first))
        return list(
            map(record, *(columns.get(name) or repeat(value, len(self.part.places)) for name, value in first.items()))
        )

    @property
    def warnings(self) -> list[list[str]]:
        """What each score had to do without, as in an answer."""
        return [[] if is_live else [NO_LIVE_HISTORY] for is_live in self.is_history_live.tolist()]

    def _content(self, place: int, transaction: dict[str, object]) -> dict[str, Any]:
        score, forest, autoencoder, *head = (float(values[place]) for values in self.values.values())
        is_fraud, is_live = bool(self.is_fraud[place]), bool(self.is_history_live[place])
        found = RowScore(score, forest, autoencoder, is_fraud, head[0] if head else None, is_live)
        return self.model.content_of(found, transaction)

    @cached_property
    def contents(self) -> list[dict[str, Any]]:
        """The content of models.BatchAnswer for each good row."""
        contents = [self._content(place, row) for place, row in enumerate(self.part.transactions)]
        if self.reasons is not None:
            for content, reasons in zip(contents, self.reasons, strict=True):
                content["reasons"] = [vars(reason) for reason in reasons]
        return contents


@lru_cache(maxsize=16)
def _record(names: tuple[str, ...]) -> Any:
    """A type whose instances JSON takes for objects with these keys."""
    return msgspec.defstruct("Answer", names, gc=False)


def score_part(model: ServedModel, part: Part, *, learn: bool, with_reasons: bool) -> ScoredPart:
    """Score the good rows. learn: they enter the live history, in their order. Raises ValueError where no number comes.

    Many rows run through other loops than one alone: their scores agree within float32 rounding.
    """
    engine = model.engine
    if not part.places:
        nothing, no = np.empty(0), np.empty(0, dtype=bool)
        return ScoredPart(model, part, dict.fromkeys(engine.score_names, nothing), no, no, [] if with_reasons else None)
    raw, is_live = engine.raw_in_turn(part.rows, learn=learn)
    scores = engine.score_raw(raw)
    if not np.isfinite(scores).all():
        raise ValueError("the engine gives no number")
    values = {name: scores[:, i] for i, name in enumerate(engine.score_names)}
    reasons = engine.reasons(part.rows, MOST_REASONS, raw=raw) if with_reasons else None
    return ScoredPart(model, part, values, np.asarray(engine.threshold.decide(scores[:, 0])), is_live, reasons)


def frame_of(schema: Schema, transactions: list[dict[str, object]]) -> pd.DataFrame:
    """Canonical transactions as canonical rows."""
    return rows_of({c.name: canonical(c, [row[c.name] for row in transactions]) for c in schema.inputs})


def canonical(column: Column, values: Sequence[Any]) -> Any:
    """Canonical values of one column, None where missing, in the dtype that a checked file has."""
    if column.kind in ("numeric", "boolean"):
        return np.array(values, dtype=np.float64)  # None becomes NaN
    if column.kind == "timestamp":
        return np.array(values, dtype="datetime64[us]")
    return pd.array(values, dtype="str")


def rows_of(columns: dict[str, Any]) -> pd.DataFrame:
    """A frame of canonical columns."""
    return pd.DataFrame(columns, copy=False)


def _transactions(rows: pd.DataFrame) -> list[dict[str, object]]:
    names, columns = list(rows.columns), [_plain(rows[name]) for name in rows.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _plain(values: pd.Series) -> list[Any]:
    """Canonical values as a request's: Python's own types, None where missing."""
    if values.dtype.kind == "M":
        return [None if time is pd.NaT else time.to_pydatetime() for time in values]
    return [None if value != value else value for value in values.tolist()]


def check_time(model: ServedModel, transaction: dict[str, object]) -> None:
    """Raise Rejected, as /score does, for a transaction without the time that the entity history needs."""
    schema = model.engine.schema
    if schema.history and schema.timestamp and transaction[schema.timestamp.name] is None:
        try:
            model.engine.encode_row(transaction)
        except DataError as error:
            raise Rejected(422, problem("unscorable", str(error), "correct the field that is named")) from None
