"""The driver's ear: writes what Tune reports about every trial into the journal, and passes it on."""

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


class Record(tune.Callback):
    """Journal first, then MLflow and the console.

    halving: knows which trials it stopped, and why. when_ended: called after each trial's end is in the journal.
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
        self._begun: set[int] = set()
        self._epochs = {
            trial.number: max((epoch["epoch"] for rung in trial.rungs for epoch in rung["epochs"]), default=0)
            for trial in journal.trials().values()
        }

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles what it is given, and the threads and files here cannot be; none of it is read back."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or begins again after its process died."""
        if trial.config["number"] in self._begun:
            logger.warning("the process of trial %d died; it goes on from what it kept", trial.config["number"])
        self._start(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial came to a rung, or is heard of."""
        if "step" in result:
            number, objective = trial.config["number"], result.get("objective")
            # A trial that goes on after a kill tells all its epochs again, as some may not have been heard.
            epochs = [epoch for epoch in result["epochs"] if epoch["epoch"] > self._epochs.get(number, 0)]
            self._epochs[number] = self._epochs.get(number, 0) if not epochs else epochs[-1]["epoch"]
            told = {"step": result["step"], "objective": objective, "epochs": epochs}
            self._append({"event": "rung", "number": number, "worker": result["worker"], **told})
            self._progress.went_on(number, result["step"], objective)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end or was stopped; one that the end of the sweep cut off is left as it is."""
        last = trial.last_result
        stopped = self._halving.stopped.get(trial.config["number"]) if self._halving else None
        if last.get("failed"):
            self._end(trial, "failed", last["failed"], None)
        elif stopped:
            self._end(trial, "stopped", stopped, last["result"])
        elif last.get("done") and last.get("result"):
            self._end(trial, "finished", last["reason"], last["result"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died once too often."""
        error = trial.get_error()
        said = " ".join(str(error).split())[:300]
        memory = " (killed, perhaps for want of memory)" if "memory" in said.lower() or "died" in said.lower() else ""
        self._end(trial, "failed", f"its process died{memory}: {said}", None)

    def _start(self, trial: Any) -> None:
        named = {name: trial.config[name] for name in ("number", "detector", "params")}
        self._begun.add(trial.config["number"])
        self._append({"event": "started", **named})
        self._progress.started(**named)

    def _end(self, trial: Any, status: str, reason: str, result: dict[str, Any] | None) -> None:
        if trial.config["number"] not in self._begun:  # its process died, with its node, before it said a word
            self._start(trial)
        told = {"number": trial.config["number"], "status": status, "reason": reason, "result": result}
        self._append({"event": "ended", "worker": trial.last_result.get("worker", ""), **told})
        self._progress.ended(trial.config["number"], trial.config["detector"], status, reason, result)
        self._when_ended()

    def _append(self, event: dict[str, Any]) -> None:
        self._journal.append({**event, "time": time.time()})
        if self._tracker:
            self._tracker.wake()
