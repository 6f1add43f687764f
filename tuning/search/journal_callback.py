"""A Tune callback that writes trial events to the journal, then to MLflow and the console."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ray import tune

from tuning.record.journal import Journal
from tuning.search.halving import HalvingByDetector
from tuning.search.progress import Progress
from tuning.tracking import SweepTracker

logger = logging.getLogger(__name__)


class JournalCallback(tune.Callback):
    """Writes each event to the journal first.

    halving: has the reasons of stopped trials. when_ended: called after each trial's end is in the journal.
    """

    def __init__(
        self,
        journal: Journal,
        progress: Progress,
        halving: HalvingByDetector | None,
        tracker: SweepTracker | None,
        when_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal, self._progress, self._halving, self._tracker = journal, progress, halving, tracker
        self._when_ended = when_ended
        self._started: set[int] = set()
        self._epochs = {
            trial.number: max((epoch["epoch"] for rung in trial.rungs for epoch in rung["epochs"]), default=0)
            for trial in journal.trials().values()
        }

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its callbacks but never reads them back, and threads cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or restarts after its process died."""
        if trial.config["number"] in self._started:
            logger.warning("the process of trial %d died; it resumes from its checkpoint", trial.config["number"])
        self._start(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reached a rung, or reports that it is alive."""
        if "step" in result:
            number, objective = trial.config["number"], result.get("objective")
            # After a kill a trial reports all its epochs again, because some reports may have been lost.
            epochs = [epoch for epoch in result["epochs"] if epoch["epoch"] > self._epochs.get(number, 0)]
            if epochs:
                self._epochs[number] = epochs[-1]["epoch"]
            progress = {"step": result["step"], "objective": objective, "epochs": epochs}
            self._append({"event": "rung", "number": number, "worker": result["worker"], **progress})
            self._progress.advanced(number, result["step"], objective)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial finished, failed or was stopped. One that the end of the sweep interrupts stays unfinished."""
        last = trial.last_result
        stopped = self._halving.stopped.get(trial.config["number"]) if self._halving else None
        if last.get("failed"):
            self._end(trial, "failed", last["failed"], None)
        elif stopped:
            self._end(trial, "stopped", stopped, last["result"])
        elif last.get("done") and last.get("result"):
            self._end(trial, "finished", last["reason"], last["result"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died too often."""
        error = trial.get_error()
        message = " ".join(str(error).split())[:300]
        memory = " (killed, perhaps out of memory)" if "memory" in message.lower() or "died" in message.lower() else ""
        self._end(trial, "failed", f"its process died{memory}: {message}", None)

    def _start(self, trial: Any) -> None:
        named = {name: trial.config[name] for name in ("number", "detector", "params")}
        self._started.add(trial.config["number"])
        self._append({"event": "started", **named})
        self._progress.started(**named)

    def _end(self, trial: Any, status: str, reason: str, result: dict[str, Any] | None) -> None:
        if trial.config["number"] not in self._started:  # its node died before it reported anything
            self._start(trial)
        outcome = {"number": trial.config["number"], "status": status, "reason": reason, "result": result}
        self._append({"event": "ended", "worker": trial.last_result.get("worker", ""), **outcome})
        self._progress.ended(trial.config["number"], trial.config["detector"], status, reason, result)
        self._when_ended()

    def _append(self, event: dict[str, Any]) -> None:
        self._journal.append({**event, "time": time.time()})
        if self._tracker:
            self._tracker.wake()
