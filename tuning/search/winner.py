"""Choose a sweep's winner: pair the best forests and autoencoders, fit the head, judge every threshold.

The result is a complete TrainConfig. `ray_jobs.train` with it on the same data trains the detector that was judged
here. The test window is not read.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml

from cluster import tasks
from fraud.data import tables
from fraud.detectors import autoencoder_score, calibration
from fraud.detectors.calibration import to_score
from fraud.errors import FraudError
from fraud.metrics import measures
from fraud.scoring.engine import Engine
from fraud.training import fitting, folds
from fraud.training.config import TrainConfig
from fraud.training.fitting import Fold
from tuning.record.journal import WINNER, Journal, Trial
from tuning.search.checkpoints import read_scores
from tuning.search.fits import Candidate, ForestFit
from tuning.search.shared import Shared, Task, key_of

logger = logging.getLogger(__name__)

# Every weight is tried on this many pairs, some milliseconds each.
MOST_PAIRS = 24
# Each of this many best autoencoders is paired with this many best forests, grown again on its preprocessing if needed.
FINALISTS = 3


@dataclass(frozen=True)
class Entry:
    """One candidate of one trial. config: what it was fitted with; scores: float64 (n_judged,) of each fold."""

    trial: int
    settings: dict[str, Any]
    objective: float
    config: TrainConfig
    scores: list[np.ndarray]

    @property
    def preprocessing(self) -> str:
        """Key of its preprocessing: only entries with the same one can be joined."""
        return key_of(self.config)


@dataclass(frozen=True)
class Pair:
    """A forest and an autoencoder. weight: of the forest's evidence; objective: of both together, mean of the folds."""

    forest: Entry
    autoencoder: Entry
    weight: float
    objective: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "forest": self.forest.trial, "autoencoder": self.autoencoder.trial, "weight": self.weight,
            "objective": self.objective,
        }  # fmt: skip


def choose(journal: Journal, windows: Sequence[Fold], shared: Shared, cpus: float) -> TrainConfig:
    """Choose the configuration, and write winner.json.

    cpus: of each task of the last fits. Raises FraudError when no trial gave a result.
    """
    trials = [trial for trial in journal.trials().values() if trial.result is not None]
    entries = {
        detector: [
            entry for trial in trials if trial.detector == detector for entry in _entries(trial, journal, shared)
        ]
        for detector in ("forest", "autoencoder")
    }
    if trials and not any(entries.values()):
        raise FraudError(
            f"the scores of {len(trials)} trials are not in {journal.path}: is FRAUD_STATE shared by all nodes?"
        )
    if not trials:
        reasons = sorted({trial.reason for trial in journal.trials().values() if trial.status == "failed"})
        raise FraudError(f"no trial gave a result, so there is no winner: {'; '.join(reasons)[:500]}")
    entries["forest"] += _forests_for(entries["autoencoder"], entries["forest"], shared, cpus)
    pairs = _pairs(entries["forest"], entries["autoencoder"], shared)
    best = max(entries["forest"] + entries["autoencoder"], key=lambda entry: entry.objective)
    config = _configured(pairs[0], shared) if pairs else _alone(best, best_name(best, entries), shared)
    scores = None
    if pairs and not _gets_head(windows[0], config):
        scores = to_score(_joint(pairs[0], shared))
    elif shared.has_labels:
        scores = _deciding_scores(windows[0], config, cpus)
    grid = None
    if scores is not None and shared.has_labels:
        grid = shared.judge_thresholds(scores, windows[0].validation_labels)
    if grid is not None and grid.best is not None:
        config = dataclasses.replace(config, threshold=grid.points[grid.best].config)
    baseline = [pair for pair in pairs if not {pair.forest.trial, pair.autoencoder.trial} - _of_base(trials)]
    first = pairs[0].to_dict() if pairs else {"objective": best.objective, best_name(best, entries): best.trial}
    document = {
        "pairs": [pair.to_dict() for pair in pairs],
        "winner": {**first, "settings": changed(shared.base, config)},
        "baseline": {"objective": baseline[0].objective, "what": "the base configuration"} if baseline else None,
        "grid": None if grid is None else grid.to_dict(),
    }
    draft = journal.path / f".{WINNER}"
    draft.write_text(json.dumps(document))
    draft.replace(journal.path / WINNER)
    return config


def best_name(best: Entry, entries: Mapping[str, Sequence[Entry]]) -> str:
    """Which detector an entry is."""
    return next(detector for detector, candidates in entries.items() if best in candidates)


def changed(base: TrainConfig, config: TrainConfig) -> dict[str, Any]:
    """The dotted settings in which `config` differs from `base`."""
    before = base.flat()
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.flat().items()
        if value != before[name]
    }


def to_yaml(config: TrainConfig, comments: Sequence[str]) -> str:
    """The configuration as a file for `ray_jobs.train --config`, with comments above it."""
    head = "".join(f"# {' '.join(line.split())}\n" for line in comments)
    return head + yaml.safe_dump(json.loads(json.dumps(config.to_dict())), sort_keys=False, allow_unicode=True)


def write_best(text: str, path: Path) -> None:
    """Write best.yaml. One of another sweep, or one that was edited, is kept as best.1.yaml, best.2.yaml and so on."""
    if path.exists() and path.read_text(encoding="utf-8") != text:
        names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
        moved = path.rename(next(name for name in names if not name.exists()))
        logger.warning("%s was there with other content: it is now %s", path, moved)
    tables.write_text(text, str(path))


def _entries(trial: Trial, journal: Journal, shared: Shared) -> list[Entry]:
    assert trial.result is not None
    scores = read_scores(journal.trial_folder(trial.number))
    entries = []
    for index, of_folds in scores.items():
        if index >= len(trial.result["candidates"]) or len(of_folds) != trial.result["fits"]:
            continue
        candidate = trial.result["candidates"][index]
        config = shared.base
        if trial.params:
            config = shared.space.configure(shared.base, {**trial.params, **candidate["settings"]})
        entries.append(Entry(trial.number, candidate["settings"], candidate["objective"], config, of_folds))
    return entries


def _forests_for(autoencoders: Sequence[Entry], forests: Sequence[Entry], shared: Shared, cpus: float) -> list[Entry]:
    """The best forests, grown again on the preprocessing of the best autoencoders: both must read the same inputs."""
    missing: dict[tuple[str, str], TrainConfig] = {}
    numbers = {}
    for network, trees in itertools.product(_best_trials(autoencoders), _best_trials(forests)):
        config = dataclasses.replace(trees.config, features=network.config.features)
        if all((entry.preprocessing, entry.config.forest) != (key_of(config), config.forest) for entry in forests):
            name = key_of(config), str(config.forest)
            missing[name], numbers[name] = config, trees
    if not missing:
        return []
    logger.info("refitting %d forests for the preprocessing of the best autoencoders", len(missing))
    task = ray.remote(num_cpus=cpus)(_grow)
    grown = ray.get([task.remote(shared.tasks[key_of(config)], config) for config in missing.values()])
    return [
        Entry(numbers[name].trial, numbers[name].settings, candidate.objective, config, candidate.scores or [])
        for (name, config), candidate in zip(missing.items(), grown, strict=True)
    ]


def _best_trials(entries: Sequence[Entry]) -> list[Entry]:
    """The best entry of each of the best trials."""
    best: dict[int, Entry] = {}
    for entry in sorted(entries, key=lambda entry: -entry.objective):
        best.setdefault(entry.trial, entry)
    return list(best.values())[:FINALISTS]


def _grow(references: Sequence[ray.ObjectRef], config: TrainConfig) -> Candidate:
    grown = ForestFit(ray.get(list(references)), config, (config.forest.n_estimators,)).advance(0.0)
    assert grown is not None
    return grown[0]


def _of_base(trials: Sequence[Trial]) -> set[int]:
    """Numbers of the trials that ran the base configuration."""
    return {trial.number for trial in trials if not trial.params}


def _pairs(forests: Sequence[Entry], autoencoders: Sequence[Entry], shared: Shared) -> list[Pair]:
    """The most promising pairs, each with its best weight, best first, and the base configuration's."""
    alike = [(f, a) for f, a in itertools.product(forests, autoencoders) if f.preprocessing == a.preprocessing]
    # The best of both detectors may differ in preprocessing, so pairs are ranked by both objectives.
    alike.sort(key=lambda pair: sum(w * o for w, o in zip((0.1, 1.0), sorted(e.objective for e in pair), strict=True)))
    alike.reverse()
    base_pair = [pair for pair in alike[MOST_PAIRS:] if pair[0].config == shared.base == pair[1].config]
    pairs = [_weigh(f, a, shared) for f, a in [*alike[:MOST_PAIRS], *base_pair[:1]]]
    return sorted(pairs, key=lambda pair: -pair.objective)


def _weigh(f: Entry, a: Entry, shared: Shared) -> Pair:
    """Choose the best weight of the space; among equals, the nearest to one half."""
    folds_of = _tasks(f.config, shared)
    evidences = []
    for fold, task in enumerate(folds_of):
        normal = task.labels != 1
        evidences.append([calibration.fit_tail(entry.scores[fold][normal])(entry.scores[fold]) for entry in (f, a)])
    objectives = [
        float(
            np.mean(
                [
                    measures.average_precision(task.labels, calibration.join(both[0], both[1], weight))
                    for task, both in zip(folds_of, evidences, strict=True)
                ]
            )
        )
        for weight in shared.space.forest_weights
    ]
    top = max(objectives)
    equals = [w for w, value in zip(shared.space.forest_weights, objectives, strict=True) if value >= top - 1e-6]
    return Pair(f, a, min(equals, key=lambda weight: abs(weight - 0.5)), top)


def _joint(pair: Pair, shared: Shared) -> np.ndarray:
    """Joint evidence of the newest fold's judged rows."""
    raw = {"forest": pair.forest.scores[0], "autoencoder": pair.autoencoder.scores[0]}
    return calibration.fit(raw, _tasks(pair.forest.config, shared)[0].labels, pair.weight).evidence(raw)["joint"]


def _configured(pair: Pair, shared: Shared) -> TrainConfig:
    return dataclasses.replace(pair.autoencoder.config, forest=pair.forest.config.forest, forest_weight=pair.weight)


def _alone(entry: Entry, detector: str, shared: Shared) -> TrainConfig:
    """The winner of a sweep of one detector; the other keeps its base settings."""
    searched = {"features": entry.config.features, detector: getattr(entry.config, detector)}
    return dataclasses.replace(shared.base, **searched)


def _gets_head(fold: Fold, config: TrainConfig) -> bool:
    labels = fold.train_labels
    return labels is not None and config.head.is_used(int((labels == 1).sum()))


def _deciding_scores(fold: Fold, config: TrainConfig, cpus: float) -> np.ndarray:
    """Fit the winner with its head; return its final scores of the validation rows."""
    chosen = dataclasses.replace(config, head=dataclasses.replace(config.head, refit=False))
    matrices = folds.matrices(fold, chosen)
    network = ray.remote(num_cpus=cpus)(_fit_network).remote(matrices, chosen)
    trees = tasks.fit_forest(ray.put(matrices.x_fit), chosen.forest, chosen.seed, cpus)
    fit_head = functools.partial(tasks.fit_head, cpus=cpus)
    fitted = folds.fit_features(fold, chosen)
    detector, _, warnings = fitting.join(fold, fitted, trees, ray.get(network), chosen, fit_head)
    for warning in warnings:
        logger.warning("%s", warning)
    return Engine(detector).score_raw(fold.raw_validation)[:, 0]


def _fit_network(matrices: folds.Matrices, config: TrainConfig) -> autoencoder_score.Autoencoder:
    import torch

    torch.set_num_threads(1)
    return fitting.fit_autoencoder(matrices.x_trimmed, matrices.x_quiet, config)[0]


def _tasks(config: TrainConfig, shared: Shared) -> list[Task]:
    return ray.get(list(shared.tasks[key_of(config)]))
