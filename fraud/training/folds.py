"""Training and validation data of search trials: folds before the test window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud.data.splits import prequential
from fraud.detectors import features, forest
from fraud.detectors.features import FeatureMap
from fraud.history.replay import replay
from fraud.schema import Schema
from fraud.training import fitting
from fraud.training.config import TrainConfig
from fraud.training.fitting import Fold


@dataclass(frozen=True)
class Matrices:
    """Detector inputs of one fold.

    x_fit: float32 (n_fit, n_inputs), training rows not known as fraud. x_trimmed: those for the autoencoder.
    x_validation: float32 (n_validation, n_inputs), all validation rows. labels: int8 (n_validation,) or None.
    """

    x_fit: np.ndarray
    x_trimmed: np.ndarray
    x_validation: np.ndarray
    labels: np.ndarray | None

    @property
    def x_quiet(self) -> np.ndarray:
        """Validation rows not known as fraud, for early stopping."""
        return self.x_validation if self.labels is None else self.x_validation[self.labels != 1]


def prepare(rows: pd.DataFrame, schema: Schema, config: TrainConfig, folds: int = 1) -> list[Fold]:
    """Folds, newest first: the windows of the split, then the same moved back by the length of the test window.

    rows: canonical frame. The history is computed once. Test rows are not returned. Raises DataError or ConfigError as
    `fitting.prepare`, naming the fold.
    """
    times, labels = fitting.times_of(rows, schema), fitting.labels_of(rows, schema)
    splits = prequential(times, fitting.split_config(schema, config), folds, n_rows=len(rows))
    history, _ = replay(rows, schema)
    prepared = []
    for split in splits:
        normal, _ = fitting.normal_rows(split, labels, schema)
        categories = features.learn_categories(rows.iloc[normal], schema)
        train, validation = (
            features.raw_features(rows.iloc[part], schema, categories, history[part])
            for part in (split.train, split.validation)
        )
        known = (None, None) if labels is None else (labels[split.train], labels[split.validation])
        prepared.append(Fold(schema, categories, train, validation, *known))
    return prepared


def fit_features(fold: Fold, config: TrainConfig) -> FeatureMap:
    """Fit `config.features` on the fold's normal training rows."""
    return features.fit(fold.raw_normal, fold.schema, fold.categories, config.features)


def matrices(fold: Fold, config: TrainConfig) -> Matrices:
    """Transform a fold by `config.features`.

    Without labels, x_trimmed lacks the rows that `config.forest` isolates best, as in a training.
    """
    fitted = fit_features(fold, config)
    x_fit = fitted.transform(fold.raw_normal)
    x_trimmed = x_fit
    if fold.train_labels is None or not (fold.train_labels >= 0).any():
        x_trimmed = fitting.trimmed(x_fit, forest.fit(x_fit, config.forest, config.seed), config)
    return Matrices(x_fit, x_trimmed, fitted.transform(fold.raw_validation), fold.validation_labels)
