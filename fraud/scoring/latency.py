"""Compare the latency of engines in CPU time, in alternating rounds, so that other load has little effect."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from fraud.scoring.engine import Engine

ROUNDS = 7


def p99_ms(
    engines: Mapping[str, Engine], rows: Sequence[Mapping[str, object]], rounds: int = ROUNDS
) -> dict[str, float]:
    """99th percentile of CPU milliseconds per row, by engine; the median of the rounds.

    rows: for `Engine.score_row`. In each round all engines score all rows, one engine after the other. Thread time does
    not count other processes.
    """
    for engine in engines.values():
        engine.warm_up()
        for row in rows[:20]:
            engine.score_row(row, learn=False)
    by_engine: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds):
        order = list(engines.items())
        for name, engine in order if turn % 2 == 0 else reversed(order):
            by_engine[name].append(float(np.quantile([_nanoseconds(engine, row) for row in rows], 0.99)) / 1e6)
    return {name: float(np.median(each)) for name, each in by_engine.items()}


def _nanoseconds(engine: Engine, row: Mapping[str, object]) -> int:
    began = time.thread_time_ns()
    engine.score_row(row, learn=False)
    return time.thread_time_ns() - began
