"""Data that all trials share through Ray's object store: the windows, transformed once per preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from fraud.thresholds import grid
from fraud.thresholds.grid import Grid
from fraud.thresholds.selection import ThresholdConfig
from fraud.training import folds, label_free
from fraud.training.config import TrainConfig
from fraud.training.fitting import Fold
from fraud.training.folds import Matrices
from tuning.record.journal import Detector
from tuning.space.definition import Space

OBJECTIVE = "average_precision"


@dataclass(frozen=True)
class Task:
    """The data of one fold that a trial is fitted and judged on.

    matrices: the fold under the trial's preprocessing. x_judged: float32 (n_judged, n_inputs), labels: int8
    (n_judged,): the validation rows, or without labels also artificial outliers, labelled 1 against 0.
    """

    matrices: Matrices
    x_judged: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Shared:
    """Data and settings that every trial reads. tasks: {key of a preprocessing: one reference to a Task per fold}.

    days: length of the newest validation window, None without times. amounts: {column: float64 (n_validation,)} of the
    newest fold, for policies that count a missed fraud's amount. has_labels: whether real labels judge the trials.
    """

    base: TrainConfig
    space: Space
    tasks: Mapping[str, Sequence[ray.ObjectRef]]
    days: float | None
    amounts: Mapping[str, np.ndarray]
    has_labels: bool
    folder: str
    device: str
    threads: int

    def amounts_of(self, config: ThresholdConfig) -> np.ndarray | None:
        """The amounts that a threshold policy asks for."""
        return self.amounts[config.amount_column] if config.amount_column else None

    def judge_thresholds(self, scores: np.ndarray, labels: np.ndarray | None) -> Grid:
        """Every threshold combination of the space on scores of the newest validation window, float64 (n_rows,)."""
        amounts = next((self.amounts_of(config) for config in self.space.thresholds if config.amount_column), None)
        return grid.evaluate(scores, labels, self.space.thresholds, self.space.judge, days=self.days, amounts=amounts)


def key_of(config: TrainConfig) -> str:
    """Name of a preprocessing; equal settings have equal names."""
    return json.dumps(TrainConfig.to_dict(config)["features"], sort_keys=True)


def preprocessings(space: Space, base: TrainConfig, detectors: Sequence[Detector]) -> list[TrainConfig]:
    """One configuration for each preprocessing that trials can ask for, that of the base configuration first."""
    chosen: dict[str, TrainConfig] = {key_of(base): base}
    for detector in detectors:
        for settings in space.preprocessings(detector):
            config = space.configure(base, settings)
            chosen.setdefault(key_of(config), config)
    return list(chosen.values())


def has_frauds(windows: Sequence[Fold]) -> bool:
    """Whether every fold's validation window holds labelled frauds and labelled legitimate rows."""
    labels = [fold.validation_labels for fold in windows]
    return all(known is not None and (known == 1).any() and (known == 0).any() for known in labels)


def put_tasks(windows: Sequence[Fold], configs: Sequence[TrainConfig]) -> dict[str, list[ray.ObjectRef]]:
    """Put every fold into the object store once for each preprocessing; trials read it without a copy."""
    judged_by_labels = has_frauds(windows)
    return {key_of(config): [ray.put(_task(fold, config, judged_by_labels)) for fold in windows] for config in configs}


def _task(fold: Fold, config: TrainConfig, judged_by_labels: bool) -> Task:
    matrices = folds.matrices(fold, config)
    if judged_by_labels and matrices.labels is not None:
        return Task(matrices, matrices.x_validation, matrices.labels)
    return Task(matrices, *label_free.synthetic_outliers(matrices.x_fit, matrices.x_validation, config.seed))


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as short text: last part of each name, and value."""
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {_short(value)}" for name, value in settings.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
