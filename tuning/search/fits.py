"""The two fits of a search, advanced rung by rung, and the candidates that each rung gives.

A forest grows by groups of trees and is judged at every size. A network is judged at every rung of epochs with every
kind of score. A training with a candidate's settings, seed and data gives the same detector.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fraud.detectors import autoencoder, autoencoder_score, forest
from fraud.detectors.forest import ForestConfig
from fraud.metrics import measures
from fraud.training.config import TrainConfig
from tuning.search.shared import Task


@dataclass(frozen=True)
class Candidate:
    """One detector that a fit gives. settings: dotted, beyond those that the fit was made with.

    by_fold: its objective in each fold; scoring_cost: multiply-adds and node visits per row. scores: float64
    (n_judged,) of each fold, higher is more suspicious; None when it was read from disk.
    """

    settings: dict[str, Any]
    by_fold: list[float]
    scoring_cost: float
    scores: list[np.ndarray] | None = None

    @property
    def objective(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.by_fold))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without the scores."""
        return {
            "settings": self.settings, "objective": self.objective, "by_fold": self.by_fold,
            "scoring_cost": self.scoring_cost,
        }  # fmt: skip


class Fit(Protocol):
    """A fit that a trial advances rung by rung."""

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Reports of the epochs since the last call; of all epochs after a restore; empty for a forest."""

    @property
    def step(self) -> int:
        """Trees or epochs so far."""

    @property
    def reason(self) -> str:
        """Why it finished; empty before."""

    @property
    def is_finished(self) -> bool:
        """Whether there is no rung left."""

    def advance(self, seconds: float) -> list[Candidate] | None:
        """Work up to the next rung and return its candidates, or for about `seconds` and return None."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs; tensors, numbers and texts only. Empty: the fit starts again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from `state()`."""


class ForestFit:
    """An IsolationForest that grows through `sizes`."""

    def __init__(self, tasks: Sequence[Task], config: TrainConfig, sizes: Sequence[int]) -> None:
        self._tasks, self._config, self._sizes = tasks, config, list(sizes)
        self._groups, self._normaliser = 0, 1.0
        self._paths = [np.zeros(len(task.x_judged)) for task in tasks]  # summed over the trees of complete groups
        self.step = 0
        self.epochs: list[dict[str, Any]] = []

    @property
    def is_finished(self) -> bool:
        """Whether the largest size is reached."""
        return self.step >= self._sizes[-1]

    @property
    def reason(self) -> str:
        """Why it finished."""
        return f"all {self.step} trees" if self.is_finished else ""

    def advance(self, seconds: float) -> list[Candidate] | None:
        """Grow to the next size, which takes only seconds: `seconds` is ignored."""
        size = next(size for size in self._sizes if size > self.step)
        config = dataclasses.replace(self._config.forest, n_estimators=size)
        groups, rest = divmod(size, forest.TREES_A_GROUP)
        scores = []
        for task, paths in zip(self._tasks, self._paths, strict=True):
            for group in range(self._groups, groups):
                paths += self._path_lengths(task, config, group)
            some = self._path_lengths(task, config, groups) if rest else 0.0
            scores.append(np.exp2(-(paths + some) / size / self._normaliser))
        self._groups, self.step = groups, size
        visits = float(np.mean(-np.log2(scores[0])) * size * self._normaliser)
        by_fold = [
            measures.average_precision(task.labels, of_fold) for task, of_fold in zip(self._tasks, scores, strict=True)
        ]
        return [Candidate({"forest.n_estimators": size}, by_fold, visits, scores)]

    def state(self) -> dict[str, Any]:
        """Empty: growing the trees again is faster than reading them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Does nothing, see `state`."""

    def _path_lengths(self, task: Task, config: ForestConfig, group: int) -> np.ndarray:
        """Path lengths of the judged rows summed over one group's trees, float64 (n_judged,)."""
        fitted = forest.fit_trees(task.matrices.x_fit, config, self._config.seed, group)
        self._normaliser = fitted.normaliser
        return -np.log2(fitted.score(task.x_judged)) * fitted.normaliser * len(fitted.roots)


class NetworkFit:
    """An autoencoder, one network a fold, that trains through `rungs` of epochs or until its error stops falling."""

    def __init__(
        self,
        tasks: Sequence[Task],
        config: TrainConfig,
        rungs: Sequence[int],
        kinds: Sequence[dict[str, Any]],
        device: str = "cpu",
    ) -> None:
        self._tasks, self._config, self._rungs, self._kinds = tasks, config, list(rungs), list(kinds)
        self._trainings = [
            autoencoder.Training(task.x_judged.shape[1], config.autoencoder, seed=config.seed, device=device)
            for task in tasks
        ]
        self._tensors = [
            (
                autoencoder.as_tensor(task.matrices.x_trimmed, device),
                autoencoder.as_tensor(task.matrices.x_quiet, device),
            )
            for task in tasks
        ]
        self._judged_at = 0
        self._lines: list[dict[str, Any]] = []  # one an epoch of the newest fold
        self._n_reported, self._is_restored = 0, False

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Epochs of the last call; after a restore all of them, because reports of the killed process may be lost."""
        return self._lines[self._n_reported :]

    @property
    def step(self) -> int:
        """Epochs so far, of the fold that is farthest."""
        return max(len(training.epochs) for training in self._trainings)

    @property
    def is_finished(self) -> bool:
        """Whether every network has stopped and was judged."""
        return all(training.is_finished for training in self._trainings) and self._judged_at == self.step

    @property
    def reason(self) -> str:
        """Why it finished."""
        if not self.is_finished:
            return ""
        if self.step >= self._config.autoencoder.epochs:
            return f"all {self.step} epochs"
        return f"validation error stopped falling after {self.step} epochs"

    def advance(self, seconds: float) -> list[Candidate] | None:
        """Train to the next rung, or for about `seconds`."""
        self._n_reported, self._is_restored = 0 if self._is_restored else len(self._lines), False
        began = time.perf_counter()
        rung = next(rung for rung in self._rungs if rung > self._judged_at)
        for fold, (training, (x, v)) in enumerate(zip(self._trainings, self._tensors, strict=True)):
            while not training.is_finished and len(training.epochs) < rung:
                if time.perf_counter() - began > seconds:
                    return None
                started = time.perf_counter()
                epoch = training.run_epoch(x, v)
                if fold == 0:
                    line = {"train_error": epoch.train_error, "validation_error": epoch.validation_error}
                    line |= {"seconds": time.perf_counter() - started, "time": time.time()}
                    self._lines.append({"epoch": epoch.number, **line})
        self._judged_at = self.step
        return self._judge(self._config.autoencoder.epochs if self.is_finished else rung)

    def state(self) -> dict[str, Any]:
        """Every network's training state."""
        states = [training.state_dict() for training in self._trainings]
        return {"folds": states, "judged_at": self._judged_at, "lines": self._lines}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume after the last saved epoch."""
        for training, state_of_fold in zip(self._trainings, state["folds"], strict=True):
            training.load_state_dict(state_of_fold)
        self._judged_at, self._lines = state["judged_at"], list(state["lines"])
        self._n_reported, self._is_restored = 0, True

    def _judge(self, epochs: int) -> list[Candidate]:
        candidates = []
        for kind in self._kinds:
            named = {name.removeprefix("autoencoder."): value for name, value in kind.items()}
            config = dataclasses.replace(self._config.autoencoder, **named)
            scores, by_fold = [], []
            for task, training in zip(self._tasks, self._trainings, strict=True):
                fitted = autoencoder_score.export(
                    training.best_weights, task.matrices.x_trimmed, config, self._config.seed
                )
                scores.append(fitted.score(task.x_judged))
                by_fold.append(measures.average_precision(task.labels, scores[-1]))
            cost = float(sum(a * b for a, b in zip(fitted.sizes[:-1], fitted.sizes[1:], strict=True)))
            cost += fitted.factors.size if config.score != "mse" else len(fitted.center)
            candidates.append(Candidate({"autoencoder.epochs": epochs, **kind}, by_fold, cost, scores))
        return candidates
