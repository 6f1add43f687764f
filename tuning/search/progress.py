"""A sweep's console output: a line for every trial that ends, and every 20 s a table of the running ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from tuning.record.journal import Trial
from tuning.search.shared import settings_text

logger = logging.getLogger(__name__)

_SECONDS_A_TABLE = 20.0


class Progress:
    """Logs the trials of one driver. objective_name: what they are judged by."""

    def __init__(self, n_trials: int, objective_name: str, known: Mapping[int, Trial]) -> None:
        self._n_trials, self._objective_name = n_trials, objective_name
        self._best: dict[str, tuple[float, int]] = {}
        self._running: dict[int, dict[str, Any]] = {}
        self._ended = 0
        for trial in known.values():
            if trial.has_ended:
                self._ended += 1
                self._update_best(trial.number, trial.detector, (trial.result or {}).get("objective"))
        self._ended_before = self._ended
        self._began = self._table_at = time.monotonic()

    def started(self, number: int, detector: str, params: Mapping[str, Any]) -> None:
        self._running[number] = {"detector": detector, "params": params, "step": 0, "since": time.monotonic()}

    def advanced(self, number: int, step: int, objective: float | None) -> None:
        """A trial reached a step."""
        self._running.setdefault(number, {"detector": "", "params": {}, "since": time.monotonic()})
        self._running[number] |= {"step": step, "objective": objective}
        if time.monotonic() - self._table_at > _SECONDS_A_TABLE:
            self._table()

    def ended(self, number: int, detector: str, status: str, reason: str, result: Mapping[str, Any] | None) -> None:
        """A trial ended."""
        self._running.pop(number, None)
        self._ended += 1
        line = f"[{self._ended}/{self._n_trials}] {detector} {number} {status}"
        if result is not None:
            self._update_best(number, detector, result["objective"])
            settings = settings_text(result["candidates"][result["best"]]["settings"])
            line += f": {self._objective_name} {result['objective']:.4f} ({settings}) in {result['seconds']:.1f} s"
        line += f"; {reason}" if status != "finished" else ""
        best = ", ".join(f"{name} {value:.4f} (trial {at})" for name, (value, at) in sorted(self._best.items()))
        level = logging.WARNING if status == "failed" else logging.INFO
        logger.log(level, "%s; best: %s; %s", line, best or "none yet", self._left())

    def _update_best(self, number: int, detector: str, objective: float | None) -> None:
        if objective is not None and objective > self._best.get(detector, (float("-inf"), 0))[0]:
            self._best[detector] = objective, number

    def _left(self) -> str:
        here = self._ended - self._ended_before
        if self._ended >= self._n_trials or not here:
            return f"{len(self._running)} running"
        seconds = (time.monotonic() - self._began) / here * (self._n_trials - self._ended)
        return f"{len(self._running)} running, about {seconds / 60:.0f} min {seconds % 60:.0f} s left"

    def _table(self) -> None:
        self._table_at = time.monotonic()
        logger.info("%5s  %-11s %6s %10s %8s  %s", "trial", "detector", "step", "objective", "seconds", "settings")
        for number, row in sorted(self._running.items()):
            objective = row.get("objective")
            logger.info(
                "%5d  %-11s %6d %10s %8.0f  %s", number, row["detector"], row["step"],
                "-" if objective is None else f"{objective:.4f}", self._table_at - row["since"],
                settings_text(row["params"]) or "base configuration",
            )  # fmt: skip
