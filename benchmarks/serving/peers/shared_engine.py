"""Our engine for the peers: loaded once, called with plain rows. Imports no server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fraud.scoring import bundle
from fraud.scoring.engine import Engine

BUNDLE = "BENCHMARK_BUNDLE"  # environment variable: folder of the bundle


def load() -> Engine:
    """Load the engine of the bundle in BENCHMARK_BUNDLE and compile it."""
    engine = Engine(bundle.load(os.environ[BUNDLE]).detector)
    engine.warm_up()
    return engine


def columns(engine: Engine) -> list[str]:
    """Field names of a transaction, in order."""
    return [column.name for column in engine.schema.inputs]


def score(engine: Engine, row: Mapping[str, object]) -> dict[str, Any]:
    """Score and decision of one transaction."""
    result = engine.score_row(row)
    return {"score": result.score, "is_fraud": bool(result.is_fraud), "threshold": engine.threshold.value}


def score_rows(engine: Engine, rows: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    """Scores and decisions of several transactions."""
    return score_frame(engine, pd.DataFrame(list(rows), columns=columns(engine), dtype=np.float64))


def score_frame(engine: Engine, rows: pd.DataFrame) -> dict[str, Any]:
    """Scores and decisions of a numeric frame."""
    scored = engine.score_frame(rows)
    return {
        "score": scored["score"].tolist(),
        "is_fraud": scored["is_fraud"].tolist(),
        "threshold": engine.threshold.value,
    }
