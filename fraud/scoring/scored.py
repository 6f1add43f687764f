"""The table of scored rows: output of batch scoring, drift reference, and input of monitoring.

Columns: row (number in the source, from 0), the schema's columns, and `ADDED`, with the scores of optional detectors
before the decision. A schema column with a name of ours (such as the label is_fraud, the name of our decision) is
written as given_<name>.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from fraud.detectors import registry
from fraud.schema.contract import Schema
from fraud.scoring.engine import DECISION, SCORE
from fraud.scoring.reasons import Reason

ROW = "row"
_ABOUT = ("reasons", "explanation", "model_version")
_ALWAYS = registry.score_columns(with_optional=False)
ADDED = (SCORE, *_ALWAYS, DECISION, *_ABOUT)  # in every model
# In the metadata of scored Parquet: its `is_fraud` is our decision (see fraud.scoring.own_decisions).
MARK = {b"ray-fraud": b"scored"}
_PREFIX = "given_"
_TYPES = {
    "numeric": pa.float64(),
    "boolean": pa.float64(),
    "timestamp": pa.timestamp("us"),
    "label": pa.int8(),
}


def name_of(column: str) -> str:
    """The name of a schema column in the table."""
    return f"{_PREFIX}{column}" if column in (ROW, *registry.score_columns(), *ADDED) else column


def arrow_fields(schema: Schema, *, with_label: bool) -> list[pa.Field]:
    """Fields of the schema columns, with canonical types (fraud.schema.validate)."""
    columns = [column for column in schema.columns if with_label or column.kind != "label"]
    return [pa.field(name_of(column.name), _TYPES.get(column.kind, pa.string())) for column in columns]


def arrow_schema(schema: Schema, *, with_label: bool, detector_columns: Sequence[str] = _ALWAYS) -> pa.Schema:
    """The Arrow schema of the table. detector_columns: `Detector.score_columns`."""
    added = [pa.field(name, pa.float64()) for name in (SCORE, *detector_columns)]
    added += [pa.field(DECISION, pa.bool_()), *(pa.field(name, pa.string()) for name in _ABOUT)]
    return pa.schema([pa.field(ROW, pa.int64()), *arrow_fields(schema, with_label=with_label), *added])


def table(
    rows: pd.DataFrame,
    scores: pd.DataFrame,
    model_version: str,
    reasons: Sequence[Sequence[Reason] | None] | None = None,
) -> pd.DataFrame:
    """Join canonical rows (index: row numbers) with scores and reasons.

    scores: from `Engine.score_frame`. reasons: of each row, or None; written as JSON (`reasons_json`) to `reasons`, as
    sentences to `explanation`.
    """
    frame = rows.rename(columns={name: name_of(name) for name in rows.columns})
    frame.insert(0, ROW, rows.index.to_numpy(dtype=np.int64))
    for name in scores.columns:
        frame[name] = scores[name].to_numpy()
    for name, write in (("reasons", reasons_json), ("explanation", _sentences)):
        texts = None if reasons is None else [None if why is None else write(why) for why in reasons]
        frame[name] = None if texts is None else pd.Series(texts, index=frame.index, dtype="str")
    frame["model_version"] = model_version
    return frame


def arrow_table(
    rows: pd.DataFrame,
    schema: Schema,
    scores: pd.DataFrame,
    model_version: str,
    reasons: Mapping[int, Sequence[Reason]] | None = None,
) -> pa.Table:
    """`table` as Arrow, without a copy through a frame.

    reasons: of some rows, by position.
    """
    with_label = schema.label is not None and schema.label.name in rows
    detector_columns = [name for name in scores.columns if name not in (SCORE, DECISION)]
    fields = arrow_schema(schema, with_label=with_label, detector_columns=detector_columns)
    names = {name_of(column.name): column.name for column in schema.columns}
    columns: dict[str, pa.Array] = {ROW: pa.array(rows.index.to_numpy(dtype=np.int64))}
    for field in fields:
        if field.name in names:
            columns[field.name] = pa.array(rows[names[field.name]].array, type=field.type, from_pandas=True)
    for name in scores.columns:
        columns[name] = pa.array(scores[name].to_numpy())
    for name, write in (("reasons", reasons_json), ("explanation", _sentences)):
        columns[name] = _scattered({position: write(why) for position, why in (reasons or {}).items()}, len(rows))
    columns["model_version"] = pa.repeat(pa.scalar(model_version, pa.string()), len(rows))
    return pa.table([columns[name] for name in fields.names], schema=fields)


def _scattered(texts: Mapping[int, str], n: int) -> pa.Array:
    """An array of length `n` with texts at their positions, else null."""
    if not texts:
        return pa.nulls(n, pa.string())
    at = np.full(n, -1, dtype=np.int64)
    at[list(texts)] = np.arange(len(texts))
    return pa.array(list(texts.values()), pa.string()).take(pa.array(at, mask=at < 0))


def reasons_json(reasons: Sequence[Reason]) -> str:
    """Reasons as JSON: objects with column, feature, value, typical, contribution, text; strongest first."""
    return json.dumps(
        [{name: _short(value) for name, value in vars(reason).items()} for reason in reasons], allow_nan=False
    )


def is_scored(frame: pd.DataFrame) -> bool:
    """Whether a frame has all columns of `ADDED`."""
    return set(ADDED) <= set(frame.columns)


def source_columns(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The schema's columns of a scored table, under their original names."""
    names = {name_of(column.name): column.name for column in schema.columns}
    return frame[[name for name in frame.columns if name in names]].rename(columns=names)


def _sentences(reasons: Sequence[Reason]) -> str:
    return "; ".join(reason.text for reason in reasons)


def _short(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value
