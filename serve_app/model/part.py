"""Scores the valid rows of a part of a batch in one call, with the same results as single requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from fraud.errors import DataError
from fraud.schema import Schema
from fraud.schema.values import array_of, list_of
from fraud.scoring.engine import SCORE
from fraud.scoring.reasons import Reason
from fraud.scoring.row_score import RowScore
from serve_app.model.state import MOST_REASONS, ServedModel
from serve_app.request.problems import Rejected, problem

Problems = tuple[dict[str, Any], ...]
_BOTH = (True, False)
PART_S = 0.010  # longest time that a batch blocks other requests


class Part:
    """Consecutive validated rows of a batch.

    columns: {input: canonical values (n_valid,), see `array_of`} of the valid rows; positions: their index in the part,
    from 0; rejected: {index: problems} of the invalid rows; size: number of all rows. transactions: the valid rows as
    a request is read; derived from `columns` if not given.
    """

    def __init__(
        self,
        columns: dict[str, np.ndarray],
        positions: Sequence[int],
        rejected: dict[int, Problems],
        transactions: list[dict[str, object]] | None = None,
    ) -> None:
        self.columns = columns
        self.positions = positions
        self.rejected = rejected
        self.size = len(positions) + len(rejected)
        if transactions is not None:
            self.transactions = transactions

    @cached_property
    def transactions(self) -> list[dict[str, object]]:
        columns = [list_of(values) for values in self.columns.values()]
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*columns, strict=True)]


@dataclass
class ScoredPart:
    """The engine's results for the valid rows of a part.

    values: {name of engine.score_names: float64 (n_valid,)}; is_fraud, is_history_live, is_changed: bool (n_valid,),
    see RowScore; reasons: per row, or None if not requested.
    """

    model: ServedModel
    part: Part
    values: dict[str, np.ndarray]
    is_fraud: np.ndarray
    is_history_live: np.ndarray
    is_changed: np.ndarray
    reasons: list[list[Reason]] | None

    def answers(self) -> Sequence[Any]:
        """Like `contents`, in whatever type encodes fastest to the same JSON."""
        n = len(self.part.positions)
        if self.reasons is not None or not n:
            return self.contents
        columns: dict[str, Iterable[Any]] = {name: values.tolist() for name, values in self.values.items()}
        columns |= {"is_fraud": self.is_fraud.tolist(), "warnings": self.warnings}
        schema = self.model.engine.schema
        if schema.id is not None:
            columns["id"] = list_of(self.part.columns[schema.id.name])
        first = self._content(0)
        same = {name: repeat(value, n) for name, value in first.items()}
        return list(map(_record(tuple(first)), *(same | columns).values()))

    @cached_property
    def warnings(self) -> Sequence[list[str]]:
        """The warnings of each row."""
        warnings = {(live, changed): self.model.warnings_of(live, changed) for live in _BOTH for changed in _BOTH}
        return [warnings[how] for how in zip(self.is_history_live.tolist(), self.is_changed.tolist(), strict=True)]

    def _content(self, row: int) -> dict[str, Any]:
        scores = {name: float(values[row]) for name, values in self.values.items()}
        is_fraud, is_live = bool(self.is_fraud[row]), bool(self.is_history_live[row])
        how = is_live, bool(self.is_changed[row])
        row_score = RowScore(scores.pop(SCORE), is_fraud, scores, *how)
        column = self.model.engine.schema.id
        named = {} if column is None else {column.name: self.part.columns[column.name][row]}
        return self.model.content_of(row_score, named)

    @cached_property
    def contents(self) -> list[dict[str, Any]]:
        """The content of models.BatchAnswer for each valid row."""
        contents = [self._content(row) for row in range(len(self.part.positions))]
        if self.reasons is not None:
            for content, reasons in zip(contents, self.reasons, strict=True):
                content["reasons"] = [vars(reason) for reason in reasons]
        return contents


@lru_cache(maxsize=16)
def _record(names: tuple[str, ...]) -> Any:
    """A type whose instances encode as JSON objects with these keys."""
    return msgspec.defstruct("Answer", names, gc=False)


def score_part(model: ServedModel, part: Part, *, learn: bool, with_reasons: bool) -> ScoredPart:
    """Score the valid rows; the scores are bit-identical to those of /score.

    learn: enter the rows into the live history, in order. Raises ValueError if a score is not finite.
    """
    engine = model.engine
    if not part.positions:
        nothing, no = np.empty(0), np.empty(0, dtype=bool)
        values = dict.fromkeys(engine.score_names, nothing)
        return ScoredPart(model, part, values, no, no, no, [] if with_reasons else None)
    raw, is_live, is_changed = engine.raw_in_turn(part.columns, learn=learn)
    scores = engine.score_raw(raw)
    if not np.isfinite(scores).all():
        raise ValueError("the engine gives no number")
    values = {name: scores[:, i] for i, name in enumerate(engine.score_names)}
    reasons = engine.reasons(_frame(part.columns), MOST_REASONS, raw=raw) if with_reasons else None
    is_fraud = np.asarray(engine.threshold.decide(scores[:, 0]))
    return ScoredPart(model, part, values, is_fraud, is_live, is_changed, reasons)


def columns_of(schema: Schema, transactions: Sequence[Mapping[str, object]]) -> dict[str, np.ndarray]:
    """Convert canonical transactions to columns."""
    return {c.name: array_of(c, [row[c.name] for row in transactions]) for c in schema.inputs}


def _frame(columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Convert columns to rows as fraud.schema.validation.validate returns them."""
    texts = {name: pd.array(values, dtype="str") for name, values in columns.items() if values.dtype.kind == "O"}
    return pd.DataFrame({**columns, **texts}, copy=False)


def check_time(model: ServedModel, transaction: dict[str, object]) -> None:
    """Raise Rejected, like /score, for a transaction that lacks the time that the entity history needs."""
    schema = model.engine.schema
    if schema.history and schema.timestamp and transaction[schema.timestamp.name] is None:
        try:
            model.engine.encode_row(transaction)
        except DataError as error:
            raise Rejected(422, problem("unscorable", str(error), "correct the field that is named")) from None
