"""Whole sweeps on a real Ray and a real MLflow: what they leave, what stops them, and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from fraud.data.locks import exclusive
from fraud.errors import ConfigError, FraudError
from fraud.training.config import TrainConfig
from ray_jobs.train.request import read_request
from tests.tuning.conftest import Finished
from tests.tuning.small import SETTINGS, SPACE, THRESHOLDS, Workspace, main_of
from tuning.record.journal import Journal
from tuning.record.results import Results, running_at_once

pytestmark = pytest.mark.ray

ABSURD = SPACE.replace("lr: {log: [1e-3, 1e-2]}", "lr: {choice: [0.003, 1e30]}")


@pytest.fixture
def workspace(tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A folder of its own; the environment leads there."""
    made = Workspace.make(tmp_path, n=2000)
    monkeypatch.setenv("FRAUD_ROOT", str(made.folder))
    monkeypatch.setenv("FRAUD_STATE", str(made.settings.state))
    return made


def ended(journal: Journal) -> list[int]:
    """Numbers of the trials that ended, each time that one did."""
    return [event["number"] for event in journal.events() if event["event"] == "ended"]


def at_once(journal: Journal) -> int:
    results = Results.read(journal)
    return max(n for _, n in running_at_once(results.attempts, results.clock))


# The finished sweep


def test_every_trial_is_accounted_for(finished: Finished):
    assert [trial.number for trial in finished.trials] == list(range(1, 9))
    assert [trial.detector for trial in finished.trials] == ["forest", "autoencoder"] * 4
    assert all(trial.status in ("finished", "stopped") and trial.reason for trial in finished.trials)
    assert [trial.params for trial in finished.trials[:2]] == [{}, {}]
    assert sorted(ended(finished.journal)) == list(range(1, 9))
    events = finished.journal.events()
    assert (events[0]["event"], events[-1]["event"], events[-1]["status"]) == ("opened", "closed", "FINISHED")


def test_each_fit_covers_sixty_combinations_or_more(finished: Finished):
    for trial in finished.trials:
        assert trial.result["fits"] == 1
        assert trial.result["thresholds"]["combinations"] == THRESHOLDS >= 60
        assert trial.result["combinations"] == THRESHOLDS * len(trial.result["candidates"])
    page = (finished.outdir / "sweep_report.html").read_text()
    total = sum(trial.result["combinations"] for trial in finished.trials)
    assert f"{total:,}" in page, "the report says what the fits covered"


def test_two_trials_run_at_the_same_time(finished: Finished):
    assert at_once(finished.journal) == 2
    assert len({trial.worker for trial in finished.trials}) >= 2


def test_its_report_and_configuration_are_there(finished: Finished):
    assert {path.name for path in finished.outdir.iterdir()} == {"sweep_report.html", "best.yaml", "plots"}
    assert {"best_so_far.png", "pareto.png", "timeline.png"} <= {p.name for p in (finished.outdir / "plots").iterdir()}
    lines = finished.text.splitlines()
    assert " won with average precision " in lines[0]
    assert lines[1:3] == [
        f"report: {finished.outdir / 'sweep_report.html'}", f"best configuration: {finished.outdir / 'best.yaml'}",
    ]  # fmt: skip
    data, config = finished.workspace.folder / "data.csv", finished.outdir / "best.yaml"
    assert lines[3:] == [f"next: python -m ray_jobs.train --data {data} --schema transactions --config {config}"]


def test_the_training_command_takes_its_configuration(finished: Finished, monkeypatch: pytest.MonkeyPatch):
    command = finished.text.splitlines()[-1].removeprefix("next: python -m ray_jobs.train ").split()
    request = read_request(
        [*command, "--outdir", str(finished.workspace.folder / "artifacts")], finished.workspace.settings
    )
    assert request.config == TrainConfig.load(str(finished.outdir / "best.yaml"))
    assert request.config.forest_weight is not None and request.config.seed == SETTINGS["seed"]


def test_only_the_journal_remains(finished: Finished):
    left = {path.name for path in finished.journal.path.iterdir()}
    assert left == {"sweep.json", "trials.jsonl", "trials", "winner.json", "mlflow.json", "result"}
    files = {path.name for path in (finished.journal.path / "trials").glob("*/*")}
    assert files == {"state.pt", "scores.npz"}


def test_mlflow_has_one_parent_and_a_child_a_trial(finished: Finished):
    from mlflow import MlflowClient

    settings = finished.workspace.settings
    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert sorted(run.info.run_name for run in children) == sorted(f"{t.detector} {t.number}" for t in finished.trials)
    child_runs = {run.info.run_name: run for run in children}
    for trial in finished.trials:
        run = child_runs[f"{trial.detector} {trial.number}"]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["objective"] == pytest.approx(trial.result["objective"])
    network = child_runs["autoencoder 2"].info.run_id
    assert [metric.step for metric in client.get_metric_history(network, "validation_error")] == [1, 2, 3]
    names = {artifact.path for artifact in client.list_artifacts(parents[0].info.run_id)}
    assert {"plots", "best.yaml", "sweep_report.html"} <= names


# Other sweeps


def test_four_forests_at_half_a_cpu_on_two_folds_with_two_objectives(workspace: Workspace):
    more = ["--detector", "forest", "--folds", "2", "--objectives", "ap,cost", "--cpus-per-trial", "0.5", "--no-mlflow"]
    code, text = main_of(workspace.command("--trials", "6", "--scheduler", "none", *more))
    assert code == 0 and text.startswith("Forest ")
    (journal,) = workspace.journals()
    trials = list(journal.trials().values())
    assert [trial.detector for trial in trials] == ["forest"] * 6 and all(t.status == "finished" for t in trials)
    assert at_once(journal) == 4 and len({trial.worker for trial in trials}) == 4
    for trial in trials:
        assert trial.result["fits"] == 2 and len(trial.result["candidates"][-1]["by_fold"]) == 2
        assert trial.result["scoring_cost"] > 0
    request = journal.read_request()
    assert request["objectives"] == ["average_precision", "scoring_cost"] and request["folds"] == 2
    config = TrainConfig.load(str(workspace.folder / "sweep" / "best.yaml"))
    assert config.autoencoder == TrainConfig.load(str(workspace.folder / "config.yaml")).autoencoder
    best = max(trials, key=lambda trial: trial.result["objective"])
    winner = json.loads((journal.path / "winner.json").read_text())
    assert winner["winner"]["forest"] == best.number and winner["pairs"] == []
    assert winner["winner"]["objective"] == pytest.approx(best.result["objective"])
    if best.params:
        assert config.forest.max_samples == best.params["forest.max_samples"]
        chosen = best.result["candidates"][best.result["best"]]["settings"]
        assert config.forest.n_estimators == chosen["forest.n_estimators"]
    assert not (workspace.settings.state / "mlflow.db").exists(), "--no-mlflow"


def test_without_labels_the_objective_is_named_and_no_threshold_chosen(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
):
    code, text = main_of(workspace.command("--trials", "4", "--no-mlflow", data="unlabelled.csv"))
    assert code == 0 and "synthetic" in text.lower()
    (journal,) = workspace.journals()
    assert journal.read_request()["objective_name"] == "synthetic_average_precision"
    assert "no labelled frauds: the objective is synthetic_average_precision" in caplog.text
    assert all(trial.result["thresholds"] is None for trial in journal.trials().values())
    assert json.loads((journal.path / "winner.json").read_text())["grid"] is None
    config = TrainConfig.load(str(workspace.folder / "sweep" / "best.yaml"))
    assert config.threshold == TrainConfig().threshold
    assert (workspace.folder / "sweep" / "sweep_report.html").exists()


@pytest.mark.drill
def test_the_time_budget_leaves_a_resumable_sweep(workspace: Workspace):
    code, text = main_of(workspace.command("--trials", "4", "--time-budget", "0.5s", "--no-mlflow"))
    assert code == 0
    (journal,) = workspace.journals()
    before = journal.events()
    done = ended(journal)
    assert len(done) < 4 and f"{len(done)} of 4 trials ended; resume with: python -m tuning.sweep --resume" in text
    code, text = main_of(["--resume", re.search(r"--resume (\S+)", text)[1], "--trials", "5", "--outdir", "more"])
    assert code == 0 and "resume with" not in text
    assert (workspace.folder / "more" / "best.yaml").exists() and str(workspace.folder / "more") in text
    assert sorted(ended(journal)) == [1, 2, 3, 4, 5], "and none that had ended ran again"
    assert journal.events()[: len(before)] == before
    assert [event["event"] for event in journal.events()].count("opened") == 2


@pytest.mark.drill
def test_a_failed_trial_logs_its_reason_and_the_others_continue(workspace: Workspace):
    (workspace.folder / "absurd.yaml").write_text(ABSURD)
    command = workspace.command("--trials", "6", "--detector", "autoencoder", "--no-mlflow", space="absurd.yaml")
    code, _ = main_of(command)
    assert code == 0
    (journal,) = workspace.journals()
    trials = list(journal.trials().values())
    is_absurd = {trial.number: trial.params.get("autoencoder.lr") == 1e30 for trial in trials}
    assert set(is_absurd.values()) == {True, False}, "the seed draws both"
    for trial in trials:
        assert (trial.status == "failed") == is_absurd[trial.number]
        if trial.status == "failed":
            assert trial.result is None and "lower autoencoder.lr" in trial.reason
    assert "lower autoencoder.lr" in (workspace.folder / "sweep" / "sweep_report.html").read_text()

    # --retry-failed runs just these again, to the same end
    code, _ = main_of(["--resume", journal.sweep_id, "--retry-failed"])
    assert code == 0
    again = ended(journal)[len(trials) :]
    assert sorted(again) == [number for number, absurd in is_absurd.items() if absurd]


def test_when_every_trial_fails_there_is_one_clear_error(workspace: Workspace):
    command = workspace.command("--trials", "1", "--detector", "autoencoder", "--no-mlflow")
    with pytest.raises(FraudError, match=r"no trial gave a result.*lower autoencoder\.lr") as raised:
        main_of([*command, "--set", "autoencoder.lr=1e30"])
    assert "\n" not in str(raised.value)
    (journal,) = workspace.journals()
    assert journal.events()[-1]["status"] == "FAILED"
    assert not (workspace.folder / "sweep" / "best.yaml").exists()


# What is refused before any work


def test_changed_data_are_refused(finished: Finished, tmp_path: Path):
    workspace = Workspace(tmp_path)
    shutil.copytree(finished.journal.path, workspace.settings.state / "sweeps" / "x")
    journal = Journal(workspace.settings.state / "sweeps" / "x")
    changed = tmp_path / "data.csv"
    lines = (finished.workspace.folder / "data.csv").read_text().splitlines(keepends=True)
    changed.write_text("".join([*lines[:-1]]))
    journal.write_request({**journal.read_request(), "id": "x", "data": str(changed)})
    before = journal.events()
    with pytest.raises(ConfigError, match=r"--resume x: .*data.csv has changed since this sweep started \(fingerprint"):
        workspace.run(["--resume", "x"])
    assert journal.events() == before


def test_two_drivers_at_once_are_refused(finished: Finished):
    root = finished.workspace.settings.state / "sweeps"
    with (
        exclusive(root / f"{finished.journal.sweep_id}.lock", wait=False),
        pytest.raises(ConfigError, match=r"is running already .*wait for it or stop it"),
    ):
        finished.workspace.run(["--resume", finished.journal.sweep_id])


def test_an_unknown_sweep_is_refused_with_the_known_ones(finished: Finished):
    with pytest.raises(ConfigError, match=f"no sweep 'nobody' .*the newest are {finished.journal.sweep_id}"):
        finished.workspace.run(["--resume", "nobody"])
    with pytest.raises(ConfigError, match="is not a valid name"):
        finished.workspace.run(["--resume", "../x"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--cpus-per-trial", "64"], "--cpus-per-trial 64 is more than the 2 CPUs"),
        (["--gpus-per-trial", "1"], "--gpus-per-trial 1 is more than the 0 GPUs .*leave it out"),
        (["--folds", "60"], "ask for fewer folds"),
    ],
)
def test_what_can_never_run_is_refused_at_once(workspace: Workspace, more: list[str], words: str):
    with pytest.raises(FraudError, match=words):
        workspace.run(workspace.command(*more, "--no-mlflow"))
