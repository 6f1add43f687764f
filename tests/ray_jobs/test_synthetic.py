"""The synthetic world: one day a run, the same day for the same run, labels in time, and never beside real files."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pytest

from fraud.data import tables
from fraud.errors import ConfigError
from fraud.labels.store import LabelStore
from fraud.schema import Schema
from fraud.settings import Settings
from ray_jobs import synthetic
from ray_jobs.labels import command as labels

FIRST = synthetic.FIRST_DAY + dt.timedelta(days=synthetic.HISTORY_DAYS)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    return tmp_path / "synthetic"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The day that a command printed."""
    assert synthetic.main([*arguments]) == 0
    return capsys.readouterr().out.strip().removeprefix("day: ")


def daily(root: Path, day: dt.date | str) -> pd.DataFrame:
    return pd.read_parquet(root / "data" / "daily" / f"{day}.parquet")


def incoming(root: Path, day: dt.date | str) -> pd.DataFrame:
    return pd.read_csv(root / "labels" / "incoming" / f"{day}.csv", parse_dates=["known_at"])


def test_each_run_is_a_day_and_a_run_that_asks_again_gets_its_own(root: Path, capsys: pytest.CaptureFixture[str]):
    assert call(capsys, "start") == call(capsys, "today") == f"{FIRST}"
    assert call(capsys, "day", "--run", "a") == f"{FIRST}"
    second = call(capsys, "day", "--run", "b")
    assert second == f"{FIRST + dt.timedelta(days=1)}"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert call(capsys, "day", "--run", "a") == call(capsys, "day", "--run", "c", "--date", f"{FIRST}") == f"{FIRST}"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match=f"--date 2031-01-01: .* next day is {FIRST + dt.timedelta(days=2)}"):
        synthetic.main(["day", "--run", "d", "--date", "2031-01-01"])


def test_a_day_is_the_same_whatever_was_made_before(root: Path, capsys: pytest.CaptureFixture[str]):
    for run in "abc":
        last = call(capsys, "day", "--run", run, "--drift", "1" if run == "c" else "0")
    elsewhere = ["--data", "other/data/daily/{date}.parquet", "--labels", "other/labels/incoming/{date}.csv"]
    for run in ("x", "y", "z"):
        call(capsys, "day", "--run", run, "--drift", "1", *elsewhere)
    other = root.parent / "other"
    pd.testing.assert_frame_equal(daily(root, last), daily(other, last))
    assert not daily(root, FIRST).equals(daily(other, FIRST))  # one drifted, one did not
    pd.testing.assert_frame_equal(incoming(root, FIRST), incoming(other, FIRST))


def test_the_next_days_have_the_cards_and_terminals_of_the_history(root: Path, capsys: pytest.CaptureFixture[str]):
    call(capsys, "day", "--run", "a")
    known, new = daily(root, FIRST - dt.timedelta(days=1)), daily(root, FIRST)
    assert set(new.CUSTOMER_ID) <= set(range(250))
    assert len(set(new.CUSTOMER_ID) & set(known.CUSTOMER_ID)) > 100
    assert not set(new.TRANSACTION_ID) & set(known.TRANSACTION_ID)
    assert set(new.TX_DATETIME.dt.date) == {FIRST}


def test_labels_come_a_week_later_and_the_store_takes_them(root: Path, capsys: pytest.CaptureFixture[str]):
    call(capsys, "day", "--run", "a")
    assert incoming(root, FIRST - dt.timedelta(days=1)).known_at.max() < pd.Timestamp(FIRST)
    newest = incoming(root, FIRST)
    assert set(newest.known_at.dt.date) == {FIRST}
    labelled = daily(root, FIRST - dt.timedelta(days=synthetic.LABEL_DAYS))
    assert newest.TRANSACTION_ID.tolist() == labelled.TRANSACTION_ID.tolist()
    assert 0 < newest.TX_FRAUD.mean() < 0.15
    assert "TX_FRAUD" not in labelled

    assert labels.main(["ingest", "synthetic/labels/incoming/*.csv", "--schema", "handbook"]) == 0
    settings = Settings.from_environment()
    stored = LabelStore.from_environment(settings, {}).read()
    assert len(stored) == sum(len(incoming(root, path.stem)) for path in (root / "labels" / "incoming").iterdir())
    checked = tables.load(str(root / "data" / "daily" / f"{FIRST}.parquet"), Schema.load("handbook"))
    assert len(checked.rows) == len(daily(root, FIRST))


def test_drift_begins_by_itself_and_on_demand(root: Path, capsys: pytest.CaptureFixture[str]):
    days = [call(capsys, "day", "--run", f"{run}") for run in range(synthetic.CALM_DAYS + 2)]
    strong = call(capsys, "day", "--run", "strong", "--drift", "3")
    amounts = {day: daily(root, day).TX_AMOUNT.median() for day in [*days, strong]}
    calm = max(amounts[day] for day in days[: synthetic.CALM_DAYS])
    assert all(amounts[day] > 1.1 * calm for day in days[synthetic.CALM_DAYS :])
    assert amounts[strong] > 1.8 * calm


@pytest.mark.parametrize("place", ["data/daily/2024-03-01.parquet", "data/daily/mine.csv", "labels/incoming/may.csv"])
def test_it_never_writes_beside_real_files(root: Path, capsys: pytest.CaptureFixture[str], place: str):
    real = root / place
    real.parent.mkdir(parents=True)
    real.write_text("mine")
    for action in (["start"], ["day", "--run", "a"]):
        with pytest.raises(ConfigError, match=f"holds '{real.name}', which this command did not write"):
            synthetic.main(action)
    assert [path for path in root.rglob("*") if path.is_file()] == [real] and real.read_text() == "mine"
    real.unlink()
    call(capsys, "start")
    (root / place).with_name("later.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'later\.csv'"):
        synthetic.main(["day", "--run", "a"])


def test_wrong_flags_are_named(root: Path, capsys: pytest.CaptureFixture[str]):
    for arguments, message in (
        (["day"], "day needs --run"),
        (["start", "--data", "{date}/x.parquet"], r"--data .* into the file's name"),
        (["day", "--run", "a", "--drift", "11"], "drift"),
    ):
        with pytest.raises(ConfigError, match=message):
            synthetic.main(arguments)
    call(capsys, "start")
    with pytest.raises(ConfigError, match=r"--seed 8 is not the 7 that the world in .* began with"):
        synthetic.main(["today", "--seed", "8"])


def test_it_can_wait_for_a_champion(root: Path):
    assert synthetic.main(["today", "--await-champion", "0"]) == synthetic.NO_MODEL
