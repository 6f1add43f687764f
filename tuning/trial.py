"""One trial: an actor that fits one detector rung by rung, judges it and reports."""

from __future__ import annotations

import dataclasses
import os
import resource
import socket
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from fraud import calibration, threshold_grid
from fraud.config import TrainConfig
from tuning.fits import Candidate, Fit, ForestFit, NetworkFit
from tuning.shared import Shared, Task, key_of

STATE, SCORES = "state.pt", "scores.npz"
# Candidates whose scores are kept for the pairing.
KEPT = 3
# A long fit keeps its state and is heard of this often.
SECONDS_A_STEP = 5.0
REDUCTION = 3


class DetectorTrial(tune.Trainable):
    """Fits a forest or an autoencoder with one set of settings. Its process goes from trial to trial.

    A mistake inside a trial (memory, an error that is no longer a number) ends that trial with its text; when the
    process dies, Tune starts the trial again and it goes on from the state it kept.
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
        return True

    def step(self) -> dict[str, Any]:
        """Work up to the next rung, or a few seconds; whatever goes wrong is this trial's result."""
        began = time.perf_counter()
        told: dict[str, Any] = {"worker": f"{socket.gethostname()}/{os.getpid()}"}
        try:
            if self._fit is None:
                self._begin()
            assert self._fit is not None
            found = self._fit.advance(SECONDS_A_STEP)
            if found is not None:
                self._candidates += found
            told |= {"step": self._fit.step, "epochs": self._fit.epochs, "reason": self._fit.reason}
            told |= {"done": self._fit.is_finished}
            if found is not None:
                told["objective"] = max(candidate.objective for candidate in found)
                told["result"] = self._result(began)
            self._keep(is_rung=found is not None)
        except Exception as error:  # noqa: BLE001 - a trial may fail in any way, and the sweep goes on
            told |= {"done": True, "failed": _in_words(error)}
            self._fit = None
        self._seconds += time.perf_counter() - began
        return told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Not Tune's task: `_keep` writes what a trial goes on from, and it outlives the sweep's driver."""

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
        self._restore(self._folder())

    def _result(self, began: float) -> dict[str, Any]:
        """What the trial would end with if it ended now."""
        assert self._fit is not None
        best = max(range(len(self._candidates)), key=lambda place: self._candidates[place].objective)
        chosen = self._candidates[best]
        grid = self._thresholds(chosen) if chosen.scores is not None and self._shared.has_labels else self._grid
        self._grid = grid
        thresholds = grid["combinations"] if grid else 0
        is_forest = self._detector == "forest"
        return {
            "objective": chosen.objective,
            "scoring_cost": chosen.scoring_cost,
            "seconds": self._seconds + time.perf_counter() - began,
            "fits": len(self._tasks),
            "epochs": None if is_forest else self._fit.step,
            "trees": self._fit.step if is_forest else None,
            "candidates": [candidate.to_dict() for candidate in self._candidates],
            "best": best,
            "thresholds": grid,
            "combinations": len(self._candidates) * max(1, thresholds),
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    _grid: dict[str, Any] | None = None

    def _thresholds(self, chosen: Candidate) -> dict[str, Any]:
        """Every threshold combination of the space on this detector's own scores: no fit, milliseconds."""
        assert chosen.scores is not None
        shared, task = self._shared, self._tasks[0]
        tail = calibration.fit_tail(chosen.scores[0][task.labels != 1])
        scores = calibration.to_score(tail(chosen.scores[0]))
        amounts = next((shared.amounts_of(config) for config in shared.space.thresholds if config.amount_column), None)
        grid = threshold_grid.evaluate(
            scores, task.labels, shared.space.thresholds, shared.space.judge, days=shared.days, amounts=amounts
        )
        best = None if grid.best is None else grid.points[grid.best].to_dict()
        if best:
            best = {"policy": best["policy"], "settings": best["setting"], "judged": best["judged"]}
        return {"combinations": len(grid.points), "seconds": grid.seconds, "best": best}

    def _folder(self) -> Path:
        folder = Path(self._shared.folder) / f"{self._number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _keep(self, *, is_rung: bool) -> None:
        """Keep what the trial goes on from after a kill and, at a rung, the scores of its best candidates."""
        import torch

        assert self._fit is not None
        folder = self._folder()
        if is_rung:
            best = sorted(self._candidates, key=lambda candidate: -candidate.objective)[:KEPT]
            self._candidates = [
                candidate if candidate in best else dataclasses.replace(candidate, scores=None)
                for candidate in self._candidates
            ]
            kept = {
                f"{self._candidates.index(candidate)}.{fold}": scores
                for candidate in best
                for fold, scores in enumerate(candidate.scores or [])
            }
            with _atomic(folder / SCORES) as draft, draft.open("wb") as file:
                np.savez(file, **kept)  # type: ignore[arg-type]
        if state := self._fit.state():
            told = [candidate.to_dict() for candidate in self._candidates]
            with _atomic(folder / STATE) as draft:
                torch.save({"fit": state, "candidates": told, "seconds": self._seconds}, draft)
