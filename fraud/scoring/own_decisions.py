"""Recognise a table whose "verdicts" are the model's own decisions: scored days, decision logs, exports of both.

Taken in as labels, they would teach the model its own mistakes, and make its precision look perfect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from fraud.data import tables
from fraud.data.files import find, pieces, reading
from fraud.detectors import registry
from fraud.errors import DataError
from fraud.schema.columns import Column
from fraud.schema.contract import Schema
from fraud.schema.values import convert
from fraud.scoring.engine import DECISION, SCORE
from fraud.scoring.scored import MARK

# Columns that only our own outputs have. Beside them, `is_fraud` means an alert.
_OURS = (*registry.score_columns(), "model_version", "threshold", "shadow_score", "inputs")
_SCORE = re.compile(r"score|probab", re.IGNORECASE)
_VERDICT = Column(name=DECISION, kind="boolean")
_SHOWN = 4
_FEWEST_ROWS = 20  # fewer follow a column's order by chance


@dataclass
class _Cut:
    """The scores of one column: the lowest with the verdict 1, the highest with the verdict 0, and the rows."""

    lowest_fraud: float = np.inf
    highest_other: float = -np.inf
    rows: int = 0

    def add(self, scores: np.ndarray, is_fraud: np.ndarray) -> None:
        self.lowest_fraud = float(scores[is_fraud].min(initial=self.lowest_fraud))
        self.highest_other = float(scores[~is_fraud].max(initial=self.highest_other))
        self.rows += len(scores)

    def is_decision(self, name: str) -> bool:
        """Whether the verdict is `score >= cut`. Only for our `score` if few rows, or rows of one verdict, show it."""
        has_both = np.isfinite(self.lowest_fraud) and np.isfinite(self.highest_other)
        is_enough = name == SCORE or (has_both and self.rows >= _FEWEST_ROWS)
        return self.rows > 0 and is_enough and self.lowest_fraud > self.highest_other

    def rule(self, name: str) -> str:
        if np.isinf(self.lowest_fraud):
            return f"0 in every row, up to a {name} of {self.highest_other:.4g}"
        if np.isinf(self.highest_other):
            return f"1 in every row, from a {name} of {self.lowest_fraud:.4g} on"
        return f"1 exactly where {name} is {self.lowest_fraud:.4g} or more"


def refuse(path: str, schema: Schema) -> None:
    """Raise DataError if the verdicts of a label file are the model's own decisions. Otherwise return.

    path: CSV or Parquet. The evidence: the mark in the Parquet metadata, columns of our outputs beside `is_fraud`, or a
    verdict that is 1 exactly where a score reaches a cut.
    """
    evidence = _evidence(path, schema)
    if evidence is None:
        return
    raise DataError(
        f"{path} holds the model's own decisions, not verdicts ({evidence}): labels from it would teach the model its "
        "own mistakes. To get verdicts, draw rows with `python -m ray_jobs.labels draw`, fill them in and ingest that "
        f"file. If a person did decide here, write a file with only the id, {DECISION} and known_at"
    )


def _evidence(path: str, schema: Schema) -> str | None:
    with reading(path):
        filesystem, files = find(path)
    for name in files:
        if PurePosixPath(name).suffix in (".parquet", ".pq") and filesystem.size(name):
            with reading(name), filesystem.open(name, "rb") as file:
                shape = pq.read_schema(file)
            if MARK.items() <= (shape.metadata or {}).items() and DECISION in shape.names:
                return f"its Parquet metadata say that ray_jobs.score wrote it, and there {DECISION} means an alert"
    cuts: dict[str, _Cut] = {}
    verdict = None
    for _, frame in pieces(path, tables.CHUNK_ROWS, ()):
        verdict = _verdict_of(list(frame.columns), schema)
        ours = [name for name in _OURS if name in frame]
        if verdict == DECISION and ours:
            more = ", …" if len(ours) > _SHOWN else ""
            return f"column{'s' if len(ours) > 1 else ''} {', '.join(ours[:_SHOWN])}{more} beside {DECISION}"
        given = {column.name for column in schema.columns}
        scores = [name for name in frame if name not in given and _SCORE.search(str(name))]
        if verdict is None or not scores:
            return None
        _add(cuts, frame, verdict, scores)
    for name, cut in cuts.items():
        if cut.is_decision(name):
            return f"{verdict} is {cut.rule(name)}"
    return None


def _verdict_of(columns: Sequence[object], schema: Schema) -> str | None:
    """The column that `labels ingest` reads as the verdict."""
    names = [DECISION, *([schema.label.name] if schema.label else [])]
    return next((name for name in names if name in columns), None)


def _add(cuts: dict[str, _Cut], frame: pd.DataFrame, verdict: str, scores: Sequence[str]) -> None:
    values = np.asarray(convert(frame[verdict], _VERDICT).values, dtype=np.float64)
    for name in scores:
        numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
        both = ~np.isnan(values) & ~np.isnan(numbers)
        cuts.setdefault(name, _Cut()).add(numbers[both], values[both] == 1)
