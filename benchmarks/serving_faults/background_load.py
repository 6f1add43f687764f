"""Load in the background: a thread runs wrk in rounds."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.serving.load import Load, drive
from benchmarks.serving_faults.rig import Rig
from fraud.errors import DataError

CONNECTIONS = 16
ROUND_S = 10.0
_REFUSED_PAUSE_S = 0.05


class BackgroundLoad:
    """Loads /score until stopped. loads: results of the finished rounds."""

    def __init__(self, rig: Rig, rate: float | None, round_s: float = ROUND_S, connections: int = CONNECTIONS) -> None:
        self.loads: list[Load] = []
        self._rig, self._rate, self._round_s, self._connections = rig, rate, round_s, connections
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._drive, name="load")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """Stop after the current round; returns the summary of all rounds."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return summarize(self.loads)

    @property
    def requests(self) -> int:
        """Answers in the finished rounds."""
        return sum(load.requests for load in self.loads)

    def _drive(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    self.loads.append(drive_once(self._rig, self._round_s, self._rate, self._connections))
                except DataError as error:
                    if "unable to connect" not in str(error):
                        raise
                    self.loads.append(Load(0, 0.0, 0.0, math.nan, math.nan, math.nan, {}, {"connect": 1}))
                    time.sleep(_REFUSED_PAUSE_S)
        except BaseException as error:  # noqa: BLE001 - raised by stop()
            self._failure = error


@contextmanager
def background_load(rig: Rig, rate: float | None) -> Iterator[BackgroundLoad]:
    """Load while the block runs; starts three seconds before it."""
    load = BackgroundLoad(rig, rate)
    load.start()
    try:
        time.sleep(3)
        yield load
    finally:
        load.stop()


def drive_once(rig: Rig, seconds: float, rate: float | None = None, connections: int = CONNECTIONS) -> Load:
    """Run wrk once."""
    return drive(rig.url, rig.bodies, connections=connections, seconds=seconds, rate=rate)


def summarize(loads: Sequence[Load]) -> dict[str, Any]:
    """Summarize rounds: sums of the counts, median and worst latencies."""
    statuses: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for load in loads:
        statuses.update(load.statuses)
        errors.update(load.socket_errors)
    answered = [load for load in loads if load.requests]
    return {
        "requests": sum(load.requests for load in loads),
        "failed": sum(load.failed for load in loads),
        "statuses": dict(statuses),
        "socket_errors": {name: count for name, count in errors.items() if count},
        "rate": statistics.median(load.rate for load in loads) if loads else 0.0,
        "p50_ms": statistics.median(load.p50_ms for load in answered) if answered else None,
        "p99_ms": statistics.median(load.p99_ms for load in answered) if answered else None,
        "worst_p99_ms": max(load.p99_ms for load in answered) if answered else None,
    }


def peak_rate(rig: Rig, seconds: float = ROUND_S, rounds: int = 3) -> float:
    """Median rate of `rounds` rounds at full speed, requests per second, after a warm-up."""
    drive_once(rig, 3)
    return statistics.median(drive_once(rig, seconds).rate for _ in range(rounds))


def cpu_seconds(parts: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """User and system CPU seconds of the processes, by name of the part."""
    used = {}
    for name, group in parts.items():
        used[name] = 0.0
        for process in group:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            used[name] += times.user + times.system
    return used
