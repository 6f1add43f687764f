"""The command for daily snapshots: built from daily files, rebuilt where one changes, checked, pruned, erased from."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.errors import ConfigError, DataError
from fraud.history.snapshots.days import Snapshots
from fraud.history.stores.node import NodeStore
from fraud.history.stores.store import Visit
from fraud.settings import Settings
from ray_jobs.history import command as history
from tests.fraud.histories import SCHEMA, random_rows

DAYS = 12
CODE = Path(__file__).parents[3]
Workspace = tuple[Path, Path, Snapshots]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Daily files of 12 days, the schema's file, and the snapshots below FRAUD_HISTORY."""
    monkeypatch.setenv("FRAUD_HISTORY", str(tmp_path / "history"))
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    rows = random_rows(np.random.default_rng(3), 600, days=DAYS)
    (tmp_path / "daily").mkdir()
    for day, of_day in rows.groupby(rows["time"].dt.date):
        of_day.drop(columns="fraud").to_parquet(tmp_path / "daily" / f"{day}.parquet", index=False)
    schema = tmp_path / "schema.yaml"
    schema.write_text(SCHEMA.to_yaml())
    return tmp_path, schema, Snapshots(str(tmp_path / "history"), SCHEMA)


def run(workspace: Workspace, *arguments: str) -> int:
    verb, *rest = arguments
    return history.main([verb, "--schema", str(workspace[1]), *rest])


def day(n: int) -> dt.date:
    return dt.date(2026, 1, n)


def test_a_build_makes_what_is_missing_and_nothing_twice(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-08") == 0
    assert "8 days built, 0 rebuilt" in capsys.readouterr().out
    assert workspace[2].newest_day() == day(8)
    assert run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-10") == 0
    out = capsys.readouterr().out
    assert "2 days built, 0 rebuilt, 0 unchanged" in out, "files that were read before are not read again"
    assert "the history up to 2026-01-10 is complete" in out
    score = "python -m ray_jobs.score --data 'daily/*.parquet' --out scored --date 2026-01-11"
    assert out.endswith(f"\nnext: {score}\n")


def test_a_corrected_file_changes_its_day_and_names_the_days_after(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-10")
    file = workspace[0] / "daily" / "2026-01-05.parquet"
    rows = pd.read_parquet(file)
    rows.iloc[1:].to_parquet(file, index=False)
    capsys.readouterr()
    assert run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-10") == 0
    out = capsys.readouterr().out
    assert "0 days built, 1 rebuilt" in out
    assert "2026-01-05 changed: scores of 2026-01-06 to 2026-01-10 (5 days)" in out
    assert workspace[2].newest_day() == day(10)
    assert workspace[2].read(workspace[2].plans[1], day(5)).rows == len(rows) - 1


def test_a_late_file_fills_its_day(workspace: Workspace) -> None:
    """A day of two files: the second comes when the day is there already."""
    first, second = workspace[0] / "daily" / "2026-01-04.parquet", workspace[0] / "daily" / "2026-01-04b.parquet"
    rows = pd.read_parquet(first)
    rows.iloc[:10].to_parquet(first, index=False)
    run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-06")
    rows.iloc[10:].to_parquet(second, index=False)
    run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-06")
    assert workspace[2].read(workspace[2].plans[1], day(4)).rows == len(rows)


def test_a_day_without_data_is_an_error_and_a_day_without_rows_is_said(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match="holds no row of 2026-02-01"):
        run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-02-01")
    (workspace[0] / "daily" / "2026-01-03.parquet").unlink()
    assert run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-05") == 0
    assert "2026-01-03: no row" in caplog.text
    assert workspace[2].newest_day() == day(5)


def test_show_verify_and_prune(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-12", "--since", "2026-01-01")
    capsys.readouterr()
    assert run(workspace, "show") == 0
    assert capsys.readouterr().out.count("complete") == DAYS
    assert run(workspace, "verify", "--data", "daily/*.parquet") == 0
    file = next((workspace[0] / "history" / workspace[2].plans[0].fingerprint / "date=2026-01-07").glob("events-*"))
    content = file.read_bytes()
    file.write_bytes(content[:-20] + bytes(20))
    assert run(workspace, "verify") == 1
    assert "2026-01-07" in capsys.readouterr().out
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="windows reach 10 days back"):
        run(workspace, "prune", "--keep-days", "3")
    assert run(workspace, "prune", "--keep-days", "11") == 0
    assert workspace[2].days() == [day(n) for n in range(2, 13)]
    assert run(workspace, "verify") == 0 and workspace[2].newest_day() == day(12)


@pytest.mark.slow
def test_a_killed_build_leaves_complete_days_and_resumes(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "ray_jobs.history", "build", "--schema", str(workspace[1])]
    command += ["--data", "daily/*.parquet", "--through", "2026-01-12", "--since", "2026-01-01"]
    for days_made in (1, 5, 9):
        process = subprocess.Popen(command, cwd=CODE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(workspace[2].days()) < days_made and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.wait()
        newest = workspace[2].newest_day()
        if newest is not None:
            assert workspace[2].days() == [day(n) for n in range(1, newest.day + 1)], "no gap, no half day"
            assert run(workspace, "verify", "--through", str(newest)) == 0
    assert subprocess.run(command, cwd=CODE, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert workspace[2].newest_day() == day(12)
    assert run(workspace, "verify", "--data", "daily/*.parquet") == 0


@pytest.mark.slow
def test_two_builds_at_once_make_one_history(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "ray_jobs.history", "build", "--schema", str(workspace[1])]
    command += ["--data", "daily/*.parquet", "--through", "2026-01-12", "--since", "2026-01-01"]
    processes = [subprocess.Popen(command, cwd=CODE, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert workspace[2].newest_day() == day(12)
    assert run(workspace, "verify", "--data", "daily/*.parquet") == 0


def test_a_full_disk_is_an_error_and_the_days_before_stay(
    workspace: Workspace, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_HISTORY", str(small_disk / "history"))
    snapshots = Snapshots(str(small_disk / "history"), SCHEMA)
    assert run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-06") == 0
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    with pytest.raises(DataError, match="cannot be written"):
        run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-12")
    assert snapshots.newest_day() == day(6) and run(workspace, "verify") == 0
    filler.unlink()
    assert run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-12") == 0
    assert snapshots.newest_day() == day(12)


def test_verify_names_the_day_whose_data_are_other_data(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-06")
    file = workspace[0] / "daily" / "2026-01-02.parquet"
    pd.read_parquet(file).iloc[2:].to_parquet(file, index=False)
    capsys.readouterr()
    assert run(workspace, "verify", "--data", "daily/*.parquet") == 1
    out = capsys.readouterr().out
    assert out.startswith("2026-01-02: the data give") and "2026-01-03" not in out


def test_an_erased_card_is_nowhere(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(workspace, "build", "--data", "daily/*.parquet", "--through", "2026-01-12")
    before = workspace[2].events(0, day(12))
    assert "bob" in before.keys
    capsys.readouterr()
    store = NodeStore(Settings.from_environment().live, workspace[2].plans)
    store.seed(workspace[2].states(day(12)))
    assert store.peek([Visit(0, "bob", b"")])[0].events
    assert run(workspace, "erase", "--entity", "card=bob") == 0
    out = capsys.readouterr().out
    assert "transactions of bob removed from" in out and "live history (node): bob is removed" in out
    assert not store.peek([Visit(0, "bob", b"")])[0].events and store.peek([Visit(0, "ann", b"")])[0].events
    store.close()
    again = Snapshots(workspace[2].url, SCHEMA)
    after = again.events(0, day(12))
    assert sorted(after.keys) == sorted(set(before.keys) - {"bob"})
    assert again.newest_day() == day(12) and run(workspace, "verify") == 0
    assert not [path for path in Path(workspace[2].url).rglob("*.parquet") if b"bob" in path.read_bytes()]
    with pytest.raises(ConfigError, match="a column that has history: card, category, shop"):
        run(workspace, "erase", "--entity", "name=bob")
