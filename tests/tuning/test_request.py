"""What a command line orders, what a journal keeps of it, and the words for what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fraud.errors import ConfigError, SchemaError
from fraud.schema import Schema
from tests.tuning.small import SPACE, Workspace
from tuning.record.journal import locked_journal
from tuning.request import Resume, SweepRequest, read_command, training_command


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.make(tmp_path_factory.mktemp("order"), n=50)


def read(workspace: Workspace, *more: str) -> SweepRequest:
    request = read_command(workspace.command(*more), workspace.settings)
    assert isinstance(request, SweepRequest)
    return request


def test_the_defaults(workspace: Workspace):
    request = read(workspace)
    assert (request.trials, request.folds, request.scheduler, request.cpus_per_trial, request.gpus_per_trial) == (
        40,
        1,
        "asha",
        1,
        0,
    )
    assert request.detectors == ("forest", "autoencoder") and request.objectives == ("average_precision",)
    assert request.max_concurrent is None and request.time_budget_s is None and request.should_track
    assert not request.is_resumed and not request.should_retry
    assert request.data == str(workspace.folder / "data.csv") and request.outdir == workspace.folder / "sweep"
    assert request.space.text == SPACE and request.config.seed == 3
    assert request.sweep_id.startswith("transactions-") and read(workspace).sweep_id != request.sweep_id


def test_every_flag_is_read(workspace: Workspace):
    request = read(
        workspace, "--trials", "8", "--detector", "forest", "--max-concurrent", "3", "--cpus-per-trial", "0.5",
        "--gpus-per-trial", "0.25", "--time-budget", "15m", "--objectives", "ap,cost", "--scheduler", "none", "--folds",
        "2", "--seed", "11", "--set", "autoencoder.noise=0.3", "--no-mlflow", "--outdir", "other",
    )  # fmt: skip
    assert (request.trials, request.detectors, request.max_concurrent) == (8, ("forest",), 3)
    assert (request.cpus_per_trial, request.gpus_per_trial, request.time_budget_s) == (0.5, 0.25, 900)
    assert (request.objectives, request.scheduler, request.folds) == (("average_precision", "scoring_cost"), "none", 2)
    assert (request.config.seed, request.config.autoencoder.noise) == (11, 0.3)
    assert not request.should_track and request.outdir == workspace.folder / "other"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--trials", "0"], "--trials 0: give 1 or more"),
        (["--max-concurrent", "0"], "--max-concurrent 0: give 1 or more"),
        (["--folds", "0"], "--folds 0: give 1 or more"),
        (["--cpus-per-trial", "0"], "--cpus-per-trial .*above 0"),
        (["--cpus-per-trial", "nan"], "--cpus-per-trial .*above 0"),
        (["--cpus-per-trial", "inf"], "--cpus-per-trial .*above 0"),
        (["--gpus-per-trial", "-1"], "--gpus-per-trial"),
        (["--time-budget", "soon"], "--time-budget 'soon': write a number and s, m, h or d"),
        (["--time-budget", "0m"], "--time-budget '0m'"),
        (["--set", "autoencoder.epoch=3"], "did you mean 'epochs'"),
        (["--space", "none.yaml"], "no search space"),
        (["--config", "none.yaml"], "no configuration"),
        (["--retry-failed"], "--retry-failed .*--resume"),
        (["--outdir", "s3://bucket/x"], "must be a local folder"),
    ],
)
def test_mistakes_name_the_flag_and_the_remedy(workspace: Workspace, more: list[str], words: str):
    with pytest.raises(ConfigError, match=words) as raised:
        read(workspace, *more)
    assert "\n" not in str(raised.value)


def test_data_must_be_named(workspace: Workspace):
    with pytest.raises(ConfigError, match="--data is missing"):
        read_command(["--trials", "3"], workspace.settings)
    with pytest.raises(SchemaError):
        read(workspace, "--schema", "nobody")


def test_a_folder_with_other_files_is_not_written_to(workspace: Workspace):
    (workspace.folder / "mine").mkdir()
    (workspace.folder / "mine" / "thesis.doc").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        read(workspace, "--outdir", "mine")


def test_a_detector_without_anything_to_search_is_refused_at_once(workspace: Workspace):
    (workspace.folder / "forests.yaml").write_text("forest:\n  max_samples: {choice: [64, 128]}\n")
    assert read(workspace, "--space", "forests.yaml", "--detector", "forest").detectors == ("forest",)
    with pytest.raises(ConfigError, match="nothing to search for the autoencoder"):
        read(workspace, "--space", "forests.yaml")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("90", 90), ("1.5h", 5400), ("2d", 172_800), ("10 m", 600)])
def test_time_budgets(workspace: Workspace, text: str, seconds: float):
    assert read(workspace, "--time-budget", text).time_budget_s == seconds


def test_what_the_journal_keeps_is_the_order(workspace: Workspace):
    first = read(workspace, "--trials", "8", "--detector", "forest", "--objectives", "ap,cost", "--time-budget", "1h")
    saved = json.loads(json.dumps(first.to_dict()))
    again = SweepRequest.from_dict(saved)
    assert again.is_resumed and again.to_dict() == first.to_dict()
    assert (again.schema, again.config, again.space, again.detectors) == (
        first.schema, first.config, first.space, first.detectors,
    )  # fmt: skip
    assert saved["detector"] == "forest" and saved["space"] == SPACE and saved["seed"] == 3


def test_an_order_of_another_version_is_refused(workspace: Workspace):
    saved = read(workspace).to_dict()
    with pytest.raises(ConfigError, match="another version"):
        SweepRequest.from_dict({name: value for name, value in saved.items() if name != "space_name"})
    with pytest.raises(ConfigError, match="unknown key"):
        SweepRequest.from_dict({**saved, "config": {**saved["config"], "gone": 1}})


def test_resuming_keeps_the_order_but_for_what_may_change(workspace: Workspace, tmp_path: Path):
    first = read(workspace, "--trials", "8", "--time-budget", "1h", "--max-concurrent", "1")
    resumed = read_command(["--resume", first.sweep_id], workspace.settings)
    assert isinstance(resumed, Resume)
    same = resumed.applied_to(first)
    assert (same.trials, same.max_concurrent, same.outdir, same.should_track) == (8, 1, first.outdir, True)
    assert same.time_budget_s is None, "a budget is that of one call"
    more = read_command(
        ["--resume", "x", "--trials", "10", "--max-concurrent", "2", "--time-budget", "5m", "--cpus-per-trial", "0.5",
         "--outdir", str(tmp_path / "o"), "--retry-failed"], workspace.settings,
    )  # fmt: skip
    changed = more.applied_to(first)
    assert (changed.trials, changed.max_concurrent, changed.time_budget_s) == (10, 2, 300)
    assert (changed.outdir, changed.cpus_per_trial, changed.should_retry) == (tmp_path / "o", 0.5, True)
    assert (changed.data, changed.config, changed.space) == (first.data, first.config, first.space)


@pytest.mark.parametrize(
    "flag",
    [["--data", "data.csv"], ["--schema", "transactions"], ["--config", "config.yaml"], ["--space", "space.yaml"],
     ["--detector", "forest"], ["--folds", "2"], ["--seed", "1"], ["--set", "seed=1"], ["--objectives", "ap"],
     ["--scheduler", "none"]],
)  # fmt: skip
def test_resuming_refuses_what_was_ordered_already(workspace: Workspace, flag: list[str]):
    with pytest.raises(ConfigError, match=f"leave out {flag[0]}"):
        read_command(["--resume", "x", *flag], workspace.settings)


def test_a_named_sweep_goes_on_when_it_is_ordered_again(workspace: Workspace):
    first = read(workspace, "--name", "week-5", "--trials", "8")
    assert first.sweep_id == "week-5"
    again = workspace.command("--name", "week-5")
    assert isinstance(read_command(again, workspace.settings), SweepRequest), "nothing was begun yet"
    with locked_journal(workspace.settings.state / "sweeps", "week-5", must_exist=False) as journal:
        journal.write_request(first.to_dict())
    taken_up = read_command([*again, "--trials", "9"], workspace.settings)
    assert isinstance(taken_up, Resume) and taken_up.applied_to(first).trials == 9
    with pytest.raises(ConfigError, match="another detector"):
        read_command([*again, "--detector", "forest"], workspace.settings)
    with pytest.raises(ConfigError, match="is not a valid name"):
        read_command([*again[:-1], "../elsewhere"], workspace.settings)


def test_resuming_cannot_take_trials_away(workspace: Workspace):
    fewer = read_command(["--resume", "x", "--trials", "2"], workspace.settings)
    with pytest.raises(ConfigError, match="--trials 2 is fewer than the 8"):
        fewer.applied_to(read(workspace, "--trials", "8"))


def test_help_teaches(workspace: Workspace, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        read_command(["--help"], workspace.settings)
    help_text = capsys.readouterr().out
    assert "examples:" in help_text and "--resume" in help_text and "test window" in help_text


def test_the_training_takes_the_schema_file_of_the_sweep(workspace: Workspace):
    (workspace.folder / "my.yaml").write_text(Schema.load("transactions").to_yaml())
    request = read(workspace, "--schema", "my.yaml")
    recorded = json.loads(json.dumps(request.to_dict()))
    folder = workspace.folder
    flags = f"--data {folder}/data.csv --schema {folder}/my.yaml --config {folder}/best.yaml"
    assert training_command(recorded, folder / "best.yaml") == f"python -m ray_jobs.train {flags}"
    assert SweepRequest.from_dict(recorded).schema_source == f"{folder}/my.yaml"
    del recorded["schema_source"]  # as 0.2.0 wrote it
    assert "--schema transactions " in training_command(recorded, folder / "best.yaml")
    assert SweepRequest.from_dict(recorded).data == request.data
