"""One trial: exactly as many fits as folds, every threshold for nothing, and no mistake that leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraud.detectors import autoencoder, calibration, forest
from fraud.metrics import measures
from fraud.thresholds import grid as threshold_grid
from fraud.training import folds
from tests.tuning.small import BASE, SPACE, THRESHOLDS, space, windows
from tuning.search.checkpoints import BEST, read_scores
from tuning.search.fits import NetworkFit
from tuning.search.shared import Shared, preprocessings, put_tasks
from tuning.search.trial import DetectorTrial
from tuning.space.definition import Space

pytestmark = pytest.mark.ray

SIX_EPOCHS = SPACE.replace("epochs: 4", "epochs: 6")
NETWORK = {"features.clip": 10.0, "autoencoder.hidden": [8, 4], "autoencoder.lr": 0.005}
FOREST = {"features.clip": 5.0, "forest.max_samples": 128, "forest.max_features": 0.8}

Share = Callable[..., Shared]


@pytest.fixture
def share(ray_session: None, tmp_path: Path) -> Share:
    def made(n_folds: int = 1, *, with_labels: bool = True, text: str = SPACE) -> Shared:
        searched: Space = space(text)
        prepared = windows(n_folds=n_folds, with_labels=with_labels)
        tasks = put_tasks(prepared, preprocessings(searched, BASE, ["forest", "autoencoder"]))
        return Shared(BASE, searched, tasks, 1.0, {}, with_labels, str(tmp_path / "trials"), "cpu", 1)

    return made


def trial_of(shared: Shared, detector: str, params: dict[str, Any], number: int = 3) -> DetectorTrial:
    """A trial in this process, without its actor."""
    trial = DetectorTrial.__new__(DetectorTrial)
    trial.setup({"number": number, "detector": detector, "params": params}, shared)
    return trial


def steps_of(trial: DetectorTrial) -> list[dict[str, Any]]:
    reports = [trial.step()]
    while not reports[-1]["done"]:
        reports.append(trial.step())
    return reports


def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every fit that is begun: groups of trees, and networks."""
    begun: list[str] = []
    fit_trees, post_init = forest.fit_trees, autoencoder.Training.__post_init__

    def fit(*arguments: Any) -> Any:
        begun.append(f"group {arguments[3]}")
        return fit_trees(*arguments)

    def init(training: Any) -> None:
        begun.append("network")
        post_init(training)

    monkeypatch.setattr(forest, "fit_trees", fit)
    monkeypatch.setattr(autoencoder.Training, "__post_init__", init)
    return begun


@pytest.mark.parametrize("n_folds", [1, 2])
def test_a_trial_makes_one_fit_a_fold_whatever_it_covers(share: Share, monkeypatch: pytest.MonkeyPatch, n_folds: int):
    shared = share(n_folds)
    begun = count(monkeypatch)
    result = steps_of(trial_of(shared, "autoencoder", NETWORK))[-1]["result"]
    assert begun == ["network"] * n_folds
    assert result["fits"] == n_folds and len(result["candidates"][0]["by_fold"]) == n_folds
    assert result["thresholds"]["combinations"] == THRESHOLDS >= 60
    assert result["combinations"] == len(result["candidates"]) * THRESHOLDS

    begun.clear()
    result = steps_of(trial_of(shared, "forest", FOREST, 4))[-1]["result"]
    assert sorted(begun) == sorted(["group 0", "group 1"] * n_folds), "50 trees, no group twice"
    assert result["fits"] == n_folds and result["thresholds"]["combinations"] == THRESHOLDS


def test_what_a_trial_reports(share: Share):
    shared = share(text=SIX_EPOCHS)
    reports = steps_of(trial_of(shared, "autoencoder", NETWORK))
    assert [one["step"] for one in reports] == [2, 6] and [one["done"] for one in reports] == [False, True]
    assert [epoch["epoch"] for one in reports for epoch in one["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert reports[0]["reason"] == "" and reports[1]["reason"] == "all 6 epochs"
    result = reports[1]["result"]
    json.dumps(reports, allow_nan=False)
    assert [one["settings"] for one in result["candidates"]] == [
        {"autoencoder.epochs": epochs, "autoencoder.score": kind} for epochs in (2, 6) for kind in ("whitened", "mse")
    ]
    objectives = [one["objective"] for one in result["candidates"]]
    assert result["objective"] == max(objectives) == objectives[result["best"]] == reports[1]["objective"]
    assert (result["epochs"], result["trees"]) == (6, None) and result["memory_mib"] > 10
    saved = read_scores(Path(shared.folder) / "0003")
    assert len(saved) == BEST and result["best"] in saved

    reports = steps_of(trial_of(shared, "forest", FOREST, 4))
    assert [one["step"] for one in reports] == [25, 50] and all(one["epochs"] == [] for one in reports)
    assert (reports[1]["result"]["epochs"], reports[1]["result"]["trees"]) == (None, 50)


def test_its_thresholds_are_those_of_the_grid(share: Share):
    shared = share()
    result = steps_of(trial_of(shared, "forest", FOREST))[-1]["result"]
    scores = read_scores(Path(shared.folder) / "0003")[result["best"]][0]
    labels = windows()[0].validation_labels
    assert measures.average_precision(labels, scores) == pytest.approx(result["objective"])
    score = calibration.to_score(calibration.fit_tail(scores[labels != 1])(scores))
    grid = threshold_grid.evaluate(score, labels, shared.space.thresholds, shared.space.judge, days=1.0)
    best = grid.points[grid.best].to_dict()
    assert result["thresholds"]["best"] == {
        "policy": best["policy"], "settings": best["setting"], "judged": best["judged"],
    }  # fmt: skip


def test_the_base_configuration_is_fitted_as_it_is(share: Share):
    shared = share()
    matrices = folds.matrices(windows()[0], BASE)
    result = steps_of(trial_of(shared, "forest", {}, 1))[-1]["result"]
    scores = forest.fit(matrices.x_fit, BASE.forest, BASE.seed).score(matrices.x_validation)
    (candidate,) = result["candidates"]
    assert candidate["settings"] == {"forest.n_estimators": 30}
    assert candidate["objective"] == pytest.approx(measures.average_precision(matrices.labels, scores))
    result = steps_of(trial_of(shared, "autoencoder", {}, 2))[-1]["result"]
    (candidate,) = result["candidates"]
    assert candidate["settings"] == {
        "autoencoder.epochs": 3, "autoencoder.score": BASE.autoencoder.score, "autoencoder.components": 5,
    }  # fmt: skip


def test_without_labels_no_threshold_is_judged(share: Share):
    shared = share(with_labels=False)
    result = steps_of(trial_of(shared, "autoencoder", NETWORK))[-1]["result"]
    assert result["thresholds"] is None and result["combinations"] == len(result["candidates"]) == 2
    assert 0 < result["objective"] <= 1


def test_an_error_that_is_no_number_ends_the_trial_with_its_remedy(share: Share):
    shared = share()
    trial = trial_of(shared, "autoencoder", {**NETWORK, "autoencoder.lr": 1e30})
    reports = steps_of(trial)
    assert reports[-1]["done"] and "result" not in reports[-1]
    assert (
        reports[-1]["failed"].startswith("autoencoder error became") and "lower autoencoder.lr" in reports[-1]["failed"]
    )

    trial.reset_config({"number": 4, "detector": "forest", "params": FOREST})
    assert steps_of(trial)[-1]["result"]["trees"] == 50, "its process goes on with the next trial"


def test_any_error_becomes_one_line(share: Share, monkeypatch: pytest.MonkeyPatch):
    def fail(self: NetworkFit, seconds: float) -> None:
        raise MemoryError("cannot allocate\n  80 GiB")

    monkeypatch.setattr(NetworkFit, "advance", fail)
    (report,) = steps_of(trial_of(share(), "autoencoder", NETWORK))
    assert report["failed"] == "MemoryError: cannot allocate 80 GiB" and "worker" in report


@pytest.mark.parametrize(("detector", "params"), [("autoencoder", NETWORK), ("forest", FOREST)])
def test_a_trial_whose_process_died_ends_as_if_it_had_not(
    share: Share, detector: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    shared = share(text=SIX_EPOCHS)
    undisturbed = steps_of(trial_of(shared, detector, params, 3))
    trial_of(shared, detector, params, 4).step()
    again = steps_of(trial_of(shared, detector, params, 4))
    if detector == "autoencoder":
        assert [one["step"] for one in again] == [6], "it goes on after the rung that it had reached"
        assert [epoch["epoch"] for epoch in again[0]["epochs"]] == [1, 2, 3, 4, 5, 6], "and tells what was perhaps lost"
    strip = {"seconds", "memory_mib", "thresholds"}
    one, other = (
        {k: v for k, v in reports[-1]["result"].items() if k not in strip} for reports in (undisturbed, again)
    )
    assert one == other
    first, second = (read_scores(Path(shared.folder) / f"{number:04d}") for number in (3, 4))
    assert _same(first, second)


def test_a_process_that_died_after_its_last_rung_has_nothing_left_to_fit(share: Share, monkeypatch: pytest.MonkeyPatch):
    shared = share()
    before = steps_of(trial_of(shared, "autoencoder", NETWORK))[-1]["result"]
    monkeypatch.setattr(autoencoder.Training, "run_epoch", lambda *_: pytest.fail("an epoch was run again"))
    (report,) = steps_of(trial_of(shared, "autoencoder", NETWORK))
    assert report["done"] and report["result"]["objective"] == before["objective"]


def _same(one: dict[int, Sequence[np.ndarray]], other: dict[int, Sequence[np.ndarray]]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
