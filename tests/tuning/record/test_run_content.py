"""What a sweep's journal says to MLflow."""

from __future__ import annotations

from fraud.registry.runs import Point
from tests.tuning.sweeps import REQUEST, events_of
from tuning.record import run_content
from tuning.record.run_content import SweepContent


def content_of(*events) -> SweepContent:
    content = SweepContent()
    content.add(list(events))
    return content


def test_points_of_an_autoencoder_have_the_times_of_their_epochs():
    points = content_of(*events_of(2)).points(2)
    began = REQUEST["created"] + 200
    errors = [point for point in points if point.key == "validation_error"]
    assert errors == [Point("validation_error", 2 / e, e, int(1000 * (began + e))) for e in range(1, 10)]
    assert [(p.step, p.value) for p in points if p.key == "rung_objective"] == [(6, 0.2), (9, 0.1 * 3)]
    final = {point.key: point.value for point in points if point.time_ms == int(1000 * (began + 50))}
    assert final == {
        "objective": 0.02,
        "scoring_cost": 1002.0,
        "seconds": 12.5,
        "fits": 1,
        "epochs": 9,
        "combinations": 180,
        "memory_mib": 250.0,
    }


def test_a_repeated_rung_adds_no_point_and_the_list_only_grows():
    events = events_of(2)
    points = content_of(*events).points(2)
    again = [{**events[0], "time": 9e9}, {**events[2], "time": 9e9, "objective": 0.9}]
    content = content_of(*events[:3])
    before = list(content.points(2))
    content.add([*again, *events[3:]])
    assert content.points(2) == points and content.points(2)[: len(before)] == before
    assert content.n_events == len(events) + 2


def test_a_failed_trial_has_no_outcome_and_may_begin_again():
    content = content_of(*events_of(1, "failed"))
    (trial,) = content.trials()
    assert run_content.status(trial, is_closing=False) == "FAILED"
    assert "objective" not in {point.key for point in content.points(1)}
    content.add([events_of(1)[0]])
    (trial,) = content.trials()
    assert run_content.status(trial, is_closing=False) == "RUNNING"
    assert run_content.status(trial, is_closing=True) == "KILLED"


def test_the_best_of_each_detector_so_far():
    content = content_of(*events_of(5), *events_of(3), *events_of(2, "failed"), *events_of(7))
    assert [point[:3] for point in content.parent_points] == [
        ("best_forest_objective", 0.05, 1),
        ("best_forest_objective", 0.07, 4),
    ]


def test_parameters_are_flat_and_named_as_mlflow_allows():
    assert run_content.parameters({"a": {"b": [16, 8], "c": {}}, "d<é>/..": None, "space": "long text"}) == {
        "a.b": "[16, 8]",
        "a.c": "{}",
        "d_é__..": "None",
    }


def test_tags_name_the_settings_that_one_fit_covered():
    (trial,) = content_of(*events_of(4)).trials()
    best = trial.result["candidates"][trial.result["best"]]["settings"]
    tags = run_content.tags(trial, "FINISHED")
    assert tags["outcome"] == "finished" and tags["settings"] == ", ".join(f"{k}={v}" for k, v in best.items()) != ""
