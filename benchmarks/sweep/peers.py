"""Other searches over the same fits, each in its own process: `python -m benchmarks.sweep.peers optuna ...`.

optuna: Optuna's ask-and-tell in this process, the fits in joblib workers (loky).
optuna_usual: the same with the common implementation of the fits.
sklearn: RandomizedSearchCV with an estimator around the fits, one predefined split.
All read the data once, with the code of a sweep; joblib shares it with the workers, memory-mapped.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from scipy.stats import loguniform, uniform
from sklearn.base import BaseEstimator
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV
from torch.utils.data import DataLoader, TensorDataset

from fraud.cli import run_command
from fraud.data import tables
from fraud.detectors import autoencoder, autoencoder_score, forest
from fraud.metrics import measures
from fraud.schema import Schema
from fraud.training import fitting, folds
from fraud.training.config import TrainConfig
from fraud.training.folds import Matrices

# Search space: settings that do not change the cost of a fit. {detector: {setting: (low, high, is_log)}}.
SEARCHED: dict[str, dict[str, tuple[float, float, bool]]] = {
    "forest": {"max_features": (0.8, 1.0, False)},
    "autoencoder": {"lr": (5e-4, 5e-3, True), "weight_decay": (1e-6, 1e-4, True)},
}
STARTUP_TRIALS = 6

Trial = Callable[[int, str, Matrices, TrainConfig], tuple[int, float, float, int]]


def with_settings(config: TrainConfig, detector: str, settings: Mapping[str, float]) -> TrainConfig:
    """`config` with some settings of one detector replaced."""
    return dataclasses.replace(config, **{detector: dataclasses.replace(getattr(config, detector), **settings)})


def fit_detector(detector: str, x_fit: np.ndarray, x_quiet: np.ndarray, config: TrainConfig) -> Any:
    """Fit one forest or autoencoder; returns a model with `score`."""
    torch.set_num_threads(1)
    if detector == "forest":
        return forest.fit(x_fit, config.forest, config.seed)
    return fitting.fit_autoencoder(x_fit, x_quiet, config)[0]


def fit_and_judge(number: int, detector: str, matrices: Matrices, config: TrainConfig) -> tuple[int, float, float, int]:
    """Run one trial; returns its number, objective, seconds and process id."""
    began = time.perf_counter()
    model = fit_detector(detector, matrices.x_trimmed, matrices.x_quiet, config)
    assert matrices.labels is not None
    value = measures.average_precision(matrices.labels, model.score(matrices.x_validation))
    return number, value, time.perf_counter() - began, os.getpid()


def usual_fit_and_judge(
    number: int, detector: str, matrices: Matrices, config: TrainConfig
) -> tuple[int, float, float, int]:
    """The same trial as commonly written: scikit-learn's scoring, a DataLoader, the same network and epochs."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    if detector == "forest":
        settings = {name: getattr(config.forest, name) for name in ("n_estimators", "max_samples", "max_features")}
        trees = IsolationForest(**settings, random_state=config.seed).fit(matrices.x_trimmed)
        scores = -trees.score_samples(matrices.x_validation)
    else:
        scores = _usual_network(matrices, config).score(matrices.x_validation)
    assert matrices.labels is not None
    return number, measures.average_precision(matrices.labels, scores), time.perf_counter() - began, os.getpid()


def _usual_network(matrices: Matrices, config: TrainConfig) -> autoencoder_score.Autoencoder:
    """The training loop of most tutorials, with our noise."""
    settings = config.autoencoder
    torch.manual_seed(config.seed)
    module = autoencoder.build(matrices.x_trimmed.shape[1], settings)
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    rows = TensorDataset(torch.tensor(matrices.x_trimmed))
    quiet = torch.tensor(matrices.x_quiet)
    best, weights = float("inf"), {}
    for _ in range(settings.epochs):
        module.train()
        for (clean,) in DataLoader(rows, batch_size=settings.batch_size, shuffle=True):
            loss = torch.nn.functional.mse_loss(module(clean + settings.noise * torch.randn_like(clean)), clean)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        module.eval()
        with torch.no_grad():
            error = float(torch.nn.functional.mse_loss(module(quiet), quiet))
        if error < best:
            best, weights = error, {name: value.clone() for name, value in module.state_dict().items()}
    return autoencoder_score.export(weights, matrices.x_trimmed, settings, config.seed)


def optuna_alone(
    matrices: Matrices, config: TrainConfig, trials: int, at_once: int, trial: Trial = fit_and_judge
) -> list[dict[str, Any]]:
    """Search both detectors alternately, one study each, with the sampler of a sweep. trial: runs one trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = functools.partial(
        optuna.samplers.TPESampler, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
    )
    studies = {d: optuna.create_study(direction="maximize", sampler=sampler(seed=config.seed)) for d in SEARCHED}
    spaces: dict[str, dict[str, BaseDistribution]] = {
        detector: {name: FloatDistribution(low, high, log=is_log) for name, (low, high, is_log) in searched.items()}
        for detector, searched in SEARCHED.items()
    }
    asked: dict[int, tuple[str, optuna.trial.Trial]] = {}

    def orders() -> Iterator[Any]:
        for number in range(trials):
            detector = list(SEARCHED)[number % len(SEARCHED)]
            suggested = studies[detector].ask(spaces[detector])
            asked[number] = detector, suggested
            chosen = with_settings(config, detector, suggested.params)
            yield joblib.delayed(trial)(number, detector, matrices, chosen)

    records = []
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(
            n_jobs=at_once, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1
        )  # fmt: skip
        for number, value, seconds, worker in parallel(orders()):
            detector, suggested = asked.pop(number)
            studies[detector].tell(suggested, value)
            records.append(_record(detector, value, seconds, worker, time.time()))
    return records


class DetectorEstimator(BaseEstimator):
    """scikit-learn estimator around one fit."""

    def __init__(
        self, detector: str = "forest", config: TrainConfig | None = None, max_features: float = 1.0,
        lr: float = 1e-3, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        self.detector, self.config, self.max_features, self.lr = detector, config, max_features, lr
        self.weight_decay = weight_decay

    def fit(self, X: np.ndarray, y: np.ndarray, x_quiet: np.ndarray) -> DetectorEstimator:
        """X: float32 (n_rows, n_inputs), rows not labelled as fraud. x_quiet: rows for early stopping."""
        assert self.config is not None
        settings = {name: getattr(self, name) for name in SEARCHED[self.detector]}
        self.fitted_ = fit_detector(self.detector, X, x_quiet, with_settings(self.config, self.detector, settings))
        return self


def judge(estimator: DetectorEstimator, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Scorer: average precision, plus the worker's process id and the end time."""
    value = measures.average_precision(y, estimator.fitted_.score(X))
    return {"value": value, "worker": float(os.getpid()), "ended": time.time()}


def randomized_search(matrices: Matrices, config: TrainConfig, trials: int, at_once: int) -> list[dict[str, Any]]:
    """Run one search per detector, in sequence: their settings differ."""
    assert matrices.labels is not None
    n_fit, n_judged = len(matrices.x_trimmed), len(matrices.x_validation)
    X = np.concatenate([matrices.x_trimmed, matrices.x_validation])
    y = np.concatenate([np.zeros(n_fit, dtype=np.int8), matrices.labels])
    split = PredefinedSplit(np.repeat([-1, 0], [n_fit, n_judged]))
    records = []
    for index, (detector, searched) in enumerate(SEARCHED.items()):
        drawn = {
            name: loguniform(low, high) if is_log else uniform(low, high - low)
            for name, (low, high, is_log) in searched.items()
        }
        search = RandomizedSearchCV(
            DetectorEstimator(detector, config), drawn, n_iter=-(-(trials - index) // len(SEARCHED)), scoring=judge,
            cv=split, n_jobs=at_once, refit=False, random_state=config.seed, error_score="raise",
        )  # fmt: skip
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            results = search.fit(X, y, x_quiet=matrices.x_quiet).cv_results_
        seconds = results["mean_fit_time"] + results["mean_score_time"]
        parts = results["mean_test_value"], seconds, results["mean_test_worker"], results["mean_test_ended"]
        records += [_record(detector, *map(float, one)) for one in zip(*parts, strict=True)]
    return records


PEERS = {
    "optuna": optuna_alone,
    "optuna_usual": functools.partial(optuna_alone, trial=usual_fit_and_judge),
    "sklearn": randomized_search,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Read the data, run the search, write the trials as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep.peers", description=__doc__)
    parser.add_argument("peer", choices=list(PEERS))
    for name in ("--data", "--schema", "--config", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    arguments = parser.parse_args(argv)
    schema, config = Schema.load(arguments.schema), TrainConfig.load(arguments.config)
    (window,) = folds.prepare(tables.load(arguments.data, schema, need_label=True).rows, schema, config)
    matrices = folds.matrices(window, config)
    opened = time.time()
    trials = PEERS[arguments.peer](matrices, config, arguments.trials, arguments.at_once)
    Path(arguments.out).write_text(json.dumps({"opened": opened, "trials": trials, "ready": time.time()}))
    return 0


def _record(detector: str, objective: float, seconds: float, worker: float, ended: float) -> dict[str, Any]:
    return {
        "detector": detector, "objective": objective, "seconds": seconds, "worker": int(worker), "ended": ended,
    }  # fmt: skip


if __name__ == "__main__":
    run_command(main, uses_stack=False)
