"""Small files become one per day, old days go, and every reader sees each decision once at every moment."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from fraud.data import partitions
from fraud.data.locks import exclusive
from fraud.errors import ConfigError, DataError
from fraud.schema import Schema
from fraud.scoring import decided
from fraud.settings.serving import DecisionSettings
from serve_app import decision_summary
from serve_app.decisions import maintenance
from serve_app.decisions.__main__ import main
from serve_app.decisions.compactor import Compactor
from serve_app.decisions.files import publish
from serve_app.decisions.log import DecisionLog
from serve_app.decisions.lookup import look_up
from serve_app.decisions.maintenance import DecisionFolder
from serve_app.decisions.reader import DecisionReader
from tests.serve_app.decision_cases import NOON_US, SCHEMA, a_decision, eventually, files_of, journals_of, settings_of

MODEL = "fraud-detector"  # of tests.serve_app.decision_cases
DAY_US = 86_400_000_000
DAYS_LATER = dt.datetime(2025, 6, 20, 12, tzinfo=dt.UTC)  # NOON_US is on the 15th


def write_files(settings: DecisionSettings, numbers: range, days: int = 1, first_us: int = NOON_US) -> None:
    """One file for each number and day, as replicas leave them."""
    for number in numbers:
        log = DecisionLog(settings, SCHEMA)
        for day in range(days):
            log.put(numbered(number + 1000 * day, time_us=first_us + day * DAY_US + number))
        log.close()


def numbered(number: int, **changes: object):
    inputs = {**a_decision(0).inputs, "TRANSACTION_ID": str(number)}
    return a_decision(number, inputs=inputs, **changes)


def read_by_all(settings: DecisionSettings) -> list[int]:
    """The ids of all decisions, as every reader sees them; that they agree is asserted."""
    url = str(settings.url)
    ids = sorted(map(int, decided.read(url, SCHEMA)["id"]))
    assert len(decision_summary.read(url)) == len(ids)
    assert ids_read_by_a_history(settings) == ids
    return ids


def ids_read_by_a_history(settings: DecisionSettings) -> list[int]:
    tables = DecisionReader(settings, SCHEMA, ["TRANSACTION_ID"], model=MODEL).read()
    return sorted(int(each) for table in tables for each in table["TRANSACTION_ID"].to_pylist())


def test_each_day_that_is_over_becomes_one_file_with_the_same_rows(tmp_path: Path):
    settings = settings_of(tmp_path)
    write_files(settings, range(5), days=3)
    before = {day: pq.read_table(folder).to_pylist() for day, folder in day_folders(settings)}
    changed = DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    assert [(day.date, len(day.files), len(after.files)) for day, after in changed] == [
        (f"2025-06-{day}", 5, 1) for day in (15, 16, 17)
    ]
    after = {day: pq.read_table(folder).to_pylist() for day, folder in day_folders(settings)}
    assert {day: sorted(map(str, rows)) for day, rows in after.items()} == {
        day: sorted(map(str, rows)) for day, rows in before.items()
    }
    assert [row["request_id"] for row in after["2025-06-15"]] == ["0", "1", "2", "3", "4"], "not in order of time"
    assert read_by_all(settings) == sorted(n + 1000 * day for n in range(5) for day in range(3))
    assert DecisionFolder(str(settings.url)).merge(now=DAYS_LATER) == [], "a merged day was merged again"


def day_folders(settings: DecisionSettings) -> list[tuple[str, Path]]:
    return [(path.name[5:], path) for path in sorted(Path(str(settings.url)).glob("date=*"))]


def test_today_is_merged_only_when_that_is_worth_it_and_once_more_when_it_is_over(tmp_path: Path):
    settings = settings_of(tmp_path)
    today, folder = dt.datetime(2025, 6, 15, 20, tzinfo=dt.UTC), DecisionFolder(str(settings.url))
    write_files(settings, range(4))
    assert folder.merge(now=today, fewest=5) == []
    write_files(settings, range(4, 6))
    assert len(folder.merge(now=today, fewest=5)) == 1
    write_files(settings, range(6, 12))
    assert len(folder.merge(now=today, fewest=5)) == 1
    assert len(files_of(settings)) == 2 and read_by_all(settings) == list(range(12))
    just_after_midnight = dt.datetime(2025, 6, 16, 0, 30, tzinfo=dt.UTC)  # a replica may still write the last minute
    assert folder.merge(now=just_after_midnight) == []
    assert len(folder.merge(now=DAYS_LATER)) == 1
    assert len(files_of(settings)) == 1 and read_by_all(settings) == list(range(12))
    assert folder.merge(now=DAYS_LATER + dt.timedelta(days=30), last_days=3) == []


class KilledError(Exception):
    pass


@pytest.mark.parametrize("steps", range(6))
def test_a_merge_that_is_killed_at_any_step_shows_each_decision_once_and_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
):
    settings = settings_of(tmp_path)
    write_files(settings, range(3))
    left = steps

    def interruptible(work: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return work(*arguments)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(maintenance, "write_durably", interruptible(maintenance.write_durably))
        patch.setattr(LocalFileSystem, "rm_file", interruptible(LocalFileSystem.rm_file))
        with suppress(KilledError):
            DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    assert (left < 0) == (steps < 5), "a merge of three files writes twice and removes three times"
    assert read_by_all(settings) == [0, 1, 2]
    DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    assert read_by_all(settings) == [0, 1, 2] and len(files_of(settings)) == 1


def test_readers_beside_a_merge_never_see_a_decision_twice_or_not(tmp_path: Path):
    settings = settings_of(tmp_path)
    write_files(settings, range(12))
    url, has_ended = str(settings.url), threading.Event()
    ids_of_analysts, ids_of_histories, n_of_summaries = list[list[int]](), list[list[int]](), list[int]()

    def read() -> None:
        while not has_ended.is_set():
            ids_of_analysts.append(sorted(map(int, decided.read(url, SCHEMA)["id"])))
            n_of_summaries.append(len(decision_summary.read(url)))
            # Without journals: those that are published meanwhile are read twice on purpose.
            ids_of_histories.append(ids_read_by_a_history(replace(settings, journal=tmp_path / "none")))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for first in range(12, 60, 6):
            DecisionFolder(url).merge(now=DAYS_LATER)
            write_files(settings, range(first, first + 6))
    finally:
        has_ended.set()
        reader.join()
    assert len(ids_of_analysts) == len(ids_of_histories) > 2, "the reading thread ended with an error"
    assert n_of_summaries == sorted(n_of_summaries)
    for ids in ids_of_analysts + ids_of_histories:
        assert ids == list(range(len(ids))) and len(ids) >= 12


def test_a_following_reader_reads_on_after_a_merge_without_repeating(tmp_path: Path):
    settings, reader = (
        settings_of(tmp_path),
        DecisionReader(settings_of(tmp_path), SCHEMA, ["TRANSACTION_ID"], model=MODEL),
    )
    folder = DecisionFolder(str(settings.url))

    def new() -> list[int]:
        return sorted(int(each) for table in reader.read() for each in table["TRANSACTION_ID"].to_pylist())

    write_files(settings, range(3))
    assert new() == [0, 1, 2]
    folder.merge(now=DAYS_LATER)
    assert new() == []
    write_files(settings, range(3, 5))
    assert new() == [3, 4]
    folder.merge(now=DAYS_LATER)
    assert new() == []
    write_files(settings, range(5, 6))
    folder.merge(now=DAYS_LATER)
    assert new() == [5], "what was merged before it was read is lost, or what was read comes again"


def test_a_journal_that_is_published_again_after_its_file_was_merged_does_not_count_twice(tmp_path: Path):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    log.put(numbered(0))
    eventually(lambda: journals_of(settings))
    eventually(lambda: journals_of(settings)[0].read_bytes().count(b"\n") == 2)
    (journal,) = journals_of(settings)
    copy = tmp_path / "copy.jsonl"
    shutil.copy(journal, copy)
    log.close()
    (name,) = [path.stem for path in files_of(settings)]
    write_files(settings, range(1, 3))
    DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    publish(copy, str(settings.url), name)  # as a start after a crash does
    assert len(files_of(settings)) == 2
    assert read_by_all(settings) == [0, 1, 2]
    DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    assert len(files_of(settings)) == 1 and read_by_all(settings) == [0, 1, 2]


def test_files_of_two_schemas_are_merged_apart(tmp_path: Path):
    settings, other = settings_of(tmp_path), Schema.load("transactions")
    write_files(settings, range(3))
    for number in range(3):
        log = DecisionLog(settings, other)
        log.put(a_decision(number, schema_fingerprint=other.fingerprint, inputs={"amount": 2.0}, reasons=[]))
        log.close()
    DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    kinds = sorted(pq.read_schema(path).field("inputs").type.num_fields for path in files_of(settings))
    assert kinds == sorted((len(list(SCHEMA.inputs)), len(list(other.inputs))))
    assert DecisionFolder(str(settings.url)).merge(now=DAYS_LATER) == []


def test_an_unreadable_file_stays_and_a_damaged_index_is_an_error_not_a_guess(tmp_path: Path):
    settings = settings_of(tmp_path)
    write_files(settings, range(3))
    (_, folder), *_ = day_folders(settings)
    (folder / "torn.parquet").write_bytes(b"PAR1")
    DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    assert (folder / "torn.parquet").exists() and len(files_of(settings)) == 2
    (folder / "torn.parquet").unlink()
    (folder / partitions.MERGED_INDEX).write_text("{")
    with pytest.raises(DataError, match=r"_merged\.json is damaged"):
        decision_summary.read(str(settings.url))


def test_another_store_merges_too(tmp_path: Path):
    url = f"memory://bucket-{os.getpid()}/merged"
    settings = settings_of(tmp_path, FRAUD_DECISIONS=url)
    write_files(settings, range(4), days=2)
    changed = DecisionFolder(url).merge(now=DAYS_LATER)
    assert [(len(day.files), len(after.files)) for day, after in changed] == [(4, 1), (4, 1)]
    assert read_by_all(settings) == [0, 1, 2, 3, 1000, 1001, 1002, 1003]


def test_prune_says_what_it_would_delete_and_deletes_only_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = settings_of(tmp_path)
    old, young = NOON_US, int((dt.datetime.now(dt.UTC) - dt.timedelta(days=399)).timestamp() * 1e6)
    for time_us in (old, old + DAY_US, young):
        log = DecisionLog(settings, SCHEMA)
        log.put(numbered(1, time_us=time_us))
        log.close()
    command = ["prune", "--older", "400d", "--decisions", str(settings.url)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("would delete 2 days (2025-06-15 to 2025-06-16), 2 files, ") and "--yes" in said
    assert len(files_of(settings)) == 3
    with exclusive(Path(str(settings.url)) / "_maintenance.lock"), pytest.raises(ConfigError, match="nothing was del"):
        main([*command, "--yes"])
    assert len(files_of(settings)) == 3
    assert main([*command, "--yes"]) == 0
    assert capsys.readouterr().out.startswith("deleted 2 days")
    assert [path.parent.name for path in files_of(settings)] == [f"date={dt.date.fromtimestamp(young / 1e6)}"]
    assert main([*command, "--yes"]) == 0
    assert capsys.readouterr().out == "no day is older than 400 days\n"
    for age in ("0d", "400", "-1d", "1y"):
        with pytest.raises(ConfigError, match="400d"):
            main(["prune", f"--older={age}", "--decisions", str(settings.url)])


def test_show_finds_a_decision_in_merged_files_new_files_and_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path))
    settings = settings_of(tmp_path)
    write_files(settings, range(3))
    DecisionFolder(str(settings.url)).merge(now=DAYS_LATER)
    write_files(settings, range(3, 4))
    log = DecisionLog(settings, SCHEMA)
    log.put(numbered(4))
    eventually(lambda: look_up(settings, "4"))
    for number in range(5):
        assert main(["show", str(number)]) == 0
        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert row["request_id"] == str(number)
        assert main(["show", str(number), "--column", "TRANSACTION_ID", "--since", "2025-06-15"]) == 0
        assert json.loads(capsys.readouterr().out) == row
    log.close()
    assert main(["show", "2", "--since", "2025-06-16"]) == 1
    assert main(["show", "2", "--column", "NO_SUCH"]) == 1
    assert "NO_SUCH '2'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_replica_merges_in_a_process_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    settings = settings_of(tmp_path, FRAUD_DECISIONS_COMPACT_S="0.1")
    write_files(settings, range(3), first_us=int(time.time() * 1e6) - 2 * DAY_US)
    compactor = Compactor(settings)
    compactor.start()
    eventually(lambda: len(files_of(settings)) == 1)
    compactor.stop()
    assert read_by_all(settings) == [0, 1, 2]
    assert not caplog.records
    next(Path(str(settings.url)).glob(f"date=*/{partitions.MERGED_INDEX}")).write_text("{")
    assert not Compactor(settings).run_once()
    assert "_merged.json is damaged" in caplog.text


def test_no_log_and_no_interval_start_nothing(tmp_path: Path):
    for variables in ({"FRAUD_DECISIONS": "off"}, {"FRAUD_DECISIONS_COMPACT_S": "0"}):
        compactor = Compactor(settings_of(tmp_path, **variables))
        compactor.start()
        assert not any(thread.name == "decision-compactor" for thread in threading.enumerate())
        compactor.stop()
