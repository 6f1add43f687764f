"""Runs and what is logged to them, on a real MLflow with SQLite."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fraud.errors import RegistryError
from fraud.registry import runs
from fraud.settings import Settings


def client(settings: Settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def test_a_run_keeps_what_is_logged(settings: Settings, store: Path, tmp_path: Path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"png")
    run = runs.start_run(settings, "a training", {"colour": "red"})
    run.log_parameters({f"part.{i}": i for i in range(150)})
    run.log_metrics({"joined_average_precision": 0.5})
    for epoch in (1, 2):
        run.log_metrics({"validation_error": 1 / epoch}, step=epoch)
    run.log_folder(tmp_path / "plots", "plots")
    run.log_text("name: x", "schema.yaml")
    run.log_dataset(name="transactions", path="data/x.csv", fingerprint="ab" * 32, columns={"amount": "double"}, rows=9)
    run.finish()
    logged = client(settings).get_run(run.run_id)
    assert logged.info.status == "FINISHED" and logged.info.run_name == "a training"
    assert len(logged.data.params) == 150 and logged.data.params["part.149"] == "149"
    assert logged.data.metrics == {"joined_average_precision": 0.5, "validation_error": 0.5}
    assert logged.data.tags["colour"] == "red"
    assert [m.step for m in client(settings).get_metric_history(run.run_id, "validation_error")] == [1, 2]
    assert {a.path for a in client(settings).list_artifacts(run.run_id)} == {"plots", "schema.yaml"}
    (dataset,) = [dataset_input.dataset for dataset_input in logged.inputs.dataset_inputs]
    assert dataset.digest == ("ab" * 32)[:36]
    assert json.loads(dataset.source) == {"uri": "data/x.csv"} and json.loads(dataset.profile) == {"num_rows": 9}
    assert (store.parent / "mlartifacts" / settings.experiment / run.run_id / "artifacts" / "plots" / "a.png").exists()
    assert not Path("mlruns").exists()


def test_pages_of_a_server_open_in_the_view_for_models(settings: Settings):
    run = runs.start_run(settings, "local")
    assert run.page() == runs.page(settings, "models/x") == runs.experiment_page(settings) == "", "SQLite has no pages"
    away = replace(settings, tracking_uri="http://me:secret@mlflow:5000/")
    assert runs.Run(away, "abc", "7").page() == (
        "http://mlflow:5000/#/experiments/7/runs/abc?workflowType=machine_learning"
    )
    assert runs.page(away, "models/my cards/versions/3").startswith(
        "http://mlflow:5000/#/models/my%20cards/versions/3?"
    )


def test_an_experiment_is_one_of_models_also_if_it_is_older(settings: Settings):
    runs.start_run(settings, "makes it")
    runs.start_run(replace(settings, experiment="another"), "makes the tables")
    client(settings).create_experiment("older", artifact_location=str(settings.state / "older"))
    runs.start_run(replace(settings, experiment="older"), "finds it")
    for name in (settings.experiment, "older"):
        assert client(settings).get_experiment_by_name(name).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_can_be_continued(settings: Settings):
    run = runs.start_run(settings, "first half")
    run.finish("KILLED")
    again = runs.continue_run(settings, run.run_id)
    assert again == run
    assert client(settings).get_run(run.run_id).info.status == "RUNNING"
    assert runs.continue_run(settings, "0" * 32) is None


def test_logging_is_split_into_calls_and_repeated_points_are_stored_once(settings: Settings):
    points = [runs.Point("error", 1 / step, step, 1000 * step) for step in range(1, 1701)]
    run = runs.start_run(settings, "large")
    for _ in range(2):
        run.log(
            parameters={f"p{i}": "x" * 7000 for i in range(120)}, points=points, tags={f"t{i}": i for i in range(230)}
        )
    data = client(settings).get_run(run.run_id).data
    assert len(data.params) == 120 and data.tags["t229"] == "229"
    history = client(settings).get_metric_history(run.run_id, "error")
    assert sorted((m.key, m.value, m.step, m.timestamp) for m in history) == sorted(points)


def test_find_runs_filters_children_by_tags(settings: Settings):
    assert runs.find_runs(settings, {"sweep": "a"}) == []  # not even the experiment is there
    parent = runs.start_run(settings, "sweep", {"sweep": "a"}, started_ms=1000)
    child = runs.start_run(settings, "forest 1", {"sweep": "a", "trial": 1}, parent=parent, started_ms=2000)
    runs.start_run(settings, "sweep", {"sweep": "b"})
    entries = runs.find_runs(settings, {"sweep": "a"})
    assert [run_id for run_id, _ in entries] == [parent.run_id, child.run_id]
    assert entries[1][1]["mlflow.parentRunId"] == parent.run_id and entries[1][1]["trial"] == "1"
    child.finish("FAILED", 5000)
    info = client(settings).get_run(child.run_id).info
    assert (info.status, info.start_time, info.end_time) == ("FAILED", 2000, 5000)
    child.reopen()
    assert client(settings).get_run(child.run_id).info.status == "RUNNING"
    child.delete()
    assert [run_id for run_id, _ in runs.find_runs(settings, {"sweep": "a"})] == [parent.run_id]
    assert runs.continue_run(settings, child.run_id) is None
    with pytest.raises(ValueError, match="quote"):
        runs.find_runs(settings, {"sweep": "a' or '1"})


def test_unusable_stores_give_one_line(settings: Settings, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for uri in ("http://127.0.0.1:9", f"sqlite:///{tmp_path}/file/mlflow.db", "nonsense://x"):
        with pytest.raises(RegistryError) as caught:
            runs.start_run(replace(settings, tracking_uri=uri), "x")
        assert "MLFLOW_TRACKING_URI" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RegistryError) as caught:
        runs.start_run(replace(settings, tracking_uri="http://someone:secret@127.0.0.1:9"), "x")
    assert "secret@" not in str(caught.value).split(";")[0].split("(")[0]


@pytest.mark.slow
def test_many_processes_can_create_one_store_at_once():
    settings = Settings.from_environment()  # a store that does not exist yet
    code = (
        "from fraud.registry import runs; from fraud.settings import Settings; "
        "run = runs.start_run(Settings.from_environment(), 'together'); run.finish()"
    )
    root = Path(__file__).parents[3]
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    experiment = client(settings).get_experiment_by_name(settings.experiment)
    both = client(settings).search_runs([experiment.experiment_id])
    assert [run.info.status for run in both] == ["FINISHED"] * 2


def test_artifacts_that_need_a_server_raise_before_the_work(settings: Settings):
    """As `make up` leaves one: its server made the experiment, and now it is down."""
    runs.start_run(replace(settings, experiment="another"), "makes the tables")
    client(settings).create_experiment(settings.experiment, artifact_location="mlflow-artifacts:/1")
    with pytest.raises(RegistryError, match=r"with an MLflow server: start it \(make up\)"):
        runs.start_run(settings, "run")
