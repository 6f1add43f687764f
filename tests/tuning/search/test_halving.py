"""Early stopping: who is stopped, who never is, and that each detector is compared with its own kind."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tuning.execution import _FOREST_REDUCTION
from tuning.record.journal import Trial
from tuning.search.halving import HalvingByDetector
from tuning.search.trial import REDUCTION, rungs_of

RUNGS = {"forest": (50, 100, 200, 300), "autoencoder": (2, 6, 18)}
STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def new(known: list[Trial] | None = None) -> HalvingByDetector:
    return HalvingByDetector(RUNGS, {"forest": _FOREST_REDUCTION, "autoencoder": float(REDUCTION)}, known or [])


def trial_of(number: int, detector: str = "autoencoder", **params: Any) -> Any:
    return SimpleNamespace(
        trial_id=f"id{number}", config={"number": number, "detector": detector, "params": params or {"lr": number}}
    )


def report(halving: HalvingByDetector, trial: Any, step: int, objective: float | None) -> str:
    return halving.on_trial_result(None, trial, {"step": step, "objective": objective})


def begin(halving: HalvingByDetector, *trials: Any) -> None:
    for trial in trials:
        halving.on_trial_add(None, trial)


def earlier(number: int, objectives: list[float], detector: str = "autoencoder", status: str = "finished") -> Trial:
    rungs = [
        {"step": step, "time": 0.0, "objective": value, "epochs": []}
        for step, value in zip(RUNGS[detector], objectives, strict=False)
    ]
    return Trial(number, detector, {"lr": number}, time.time(), status=status, rungs=rungs)


def test_a_trial_among_the_worst_two_thirds_is_stopped_with_the_reason():
    halving = new()
    trials = [trial_of(n) for n in range(1, 5)]
    begin(halving, *trials)
    decisions = [report(halving, trial, 2, value) for trial, value in zip(trials, (0.9, 0.1, 0.5, 0.95), strict=True)]
    assert decisions == [CONTINUE, STOP, STOP, CONTINUE]
    assert halving.stopped == {
        2: "after 2 epochs not among the best 1 in 3 so far", 3: "after 2 epochs not among the best 1 in 3 so far",
    }  # fmt: skip


def test_forests_are_halved_by_trees():
    halving = new()
    trials = [trial_of(n, "forest") for n in range(1, 4)]
    begin(halving, *trials)
    assert [report(halving, t, 100, v) for t, v in zip(trials, (0.5, 0.6, 0.1), strict=True)] == [
        CONTINUE,
        CONTINUE,
        STOP,
    ]
    assert halving.stopped == {3: "after 100 trees not among the best 1 in 2 so far"}


def test_detectors_are_not_compared_with_each_other():
    halving = new()
    good = [trial_of(n, "forest") for n in (1, 2, 3)]
    weak = trial_of(4)
    begin(halving, *good, weak)
    for trial in good:
        report(halving, trial, 50, 0.9)
    assert report(halving, weak, 2, 0.01) == CONTINUE


def test_the_base_configuration_always_runs_to_the_end():
    halving = new()
    trials = [trial_of(n) for n in (3, 4, 5)]
    base_trial = SimpleNamespace(trial_id="given", config={"number": 1, "detector": "autoencoder", "params": {}})
    begin(halving, *trials, base_trial)
    for trial in trials:
        report(halving, trial, 2, 0.9)
    assert [report(halving, base_trial, step, 0.0) for step in (2, 6, 18)] == [CONTINUE] * 3
    halving.on_trial_complete(None, base_trial, {"step": 18, "objective": 0.0})
    halving.on_trial_remove(None, base_trial)
    assert halving.stopped == {}


def test_between_rungs_nobody_is_stopped():
    halving = new()
    trials = [trial_of(n) for n in (1, 2)]
    begin(halving, *trials)
    report(halving, trials[0], 2, 0.9)
    assert report(halving, trials[1], 1, None) == CONTINUE
    assert report(halving, trials[1], 2, 0.1) == STOP


def test_rungs_of_an_earlier_driver_count():
    known = [earlier(n, [0.8 + n / 100, 0.9]) for n in range(1, 6)]
    halving = new(known)
    weak, strong = trial_of(7), trial_of(8)
    begin(halving, weak, strong)
    assert report(halving, weak, 2, 0.5) == STOP
    assert report(halving, strong, 2, 0.95) == CONTINUE
    assert report(halving, strong, 6, 0.1) == STOP, "later rungs count too"
    assert set(halving.stopped) == {7, 8}, "the earlier trials are not stopped again"


def test_what_an_unfinished_or_failed_trial_reported_is_no_hindrance():
    known = [earlier(1, [0.9, 0.9], status="running"), earlier(2, [], status="failed")]
    known.append(Trial(3, "autoencoder", {}, 0.0, status="finished", rungs=known[0].rungs))
    again = trial_of(1)
    halving = new(known)
    begin(halving, again)
    assert report(halving, again, 2, 0.9) == CONTINUE


def test_a_trial_that_failed_without_an_objective_ends_quietly():
    halving = new()
    trial = trial_of(1)
    begin(halving, trial)
    halving.on_trial_complete(None, trial, {"failed": "lr"})
    assert halving.stopped == {}


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(18, (2, 6, 18)), (4, (4,)), (1, (1,)), (6, (2, 6)), (30, (3, 10, 30)), (54, (2, 6, 18, 54))]
)
def test_rungs_are_thirds(epochs: int, rungs: tuple[int, ...]):
    assert rungs_of(epochs) == rungs


def test_one_size_of_forest_leaves_nothing_to_stop():
    halving = HalvingByDetector({"forest": (100,)}, {"forest": 2.0}, [])
    trials = [trial_of(n, "forest") for n in (1, 2, 3)]
    begin(halving, *trials)
    for trial in trials:
        halving.on_trial_complete(None, trial, {"step": 100, "objective": 0.1 * trial.config["number"]})
    assert halving.stopped == {}
