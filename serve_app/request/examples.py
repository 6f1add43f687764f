"""An example transaction that the served model accepts, for the documentation and for the check of a new model.

Each value is the schema's example or, where it has none or one that a request may no longer send, a typical value of
the training data.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
from pydantic_core import PydanticCustomError

from fraud.schema.columns import Column
from fraud.schema.values import EPOCH, MICROSECONDS, since_epoch
from fraud.scoring.detector import Detector
from serve_app.request.fields import check_of

_SOME_TIME = dt.datetime(2026, 1, 31, 13, 45)
_SOME_NAME = "example-1"


def example_of(detector: Detector) -> dict[str, object]:
    """{column: JSON value} of every input. Leaves out a column for which no valid value is known."""
    example = {}
    for column in detector.schema.inputs:
        check = check_of(column)
        for value in _candidates(column, detector):
            try:
                check(value)
            except PydanticCustomError:
                continue
            example[column.name] = value
            break
    return example


def _candidates(column: Column, detector: Detector) -> Iterator[object]:
    if column.example is not None:
        yield column.example
    if column.kind == "timestamp":
        yield from (_time(column, moment) for moment in _moments(column, detector))
    elif column.kind in ("entity", "id"):
        yield _SOME_NAME
    else:
        typical = _typical(column, detector)
        if typical is not None:
            yield typical
        yield from (*column.categories[:1], 0, *map(float, column.bounds), _SOME_NAME)


def _typical(column: Column, detector: Detector) -> object:
    """The usual value in the training data, rounded; None if it is missing there or rare levels are usual."""
    features = detector.features
    value = float(features.typical[features.names.index(column.name)])
    if np.isnan(value):
        return None
    if column.kind == "categorical":
        levels = features.categories[column.name]
        return levels[int(value)] if value < len(levels) else None
    return round(value) if column.integer or column.kind == "boolean" else float(f"{value:.4g}")


def _moments(column: Column, detector: Detector) -> Iterator[dt.datetime]:
    newest = max((state.last_time for state in detector.history if state.last_time is not None), default=None)
    if newest is not None:
        yield EPOCH + dt.timedelta(microseconds=newest // 1_000_000 * 1_000_000)
    yield _SOME_TIME
    if column.first_day is not None:
        yield dt.datetime.combine(column.first_day, dt.time())


def _time(column: Column, moment: dt.datetime) -> object:
    if column.unit is None:
        return moment.isoformat()
    return int(since_epoch(moment) / MICROSECONDS[column.unit])
