"""What a command line orders, what a journal keeps of it, and the words for what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fraud.errors import ConfigError, SchemaError
from tests.tuning.small import SPACE, Place
from tuning.order import Resume, SweepRequest, read_command
from tuning.record.journal import locked_journal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("order"), n=50)


def order(place: Place, *more: str) -> SweepRequest:
    found = read_command(place.command(*more), place.settings)
    assert isinstance(found, SweepRequest)
    return found


def test_the_defaults(place: Place):
    found = order(place)
    assert (found.trials, found.folds, found.scheduler, found.cpus_per_trial, found.gpus_per_trial) == (
        40,
        1,
        "asha",
        1,
        0,
    )
    assert found.detectors == ("forest", "autoencoder") and found.objectives == ("average_precision",)
    assert found.max_concurrent is None and found.time_budget_s is None and found.should_track
    assert not found.is_resumed and not found.should_retry
    assert found.data == str(place.folder / "data.csv") and found.outdir == place.folder / "sweep"
    assert found.space.text == SPACE and found.config.seed == 3
    assert found.sweep_id.startswith("transactions-") and order(place).sweep_id != found.sweep_id


def test_every_flag_is_heard(place: Place):
    found = order(
        place, "--trials", "8", "--detector", "forest", "--max-concurrent", "3", "--cpus-per-trial", "0.5",
        "--gpus-per-trial", "0.25", "--time-budget", "15m", "--objectives", "ap,cost", "--scheduler", "none", "--folds",
        "2", "--seed", "11", "--set", "autoencoder.noise=0.3", "--no-mlflow", "--outdir", "other",
    )  # fmt: skip
    assert (found.trials, found.detectors, found.max_concurrent) == (8, ("forest",), 3)
    assert (found.cpus_per_trial, found.gpus_per_trial, found.time_budget_s) == (0.5, 0.25, 900)
    assert (found.objectives, found.scheduler, found.folds) == (("average_precision", "scoring_cost"), "none", 2)
    assert (found.config.seed, found.config.autoencoder.noise) == (11, 0.3)
    assert not found.should_track and found.outdir == place.folder / "other"


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
def test_mistakes_name_the_flag_and_the_remedy(place: Place, more: list[str], words: str):
    with pytest.raises(ConfigError, match=words) as raised:
        order(place, *more)
    assert "\n" not in str(raised.value)


def test_data_must_be_named(place: Place):
    with pytest.raises(ConfigError, match="--data is missing"):
        read_command(["--trials", "3"], place.settings)
    with pytest.raises(SchemaError):
        order(place, "--schema", "nobody")


def test_a_folder_with_other_files_is_not_written_to(place: Place):
    (place.folder / "mine").mkdir()
    (place.folder / "mine" / "thesis.doc").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        order(place, "--outdir", "mine")


def test_a_detector_without_anything_to_search_is_refused_at_once(place: Place):
    (place.folder / "forests.yaml").write_text("forest:\n  max_samples: {choice: [64, 128]}\n")
    assert order(place, "--space", "forests.yaml", "--detector", "forest").detectors == ("forest",)
    with pytest.raises(ConfigError, match="nothing to search for the autoencoder"):
        order(place, "--space", "forests.yaml")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("90", 90), ("1.5h", 5400), ("2d", 172_800), ("10 m", 600)])
def test_time_budgets(place: Place, text: str, seconds: float):
    assert order(place, "--time-budget", text).time_budget_s == seconds


def test_what_the_journal_keeps_is_the_order(place: Place):
    first = order(place, "--trials", "8", "--detector", "forest", "--objectives", "ap,cost", "--time-budget", "1h")
    kept = json.loads(json.dumps(first.to_dict()))
    again = SweepRequest.from_dict(kept)
    assert again.is_resumed and again.to_dict() == first.to_dict()
    assert (again.schema, again.config, again.space, again.detectors) == (
        first.schema, first.config, first.space, first.detectors,
    )  # fmt: skip
    assert kept["detector"] == "forest" and kept["space"] == SPACE and kept["seed"] == 3


def test_an_order_of_another_version_is_refused(place: Place):
    kept = order(place).to_dict()
    with pytest.raises(ConfigError, match="another version"):
        SweepRequest.from_dict({name: value for name, value in kept.items() if name != "space_name"})
    with pytest.raises(ConfigError, match="unknown key"):
        SweepRequest.from_dict({**kept, "config": {**kept["config"], "gone": 1}})


def test_resuming_keeps_the_order_but_for_what_may_change(place: Place, tmp_path: Path):
    first = order(place, "--trials", "8", "--time-budget", "1h", "--max-concurrent", "1")
    kept = read_command(["--resume", first.sweep_id], place.settings)
    assert isinstance(kept, Resume)
    same = kept.applied_to(first)
    assert (same.trials, same.max_concurrent, same.outdir, same.should_track) == (8, 1, first.outdir, True)
    assert same.time_budget_s is None, "a budget is that of one call"
    more = read_command(
        ["--resume", "x", "--trials", "10", "--max-concurrent", "2", "--time-budget", "5m", "--cpus-per-trial", "0.5",
         "--outdir", str(tmp_path / "o"), "--retry-failed"], place.settings,
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
def test_resuming_refuses_what_was_ordered_already(place: Place, flag: list[str]):
    with pytest.raises(ConfigError, match=f"leave out {flag[0]}"):
        read_command(["--resume", "x", *flag], place.settings)


def test_a_named_sweep_goes_on_when_it_is_ordered_again(place: Place):
    first = order(place, "--name", "week-5", "--trials", "8")
    assert first.sweep_id == "week-5"
    again = place.command("--name", "week-5")
    assert isinstance(read_command(again, place.settings), SweepRequest), "nothing was begun yet"
    with locked_journal(place.settings.state / "sweeps", "week-5", must_exist=False) as journal:
        journal.write_order(first.to_dict())
    taken_up = read_command([*again, "--trials", "9"], place.settings)
    assert isinstance(taken_up, Resume) and taken_up.applied_to(first).trials == 9
    with pytest.raises(ConfigError, match="another detector"):
        read_command([*again, "--detector", "forest"], place.settings)
    with pytest.raises(ConfigError, match="is not a valid name"):
        read_command([*again[:-1], "../elsewhere"], place.settings)


def test_resuming_cannot_take_trials_away(place: Place):
    fewer = read_command(["--resume", "x", "--trials", "2"], place.settings)
    with pytest.raises(ConfigError, match="--trials 2 is fewer than the 8"):
        fewer.applied_to(order(place, "--trials", "8"))


def test_help_teaches(place: Place, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        read_command(["--help"], place.settings)
    said = capsys.readouterr().out
    assert "examples:" in said and "--resume" in said and "test window" in said
