"""`python -m ray_jobs.generate`: reproducible files, written whole or not at all."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fraud.data.simulation import cards, transactions
from fraud.errors import ConfigError, DataError
from ray_jobs import generate

REPO = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder of the test's own (other fixtures use tmp_path itself)."""
    empty = tmp_path / "generated"
    empty.mkdir()
    return empty


def command(folder: Path, *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FRAUD_ROOT": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.generate", *flags],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["transactions", "cards"])
@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_same_flags_same_bytes_and_the_rows_of_the_simulator(folder: Path, kind: str, extension: str) -> None:
    paths = [folder / f"{name}.{extension}" for name in "ab"]
    for path in paths:
        generate.generate(str(path), 4000, kind=kind, seed=3, fraud_rate=0.05, drift=0.5)
    assert digest(paths[0]) == digest(paths[1])
    simulate = {"transactions": transactions, "cards": cards}[kind]
    expected = simulate(4000, seed=3, fraud_rate=0.05, drift=0.5)
    if extension == "csv":
        dates = ["TX_DATETIME"] if kind == "cards" else []
        written = pd.read_csv(paths[0], parse_dates=dates)
    else:
        written = pd.read_parquet(paths[0])
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, check_index_type=False)
    generate.generate(str(paths[1]), 4000, kind=kind, seed=4, fraud_rate=0.05, drift=0.5, force=True)
    assert digest(paths[0]) != digest(paths[1])


def test_the_csv_has_a_plain_header_and_cents(folder: Path) -> None:
    path = folder / "t.csv"
    generate.generate(str(path), 1)
    header, row, end = path.read_text().split("\n")
    assert header == "amount,hour,distance,device_score,country_mismatch,is_fraud"
    assert row == ",".join(f"{value:g}" for value in transactions(1).iloc[0])
    assert end == ""


@pytest.mark.parametrize("kind", ["transactions", "cards"])
def test_pieces_do_not_show_in_the_rows(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    two_groups, many_groups = folder / "whole.parquet", folder / "pieces.parquet"
    generate.generate(str(two_groups), 300_000, kind=kind)
    monkeypatch.setattr(generate, "ROW_GROUP", 10_000)
    generate.generate(str(many_groups), 300_000, kind=kind)
    assert pq.ParquetFile(two_groups).num_row_groups == 2
    assert pq.ParquetFile(many_groups).num_row_groups >= 2
    assert pq.read_table(two_groups).equals(pq.read_table(many_groups))


def test_the_number_of_frauds_is_returned(folder: Path) -> None:
    path = folder / "t.csv"
    assert generate.generate(str(path), 5000) == pd.read_csv(path).is_fraud.sum() > 0


def test_the_command_takes_relative_paths_from_the_root_and_makes_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_ROOT", str(folder))
    before = signal.getsignal(signal.SIGTERM)
    assert generate.main(["--rows", "200", "--out", "data/t.csv", "--seed", "9", "--drift", "0.3"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    written = pd.read_csv(folder / "data" / "t.csv")
    pd.testing.assert_frame_equal(written, transactions(200, seed=9, drift=0.3), check_index_type=False)
    assert [path.name for path in (folder / "data").iterdir()] == ["t.csv"]


def test_a_url_is_written_atomically() -> None:
    generate.generate("memory://generated/t.csv", 100)
    filesystem = fsspec.filesystem("memory")
    assert [Path(name).name for name in filesystem.ls("/generated", detail=False)] == ["t.csv"]
    with filesystem.open("/generated/t.csv") as file:
        assert len(pd.read_csv(file)) == 100


def test_progress_is_logged(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(generate, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level("INFO"):
        generate.generate(str(folder / "t.parquet"), 300_000)
    assert "262,144 of 300,000 rows" in caplog.text
    assert "rows/s" in caplog.text


@pytest.mark.parametrize("extension", ["csv", "parquet"])
@pytest.mark.parametrize("kind", ["transactions", "cards"])
def test_a_file_with_other_rows_is_never_replaced_without_force(folder: Path, kind: str, extension: str) -> None:
    path = folder / f"t.{extension}"
    generate.generate(str(path), 3000, kind=kind)
    made = path.stat()
    assert generate.generate(str(path), 3000, kind=kind) > 0
    now = path.stat()
    assert (now.st_ino, now.st_mtime_ns) == (made.st_ino, made.st_mtime_ns), "the same rows: left as it is"
    for other in ({"seed": 8}, {"drift": 0.5}, {"fraud_rate": 0.1}):
        with pytest.raises(DataError, match=r"--out.*other rows.*--force") as caught:
            generate.generate(str(path), 3000, kind=kind, **other)
        assert "\n" not in str(caught.value)
    for rows in (2999, 3001):
        with pytest.raises(DataError, match=r"other rows.*--force"):
            generate.generate(str(path), rows, kind=kind)
    with path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(DataError, match=r"other rows.*--force"):
        generate.generate(str(path), 3000, kind=kind)
    assert list(folder.iterdir()) == [path]
    generate.generate(str(path), 3000, kind=kind, force=True)
    assert path.stat().st_size == made.st_size


def test_the_command_keeps_my_file_and_names_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUD_ROOT", str(folder))
    (folder / "mine.csv").write_text("amount\n1\n")
    flags = ["--rows", "300", "--out", "mine.csv"]
    with pytest.raises(DataError, match=r"mine\.csv.*--force"):
        generate.main(flags)
    assert (folder / "mine.csv").read_text() == "amount\n1\n"
    assert generate.main([*flags, "--force"]) == 0
    assert capsys.readouterr().out == "next: python -m ray_jobs.train --data mine.csv --schema transactions\n"
    assert generate.main(["--rows", "300", "--kind", "cards", "--out", "my cards.parquet"]) == 0
    assert capsys.readouterr().out == "next: python -m ray_jobs.train --data 'my cards.parquet' --schema handbook\n"


def test_a_failure_half_way_keeps_the_old_file_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "t.csv"
    path.write_text("old")

    def breaks(*_: object):
        yield transactions(300_000)
        assert len(list(folder.iterdir())) == 2  # the old file and the unfinished one
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(generate.SOURCES, "transactions", breaks)
    with pytest.raises(DataError, match=r"cannot write \(--out\).*No space left.*make room"):
        generate.generate(str(path), 400_000, force=True)
    assert path.read_text() == "old"
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path, extension: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.generate", "--rows", "600000", "--out", str(folder / f"t.{extension}")],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: cannot write (--out)" in done.stderr.splitlines()[-1]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_nothing(folder: Path, sign: signal.Signals) -> None:
    process = command(folder, "--rows", "1000000000", "--out", "t.csv")
    deadline = time.monotonic() + 60
    while not list(folder.glob(".t.csv.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(folder.glob(".t.csv.*.partial"))
    process.send_signal(sign)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "0"], "--rows.*is 0"),
        (["--rows", "-3"], "--rows.*is -3"),
        (["--rows", "many"], "--rows.*'many'.*--help"),
        (["--fraud-rate", "0"], "--fraud-rate.*above 0"),
        (["--fraud-rate", "0.5"], "--fraud-rate.*below 0.5"),
        (["--drift", "-1"], "--drift.*is -1.0"),
        (["--seed", "-1"], "--seed.*is -1"),
        (["--kind", "loans"], "--kind.*'loans'.*transactions.*cards"),
        (["--out", "t.xlsx"], r"--out.*t.xlsx.*\.csv or \.parquet"),
        (["--out", "t"], r"--out.*\.csv or \.parquet"),
        (["--out", "nosuch://t.csv"], "--out.*nosuch"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_wrong_flag_is_one_line_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.setenv("FRAUD_ROOT", str(folder))
    with pytest.raises(ConfigError, match=message) as caught:
        generate.main(["--rows", "10", "--out", "new/t.csv", *flags])
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_missing_flags_are_named() -> None:
    with pytest.raises(ConfigError, match="--out"):
        generate.main([])


def test_a_folder_as_output_is_refused(folder: Path) -> None:
    (folder / "day.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        generate.generate(str(folder / "day.csv"), 10)


def test_a_folder_that_cannot_be_made_is_one_line(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write.*another folder"):
        generate.generate(str(folder / "file" / "t.csv"), 10)


def test_the_command_ends_with_code_2_and_one_line(folder: Path) -> None:
    process = command(folder, "--rows", "0", "--out", "t.csv")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr.splitlines() == ["error: rows (--rows) is 0: ask for at least 1 row"]


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        generate.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "--kind" in text


def test_a_day_has_the_same_rows_whichever_days_are_made(folder: Path) -> None:
    generate.generate_days(str(folder / "all.parquet"), 4, n_customers=30)
    second = dt.date(2024, 1, 3)
    generate.generate_days(str(folder / "{date}.parquet"), 2, first=second, n_customers=30)
    names = ["2024-01-03.parquet", "2024-01-04.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "all.parquet"]
    rows = pd.read_parquet(folder / "all.parquet")
    later = rows[rows.TX_DATETIME.dt.date >= second].reset_index(drop=True)
    alone = pd.concat([pd.read_parquet(folder / name) for name in names], ignore_index=True)
    pd.testing.assert_frame_equal(alone, later)
    assert rows.TRANSACTION_ID.is_unique and later.TRANSACTION_ID[0] == 20240103_000000


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--days", "3"), "--kind is transactions: add --kind cards"),
        (("--rows", "3", "--date", "2024-01-03"), "--date and --customers belong to --days"),
        (("--kind", "cards", "--days", "0"), r"days \(--days\) is 0"),
        (("--kind", "cards", "--days", "1", "--date", "2023-12-31"), "before day 0"),
    ],
)
def test_days_that_cannot_be_made_are_refused(folder: Path, flags: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        generate.main([*flags, "--out", str(folder / "cards.csv")])
    assert not list(folder.iterdir())


def test_the_next_command_scores_the_first_of_the_days(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    arguments = ["--kind", "cards", "--days", "2", "--customers", "30", "--out", "daily/{date}.csv"]
    assert generate.main([*arguments, "--date", "2024-04-30"]) == 0
    assert "ray_jobs.score --data 'daily/*.csv' --out scored --date 2024-04-30\n" in capsys.readouterr().out
    assert {path.name for path in Path("daily").iterdir()} == {"2024-04-30.csv", "2024-05-01.csv"}
