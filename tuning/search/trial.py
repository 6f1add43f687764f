"""One trial: an actor that fits one detector rung by rung, judges it and reports the result."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from fraud.detectors import calibration
from fraud.errors import FraudError
from tuning.search.checkpoints import best_with_scores, restore, save_scores, save_state
from tuning.search.fits import Candidate, Fit, ForestFit, NetworkFit
from tuning.search.shared import Shared, Task, key_of

# A long fit saves its state and reports this often.
SECONDS_A_STEP = 5.0
REDUCTION = 3


class DetectorTrial(tune.Trainable):
    """Fits a forest or an autoencoder with one set of settings. Its process goes from trial to trial.

    An error inside a trial (out of memory, a loss of NaN) ends that trial with the error's text. When its
    process dies, Tune restarts the trial and it resumes from its checkpoint.
    """

    def setup(self, config: dict[str, Any], shared: Shared) -> None:
        """config: {"number", "detector", "params"}."""
        self._shared = shared
        _pin_threads(shared.threads)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        self._number: int = new_config["number"]
        self._detector: str = new_config["detector"]
        self._params: dict[str, Any] = new_config["params"]
        self._fit: Fit | None = None
        self._candidates: list[Candidate] = []
        self._seconds = 0.0
        self._grid: dict[str, Any] | None = None  # thresholds of `_grid_candidate`
        self._grid_candidate: Candidate | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Work up to the next rung, or a few seconds. Any error becomes this trial's result."""
        began = time.perf_counter()
        report: dict[str, Any] = {"worker": f"{socket.gethostname()}/{os.getpid()}"}
        try:
            if self._fit is None:
                self._begin()
            assert self._fit is not None
            candidates = [] if self._fit.is_finished else self._fit.advance(SECONDS_A_STEP)
            if candidates is not None:
                self._candidates = best_with_scores([*self._candidates, *candidates])
            report |= {"step": self._fit.step, "epochs": self._fit.epochs, "reason": self._fit.reason}
            report |= {"done": self._fit.is_finished}
            if candidates is not None:
                report["result"] = self._result(self._seconds + time.perf_counter() - began)
                report["objective"] = report["result"]["objective"]
                save_scores(self._folder, self._candidates)
            if state := self._fit.state():
                save_state(self._folder, state, self._candidates, self._seconds + time.perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - whatever fails in a trial, the sweep continues
            report |= {"done": True, "failed": _in_words(error)}
            self._fit = None
        self._seconds += time.perf_counter() - began
        return report

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Does nothing: `save_state` writes checkpoints that outlive the sweep's driver."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """See `save_checkpoint`."""

    def _begin(self) -> None:
        shared, space = self._shared, self._shared.space
        config = space.configure(shared.base, self._params) if self._params else shared.base
        self._tasks: list[Task] = ray.get(list(shared.tasks[key_of(config)]))
        if self._detector == "forest":
            sizes = space.forest_sizes if self._params else (config.forest.n_estimators,)
            self._fit = ForestFit(self._tasks, config, sizes)
        else:
            chosen = config.autoencoder
            own = {"autoencoder.score": chosen.score, "autoencoder.components": chosen.components}
            kinds = space.score_kinds if self._params else (own,)
            rungs = rungs_of(chosen.epochs) if self._params else (chosen.epochs,)
            self._fit = NetworkFit(self._tasks, config, rungs, kinds, shared.device)
        self._restore()

    def _result(self, seconds: float) -> dict[str, Any]:
        """The trial's result so far."""
        assert self._fit is not None
        best = max(range(len(self._candidates)), key=lambda index: self._candidates[index].objective)
        chosen = self._candidates[best]
        if chosen.scores is not None and self._shared.has_labels and chosen is not self._grid_candidate:
            self._grid, self._grid_candidate = self._thresholds(chosen), chosen
        thresholds = self._grid["combinations"] if self._grid else 0
        is_forest = self._detector == "forest"
        return {
            "objective": chosen.objective,
            "scoring_cost": chosen.scoring_cost,
            "seconds": seconds,
            "fits": len(self._tasks),
            "epochs": None if is_forest else self._fit.step,
            "trees": self._fit.step if is_forest else None,
            "candidates": [candidate.to_dict() for candidate in self._candidates],
            "best": best,
            "thresholds": self._grid,
            "combinations": len(self._candidates) * max(1, thresholds),
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    def _thresholds(self, chosen: Candidate) -> dict[str, Any]:
        """Every threshold combination of the space on this detector's own scores: no fit, milliseconds."""
        assert chosen.scores is not None
        shared, task = self._shared, self._tasks[0]
        tail = calibration.fit_tail(chosen.scores[0][task.labels != 1])
        scores = calibration.to_score(tail(chosen.scores[0]))
        grid = shared.judge_thresholds(scores, task.labels)
        best = None if grid.best is None else grid.points[grid.best].to_dict()
        if best:
            best = {"policy": best["policy"], "settings": best["setting"], "judged": best["judged"]}
        return {"combinations": len(grid.points), "seconds": grid.seconds, "best": best}

    def _restore(self) -> None:
        """Resume from the checkpoint of an earlier process of this trial."""
        assert self._fit is not None
        checkpoint = restore(self._folder)
        if checkpoint is not None:
            state, self._candidates, self._seconds = checkpoint
            self._fit.restore(state)

    @property
    def _folder(self) -> Path:
        folder = Path(self._shared.folder) / f"{self._number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def rungs_of(epochs: int) -> tuple[int, ...]:
    """Epochs after which a network is judged: the maximum, and thirds of it down to two or more."""
    rungs = [epochs]
    while rungs[0] // REDUCTION >= 2:
        rungs.insert(0, rungs[0] // REDUCTION)
    return tuple(rungs)


def _in_words(error: Exception) -> str:
    line = " ".join(str(error).split())[:400]
    return line if isinstance(error, FraudError) else f"{type(error).__name__}: {line}"


def _pin_threads(threads: int) -> None:
    """Use no more threads than the trial's share of the CPUs."""
    import threadpoolctl
    import torch

    torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)
