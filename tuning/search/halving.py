"""Early stopping: one asynchronous successive halving scheduler per detector.

Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020 (ASHA), as Ray Tune implements it.
Trees and epochs are different resources and the objectives differ, so each detector has its own scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tuning.record.journal import Trial


class HalvingByDetector(FIFOScheduler):
    """Stops a trial that is not among the best 1 in `reduction` of its detector at a rung.

    rungs: {detector: steps after which it reports an objective, ascending}. The sweep's base configuration
    (no params) always runs to the end. known: trials of an earlier driver, whose rungs still count.
    """

    def __init__(
        self, rungs: Mapping[str, tuple[int, ...]], reductions: Mapping[str, float], known: Iterable[Trial] = ()
    ) -> None:
        super().__init__()
        self._schedulers = {
            detector: ASHAScheduler(
                time_attr="step", metric="objective", mode="max", max_t=steps[-1], grace_period=steps[0],
                reduction_factor=reductions[detector],
            )
            for detector, steps in rungs.items()
        }  # fmt: skip
        self._reductions = dict(reductions)
        self.stopped: dict[int, str] = {}
        for trial in known:
            self._remember(trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Register a new trial."""
        if scheduler := self._of(trial):
            scheduler.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial continues or stops."""
        scheduler = self._of(trial)
        if scheduler is None or result.get("objective") is None:
            return str(TrialScheduler.CONTINUE)
        action = scheduler.on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP:
            share = self._reductions[trial.config["detector"]]
            unit = "trees" if trial.config["detector"] == "forest" else "epochs"
            self.stopped[trial.config["number"]] = (
                f"after {result['step']} {unit} not among the best 1 in {share:g} so far"
            )
        return str(action)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The trial finished; its last objective counts for the others."""
        if (scheduler := self._of(trial)) and result.get("objective") is not None:
            scheduler.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """The trial was removed before it ran."""
        if scheduler := self._of(trial):
            scheduler.on_trial_remove(tune_controller, trial)

    def _of(self, trial: Any) -> Any | None:
        return self._schedulers.get(trial.config["detector"]) if trial.config["params"] else None

    def _remember(self, trial: Trial) -> None:
        """Replay the rungs of an earlier driver's trial."""
        again = SimpleNamespace(
            trial_id=f"earlier-{trial.number}", config={"detector": trial.detector, "params": trial.params}
        )
        if (scheduler := self._of(again)) and trial.has_ended:
            scheduler.on_trial_add(None, again)
            for rung in trial.rungs:
                if rung["objective"] is not None:
                    scheduler.on_trial_result(None, again, {"step": rung["step"], "objective": rung["objective"]})
