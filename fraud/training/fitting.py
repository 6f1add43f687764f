"""The steps of a training: prepare matrices, fit the detectors, assemble, evaluate.

`ray_jobs.train` runs the fits on Ray and the rest in its driver; `fit_locally` runs all in this process. Both give the
same detector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fraud.data.splits import Split, SplitConfig, Window, split_by_time
from fraud.detectors import autoencoder, autoencoder_score, calibration, features, forest, head, registry
from fraud.detectors.base import Fitted
from fraud.detectors.features import FeatureMap
from fraud.detectors.head import Head, HeadConfig
from fraud.errors import ConfigError, DataError
from fraud.history.replay import replay
from fraud.history.state import HistoryState
from fraud.metrics import measures
from fraud.schema import Schema
from fraud.scoring.detector import JOINED, LABEL_LIGHT, Detector
from fraud.scoring.engine import Engine
from fraud.thresholds import selection
from fraud.thresholds.selection import ThresholdConfig
from fraud.training.config import TrainConfig

logger = logging.getLogger(__name__)

# Fits a head: (inputs, labels, settings, seed) -> Head.
HeadFit = Callable[[np.ndarray, np.ndarray, HeadConfig, int], Head]


@dataclass(frozen=True)
class Prepared:
    """Matrices for fitting and evaluation.

    raw: float64 (n_rows, n_raw) of all rows; labels: int8 (n_rows,) or None; x_fit: float32 (n_fit, n_inputs) training
    rows not known as fraud; x_validation: float32, validation rows not known as fraud, for early stopping.
    """

    schema: Schema
    rows: pd.DataFrame
    raw: np.ndarray
    labels: np.ndarray | None
    split: Split
    windows: list[Window]
    features: FeatureMap
    history: tuple[HistoryState, ...]
    x_fit: np.ndarray
    x_validation: np.ndarray


@dataclass(frozen=True)
class Fold:
    """All rows of one training and one validation window, before the test window.

    raw_train, raw_validation: float64 (n_rows, n_raw); train_labels, validation_labels: int8 (n_rows,), or both None;
    categories: known levels of each categorical column, from the normal training rows.
    """

    schema: Schema
    categories: dict[str, tuple[str, ...]]
    raw_train: np.ndarray
    raw_validation: np.ndarray
    train_labels: np.ndarray | None
    validation_labels: np.ndarray | None

    @classmethod
    def of(cls, prepared: Prepared) -> Fold:
        labels, split = prepared.labels, prepared.split
        known = (None, None) if labels is None else (labels[split.train], labels[split.validation])
        raw = prepared.raw
        return cls(prepared.schema, prepared.features.categories, raw[split.train], raw[split.validation], *known)

    @property
    def raw_normal(self) -> np.ndarray:
        """Training rows not known as fraud."""
        return self.raw_train if self.train_labels is None else self.raw_train[self.train_labels != 1]


@dataclass(frozen=True)
class Evaluation:
    """Results on the test window.

    scores: {name: float64 (n_test,)}, "joined" first, then the rest of `Detector.evidence_names`; metrics: {name:
    {metric: value}}; labels: int8 (n_test,) or None; intervals: {name: (low, high)} bootstrap interval of average
    precision, 95 %. validation_scores: float64 (n_validation, n_scores), from Engine.score_raw before any refit.
    """

    metrics: dict[str, dict[str, float]]
    intervals: dict[str, tuple[float, float]]
    scores: dict[str, np.ndarray]
    labels: np.ndarray | None
    validation_scores: np.ndarray
    validation_labels: np.ndarray | None
    warnings: tuple[str, ...]


def prepare(rows: pd.DataFrame, schema: Schema, config: TrainConfig) -> Prepared:
    """Split canonical rows by time, compute raw features and history, fit the features on normal training rows.

    Raises DataError if a window is empty, or if training or validation have no normal row.
    """
    times = times_of(rows, schema)
    split = split_by_time(times, split_config(schema, config), len(rows))
    labels = labels_of(rows, schema)
    history, states = replay(rows, schema)
    normal, quiet = normal_rows(split, labels, schema)
    categories = features.learn_categories(rows.iloc[normal], schema)
    raw = features.raw_features(rows, schema, categories, history)
    fitted = features.fit(raw[normal], schema, categories, config.features)
    return Prepared(
        schema=schema, rows=rows, raw=raw, labels=labels, split=split, windows=split.windows(times, labels),
        features=fitted,
        history=states, x_fit=fitted.transform(raw[normal]), x_validation=fitted.transform(raw[quiet]),
    )  # fmt: skip


def times_of(rows: pd.DataFrame, schema: Schema) -> np.ndarray | None:
    """Times of canonical rows, datetime64[us] (n_rows,); None without a timestamp."""
    return rows[schema.timestamp.name].to_numpy(dtype="datetime64[us]") if schema.timestamp else None


def labels_of(rows: pd.DataFrame, schema: Schema) -> np.ndarray | None:
    """Labels of canonical rows, int8 (n_rows,); None if no row has one."""
    if schema.label is None or schema.label.name not in rows:
        return None
    labels = rows[schema.label.name].to_numpy(dtype=np.int8)
    return labels if (labels >= 0).any() else None


def split_config(schema: Schema, config: TrainConfig) -> SplitConfig:
    """The configured split, with a delay of at least the schema's label delay."""
    return replace(config.split, delay_days=max(config.split.delay_days, schema.label_delay_days))


def normal_rows(split: Split, labels: np.ndarray | None, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Rows not known as fraud in the training and validation window. Raises DataError if there are none."""
    normal = split.train if labels is None else split.train[labels[split.train] != 1]
    if len(normal) == 0:
        raise DataError(
            f"all {len(split.train)} training rows are labelled fraud: the detectors learn from normal rows; "
            f"check the label column {schema.label.name if schema.label else ''!r}"
        )
    quiet = split.validation if labels is None else split.validation[labels[split.validation] != 1]
    if len(quiet) == 0:
        raise DataError(
            f"all {len(split.validation)} validation rows are labelled fraud: stopping and calibration need normal "
            "rows there; move or enlarge split.validation"
        )
    return normal, quiet


def trim(prepared: Prepared, fitted: forest.Forest, config: TrainConfig) -> np.ndarray:
    """Rows to fit the autoencoder on: x_fit, without its most isolated share if there are no labels."""
    if prepared.labels is not None and (prepared.labels[prepared.split.train] >= 0).any():
        return prepared.x_fit
    return trimmed(prepared.x_fit, fitted, config)


def trimmed(x_fit: np.ndarray, fitted: forest.Forest, config: TrainConfig) -> np.ndarray:
    """x_fit, float32 (n_rows, n_inputs), without the share forest.contamination that `fitted` isolates best.

    Without labels some of these rows are fraud, and the network would learn them.
    """
    scores = fitted.score(x_fit)
    return x_fit[scores <= np.quantile(scores, 1.0 - config.forest.contamination)]


def fit_autoencoder(
    x_fit: np.ndarray,
    x_validation: np.ndarray,
    config: TrainConfig,
    on_epoch: Callable[[autoencoder.Epoch], None] | None = None,
    device: str = "cpu",
) -> tuple[autoencoder_score.Autoencoder, list[autoencoder.Epoch]]:
    """Train in this process until early stopping. x_fit, x_validation: float32 (n, n_inputs)."""
    training = autoencoder.Training(x_fit.shape[1], config.autoencoder, seed=config.seed, device=device)
    x, v = autoencoder.as_tensor(x_fit, device), autoencoder.as_tensor(x_validation, device)
    while not training.is_finished:
        epoch = training.run_epoch(x, v)
        if on_epoch:
            on_epoch(epoch)
    return autoencoder_score.export(training.best_weights, x_fit, config.autoencoder, config.seed), training.epochs


def assemble(
    prepared: Prepared,
    fitted_forest: forest.Forest,
    fitted_autoencoder: autoencoder_score.Autoencoder,
    config: TrainConfig,
    fit_head: HeadFit = head.fit,
) -> tuple[Detector, Evaluation]:
    """Calibrate, fit the head if there are enough labels, choose the threshold on validation, evaluate on test.

    fit_head: fits the head. The test window does not influence the detector: it is scored once, at the end.
    """
    split, labels = prepared.split, prepared.labels
    fold = Fold.of(prepared)
    undecided, refitted, warnings = join(
        fold, prepared.features, fitted_forest, fitted_autoencoder, config, fit_head, prepared.history
    )
    y_validation = fold.validation_labels
    validation_scores = Engine(undecided).score_raw(fold.raw_validation)
    threshold, more = _choose_threshold(prepared, validation_scores[:, 0], y_validation, config)
    warnings += more
    components = undecided.components if refitted is None else (*undecided.without_labels, refitted)
    detector = replace(undecided, threshold=threshold, components=components)

    test_scores = calibration.to_score(Engine(detector).evidence(prepared.raw[split.test]))
    *others, joined = zip(detector.evidence_names, test_scores.T, strict=True)
    names = dict([joined, *others])
    y_test = None if labels is None else labels[split.test]
    figures: dict[str, dict[str, float]] = {}
    intervals = {}
    if y_test is not None and (y_test == 1).any() and (y_test == 0).any():
        known = y_test >= 0
        for name, scores in names.items():
            figures[name] = measures.evaluate(y_test, scores, budget=config.alert_budget)
            intervals[name] = measures.bootstrap(
                "average_precision", y_test[known], scores[known], n=100, seed=config.seed
            )
        figures[JOINED] |= selection.measure(names[JOINED], y_test, threshold.value, config.threshold)
        if refitted is not None:
            gain = figures[JOINED]["average_precision"] - figures[LABEL_LIGHT]["average_precision"]
            figures["head"] |= {"weight": detector.calibration.head_weight, "average_precision_gained": gain}
    else:
        warnings = (
            *warnings,
            "the test window lacks labelled frauds or labelled normal rows: no metric is reported",
        )
    figures.setdefault(JOINED, {})["alert_rate"] = float(np.mean(threshold.decide(names[JOINED])))
    return detector, Evaluation(
        figures, intervals, names, y_test, validation_scores, y_validation, (*split.warnings, *warnings)
    )


def join(
    fold: Fold,
    fitted_features: FeatureMap,
    fitted_forest: forest.Forest,
    fitted_autoencoder: autoencoder_score.Autoencoder,
    config: TrainConfig,
    fit_head: HeadFit = head.fit,
    history: tuple[HistoryState, ...] = (),
) -> tuple[Detector, Head | None, tuple[str, ...]]:
    """Calibrate the detectors on the validation window and add the head of the configuration.

    Returns the detector, without a threshold, the refitted head to deploy instead of its own, and warnings. fit_head:
    fits the head. history: the detector's initial state.
    """
    components = (fitted_forest, fitted_autoencoder, *_fit_further(fold, fitted_features, fitted_forest, config))
    x = fitted_features.transform(fold.raw_validation)
    raw_scores = {component.name: component.score(x) for component in components}
    undecided = Detector(
        schema=fold.schema, features=fitted_features, history=history, components=components,
        calibration=calibration.fit(raw_scores, fold.validation_labels, config.forest_weight), threshold=_NO_THRESHOLD,
    )  # fmt: skip
    return _add_head(undecided, fold, config, fit_head)


def _fit_further(
    fold: Fold, fitted_features: FeatureMap, fitted_forest: forest.Forest, config: TrainConfig
) -> list[Fitted]:
    """Fit the extra detectors of the registry, on the autoencoder's training rows."""
    if not registry.extra_detectors():
        return []
    x_fit = fitted_features.transform(fold.raw_normal)
    if fold.train_labels is None or not (fold.train_labels >= 0).any():
        x_fit = trimmed(x_fit, fitted_forest, config)
    return [cls.fit(x_fit, config.seed) for cls in registry.extra_detectors()]


def fit_locally(rows: pd.DataFrame, schema: Schema, config: TrainConfig) -> tuple[Detector, Evaluation]:
    """Run a training in this process, without Ray. rows: canonical frame."""
    prepared = prepare(rows, schema, config)
    fitted_forest = forest.fit(prepared.x_fit, config.forest, config.seed)
    x_fit = trim(prepared, fitted_forest, config)
    fitted_autoencoder, _ = fit_autoencoder(x_fit, prepared.x_validation, config)
    return assemble(prepared, fitted_forest, fitted_autoencoder, config)


def _add_head(
    detector: Detector, fold: Fold, config: TrainConfig, fit_head: HeadFit
) -> tuple[Detector, Head | None, tuple[str, ...]]:
    """The detector with a head fitted on the training window, the head to deploy, and warnings.

    The first head is calibrated on the validation rows, which it has not seen. The head to deploy is fitted again, with
    the validation rows.
    """
    y_train, y_validation, settings = fold.train_labels, fold.validation_labels, config.head
    frauds = 0 if y_train is None else int((y_train == 1).sum())
    if not settings.is_used(frauds):
        few = settings.use == "auto" and frauds > 0
        reason = (
            f"{frauds:,} labelled frauds in the training window, fewer than head.min_frauds={settings.min_frauds}: "
        )
        return detector, None, (reason + "no supervised head is fitted",) if few else ()
    if y_train is None or y_validation is None or not frauds:
        raise DataError(
            "head.use='always' and no labelled fraud in the training window: use 'auto' or 'never', or give labels"
        )
    engine = Engine(detector)
    evidence = engine.evidence(fold.raw_validation)
    train = head.inputs(fold.raw_train, engine.evidence(fold.raw_train))
    validation = head.inputs(fold.raw_validation, evidence)
    fitted = fit_head(train, y_train, settings, config.seed)
    calibrated = calibration.fit_head(detector.calibration, evidence[:, -1], fitted.score(validation), y_validation)
    refitted = fitted
    if settings.refit:
        both = np.concatenate([train, validation]), np.concatenate([y_train, y_validation])
        refitted = fit_head(*both, settings, config.seed)
    return replace(detector, components=(*detector.components, fitted), calibration=calibrated), refitted, ()


_NO_THRESHOLD = selection.Threshold(
    value=float("inf"), policy="none", settings={}, window={}, achieved={}, interval=(float("inf"), float("inf"))
)


def _choose_threshold(
    prepared: Prepared, scores: np.ndarray, labels: np.ndarray | None, config: TrainConfig
) -> tuple[selection.Threshold, tuple[str, ...]]:
    window = next(w for w in prepared.windows if w.name == "validation")
    provenance = {"start": window.start, "end": window.end, "rows": window.rows, "frauds": window.frauds}
    policy = config.threshold
    warnings: tuple[str, ...] = ()
    if policy.policy != "alert_budget" and (labels is None or not (labels == 1).any()):
        warnings = (
            f"no labelled fraud in the validation window: threshold policy {policy.policy!r} replaced by an "
            f"alert budget of {config.alert_budget:.2%}",
        )
        policy = ThresholdConfig(policy="alert_budget", budget=config.alert_budget, contamination=policy.contamination)
    validation = prepared.rows.iloc[prepared.split.validation]
    amounts = None
    if policy.amount_column:
        if policy.amount_column not in validation:
            raise ConfigError(
                f"threshold.amount_column={policy.amount_column!r} is not a column of schema {prepared.schema.name!r}"
            )
        amounts = validation[policy.amount_column].to_numpy(dtype=np.float64)
    days = None
    if prepared.schema.timestamp:
        times = validation[prepared.schema.timestamp.name]
        days = max(float((times.max() - times.min()).total_seconds()) / 86_400.0, 1e-9)
    chosen = selection.choose(scores, labels, policy, window=provenance, days=days, amounts=amounts, seed=config.seed)
    return chosen, tuple(warnings)
