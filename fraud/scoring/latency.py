"""How long one row takes two engines: in rounds, in turn and in CPU time, so that a busy machine decides nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from fraud.scoring.engine import Engine

ROUNDS = 7


def p99_ms(
    engines: Mapping[str, Engine], rows: Sequence[Mapping[str, object]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Milliseconds of CPU within which 99 % of single rows are scored, the median of the rounds, by engine.

    rows: transactions as `Engine.score_row` takes them. Every engine scores every row in every round, one engine after
    the other, so that what slows the machine slows both. Time of the thread, not of the clock: what other processes
    take of the CPU is not counted.
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
