"""One fit of a search covers many candidates: each is the detector that a training with its settings makes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fraud.detectors import forest
from fraud.metrics import measures
from fraud.training import fitting, folds
from fraud.training.config import TrainConfig, from_mapping
from tests.tuning.small import BASE, windows
from tuning.search.checkpoints import (
    BEST,
    SCORES,
    STATE,
    best_with_scores,
    read_scores,
    restore,
    save_scores,
    save_state,
)
from tuning.search.fits import Candidate, ForestFit, NetworkFit
from tuning.search.shared import Task

KINDS = [
    {"autoencoder.score": "density", "autoencoder.components": 2},
    {"autoencoder.score": "whitened_latent"},
    {"autoencoder.score": "mse"},
]


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Two folds."""
    matrices = [folds.matrices(fold, BASE) for fold in windows(n_folds=2)]
    return [Task(one, one.x_validation, one.labels) for one in matrices if one.labels is not None]


def changed(**settings: object) -> TrainConfig:
    raw = BASE.to_dict()
    for name, value in settings.items():
        section, key = name.split("__")
        raw[section][key] = value
    return from_mapping(TrainConfig, raw)


def candidates_of(fit: ForestFit | NetworkFit) -> list[Candidate]:
    candidates = []
    while not fit.is_finished:
        candidates += fit.advance(1e9) or []
    return candidates


def test_a_forest_of_every_size_is_the_one_that_a_training_grows(tasks: list[Task]):
    config = changed(forest__max_features=0.6, forest__max_samples=64)
    fit = ForestFit(tasks, config, [20, 25, 60])
    candidates = candidates_of(fit)
    assert [candidate.settings for candidate in candidates] == [{"forest.n_estimators": size} for size in (20, 25, 60)]
    assert (fit.step, fit.reason) == (60, "all 60 trees")
    for candidate in candidates:
        size = candidate.settings["forest.n_estimators"]
        forest_config = dataclasses.replace(config.forest, n_estimators=size)
        for task, scores, objective in zip(tasks, candidate.scores, candidate.by_fold, strict=True):
            grown = forest.fit(task.matrices.x_fit, forest_config, config.seed)
            np.testing.assert_allclose(scores, grown.score(task.x_judged), rtol=1e-12)
            assert objective == pytest.approx(measures.average_precision(task.labels, scores))
        assert candidate.objective == pytest.approx(np.mean(candidate.by_fold))
    assert len({candidate.objective for candidate in candidates}) == 3
    assert candidates[2].scoring_cost == pytest.approx(3 * candidates[0].scoring_cost, rel=0.1), (
        "cost goes with the trees"
    )


def test_a_forest_grows_no_group_of_trees_twice(tasks: list[Task], monkeypatch: pytest.MonkeyPatch):
    grown = []
    fit_trees = forest.fit_trees
    monkeypatch.setattr(forest, "fit_trees", lambda X, c, s, group: grown.append(group) or fit_trees(X, c, s, group))
    candidates_of(ForestFit(tasks[:1], BASE, [25, 50, 100]))
    assert grown == [0, 1, 2, 3]


def trained(task: Task, config: TrainConfig, settings: dict[str, object]) -> np.ndarray:
    """Scores of a training with these settings."""
    named = {name.replace(".", "__"): value for name, value in settings.items()}
    trained_config = from_mapping(TrainConfig, config.to_dict())
    raw = trained_config.to_dict()
    for name, value in named.items():
        raw["autoencoder"][name.removeprefix("autoencoder__")] = value
    trained_config = from_mapping(TrainConfig, raw)
    fitted, _ = fitting.fit_autoencoder(task.matrices.x_trimmed, task.matrices.x_quiet, trained_config)
    return fitted.score(task.x_judged)


def test_a_network_at_every_rung_under_every_score_is_the_one_that_a_training_makes(tasks: list[Task]):
    config = changed(autoencoder__epochs=5, autoencoder__dropout=0.1, autoencoder__mask=0.1)
    fit = NetworkFit(tasks, config, (2, 5), KINDS)
    candidates = candidates_of(fit)
    assert [c.settings for c in candidates] == [{"autoencoder.epochs": e, **kind} for e in (2, 5) for kind in KINDS]
    assert (fit.step, fit.reason) == (5, "all 5 epochs")
    for candidate in candidates:
        for task, scores, objective in zip(tasks, candidate.scores, candidate.by_fold, strict=True):
            np.testing.assert_array_equal(scores, trained(task, config, candidate.settings))
            assert objective == pytest.approx(measures.average_precision(task.labels, scores))
    assert [epoch["epoch"] for epoch in fit.epochs] == [3, 4, 5], "the epochs since the last rung"


def test_a_network_whose_error_stops_falling_ends_and_its_settings_still_make_it(tasks: list[Task]):
    config = changed(autoencoder__epochs=40, autoencoder__patience=1, autoencoder__lr=0.05)
    fit = NetworkFit(tasks[:1], config, (4, 40), KINDS[2:])
    candidates = candidates_of(fit)
    assert fit.step < 40 and fit.reason == f"validation error stopped falling after {fit.step} epochs"
    assert candidates[-1].settings["autoencoder.epochs"] == 40
    np.testing.assert_array_equal(candidates[-1].scores[0], trained(tasks[0], config, candidates[-1].settings))


def test_a_network_resumes_from_its_saved_state_bit_for_bit(tasks: list[Task], tmp_path: Path):
    config = changed(autoencoder__epochs=40, autoencoder__dropout=0.2, autoencoder__patience=40)

    def new() -> NetworkFit:
        return NetworkFit(tasks, config, (4, 40), KINDS[1:])

    undisturbed = candidates_of(new())
    candidates, pieces, fit = [], 0, new()
    epochs: list[int] = []
    while not fit.is_finished:  # a new process every few epochs
        candidates += fit.advance(0.02) or []
        epochs = [epoch["epoch"] for epoch in fit.epochs]
        save_state(tmp_path, fit.state(), candidates, 1.5)
        restored = restore(tmp_path)
        assert restored is not None and restored[2] == 1.5 and len(restored[1]) == len(candidates)
        fit = new()
        fit.restore(restored[0])
        pieces += 1
    assert pieces > 2, "the fit was kept in the middle of a rung"
    assert epochs == list(range(1, 41)), "what was restored is told again, as its first telling may not have been heard"
    for one, other in zip(candidates, undisturbed, strict=True):
        assert one.settings == other.settings
        np.testing.assert_array_equal(one.scores, other.scores)


def test_only_the_best_candidates_keep_their_scores(tmp_path: Path):
    scores = [np.arange(4.0)]
    many = [Candidate({"n": i}, [value], 1.0, scores) for i, value in enumerate([0.1, 0.9, 0.5, 0.7, 0.2])]
    candidates = best_with_scores(many)
    assert [candidate.scores is not None for candidate in candidates] == [False, True, True, True, False] and BEST == 3
    save_scores(tmp_path, candidates)
    again = read_scores(tmp_path)
    assert sorted(again) == [1, 2, 3]
    np.testing.assert_array_equal(again[1], scores)


def test_what_a_kill_cut_short_is_begun_again(tmp_path: Path):
    assert restore(tmp_path) is None and read_scores(tmp_path) == {}
    save_state(tmp_path, {"a": 1}, [], 1.0)
    save_scores(tmp_path, [Candidate({}, [0.5], 1.0, [np.zeros(50)])])
    for name in (STATE, SCORES):
        file = tmp_path / name
        file.write_bytes(file.read_bytes()[:-20])
    assert restore(tmp_path) is None and read_scores(tmp_path) == {}
    assert {path.name for path in tmp_path.iterdir()} == {STATE, SCORES}, "no drafts are left"
