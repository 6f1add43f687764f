"""Every decision becomes a row of Parquet: typed, private, exactly once; what cannot be written is counted."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from fraud.errors import ConfigError
from fraud.schema import Schema
from serve_app.decisions.log import MOST_ROWS, DecisionLog
from serve_app.model.decided import decision_of
from serve_app.model.state import ServedModel
from tests.serve_app.decision_cases import (
    NOON_US,
    SCHEMA,
    Counts,
    a_decision,
    eventually,
    files_of,
    ids_of,
    journals_of,
    rows_of,
    settings_of,
)

ROOT = Path(__file__).resolve().parents[3]
DAY_US = 86_400_000_000
KEY = "a secret that is long enough"


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_a_decision_comes_back_whole_and_typed(tmp_path: Path, counts: Counts):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA, metrics=counts)
    log.put(a_decision(3, scores={"head_score": 0.5}, shadow_version="8", shadow_score=0.2, shadow_is_fraud=False))
    log.put(a_decision(4, score=None, is_fraud=None, fallback="review", inputs={"TX_AMOUNT": None}, reasons=[]))
    log.close()
    first, second = rows_of(settings)
    assert first["time"] == dt.datetime(2025, 6, 15, 15, 6, 40, 3, tzinfo=dt.UTC)
    assert (first["score"], first["is_fraud"], first["head_score"]) == (0.97, True, 0.5)
    assert (first["shadow_version"], first["shadow_score"], first["shadow_is_fraud"]) == ("8", 0.2, False)
    assert first["inputs"] == dict(a_decision(3).inputs)
    assert first["reasons"][0]["contribution"] == 1.25 and first["reasons"][0]["value"] == "57.1"
    assert (second["score"], second["is_fraud"], second["fallback"]) == (None, None, "review")
    assert set(second["inputs"].values()) == {None}
    (file,) = files_of(settings)
    inputs = pq.read_schema(file).field("inputs").type
    assert inputs.field("TX_AMOUNT").type == pa.float64() and inputs.field("CUSTOMER_ID").type == pa.string()
    assert inputs.field("TX_DATETIME").type == pa.timestamp("us")
    assert counts.decisions == {"written": 2} and counts.depth == 0


def test_analysts_read_the_folder_as_one_table_by_day_and_nobody_else_reads_it(tmp_path: Path):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    for number in range(6):
        log.put(a_decision(number, time_us=NOON_US + (number % 3) * DAY_US))
    log.close()
    assert [path.parent.name for path in files_of(settings)] == [f"date=2025-06-{day}" for day in (15, 16, 17)]
    table = ds.dataset(settings.url, partitioning="hive").to_table(filter=ds.field("date") == "2025-06-16")
    assert sorted(table["request_id"].to_pylist()) == ["1", "4"]
    assert stat.S_IMODE(Path(str(settings.url)).stat().st_mode) == 0o700
    assert not list(settings.journal.iterdir()), "what is Parquet is no journal any more"


def test_files_come_by_age_and_by_rows_without_an_end_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = settings_of(tmp_path)
    aged = DecisionLog(settings, SCHEMA, file_seconds=0.05)
    aged.put(a_decision(1))
    eventually(lambda: ids_of(settings) == [1])
    aged.put(a_decision(2))
    eventually(lambda: ids_of(settings) == [1, 2])
    aged.close()
    assert MOST_ROWS == 50_000
    monkeypatch.setattr("serve_app.decisions.log.MOST_ROWS", 10)
    full = DecisionLog(settings, SCHEMA)
    for number in range(3, 13):
        full.put(a_decision(number))
    eventually(lambda: ids_of(settings) == list(range(1, 13)))
    full.close()


def test_two_schemas_go_to_two_files(tmp_path: Path):
    settings, other = settings_of(tmp_path), Schema.load("transactions")
    log = DecisionLog(settings, SCHEMA)
    fingerprint = log.register(other)
    for number in range(10):
        log.put(a_decision(2 * number))
        log.put(a_decision(2 * number + 1, schema_fingerprint=fingerprint, inputs={"amount": 220.0}, reasons=[]))
    log.close()
    kinds = [sorted(row["inputs"]) for path in files_of(settings) for row in pq.read_table(path).to_pylist()[:1]]
    assert len(kinds) == 2 and sorted(kinds)[1] == sorted(column.name for column in other.inputs)
    assert ids_of(settings) == list(range(20))


def test_card_data_can_be_left_out_or_hashed(tmp_path: Path):
    env = {"FRAUD_DECISIONS_OMIT": "TERMINAL_ID,TX_AMOUNT", "FRAUD_DECISIONS_HASH": "CUSTOMER_ID, TX_DATETIME"}
    settings = settings_of(tmp_path, **env, FRAUD_DECISIONS_KEY=KEY)
    assert KEY not in repr(settings)
    log = DecisionLog(settings, SCHEMA)
    log.put(a_decision(1))
    eventually(lambda: journals_of(settings))
    eventually(lambda: b'"request_id":"1"' in journals_of(settings)[0].read_bytes())
    journal = journals_of(settings)[0].read_bytes()
    assert b"57.1" not in journal and b'"5"' not in journal, "neither does the journal hold it"
    log.close()
    (row,) = rows_of(settings)
    assert set(row["inputs"]) == {"TRANSACTION_ID", "CUSTOMER_ID", "TX_DATETIME"}
    assert row["inputs"]["CUSTOMER_ID"] == hmac.new(KEY.encode(), b"5", hashlib.sha256).hexdigest()
    (reason,) = row["reasons"]
    assert reason["column"] == "TX_AMOUNT" and reason["contribution"] == 1.25
    assert reason["value"] is None and reason["typical"] is None and reason["text"] is None, "its words show the value"


def test_every_column_may_be_left_out(tmp_path: Path):
    settings = settings_of(tmp_path, FRAUD_DECISIONS_OMIT=",".join(column.name for column in SCHEMA.inputs))
    log = DecisionLog(settings, SCHEMA)
    log.put(a_decision(1))
    log.close()
    (row,) = rows_of(settings)
    assert "inputs" not in row and row["score"] == 0.97


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"FRAUD_DECISIONS_HASH": "CUSTOMER_ID"}, "FRAUD_DECISIONS_KEY"),
        ({"FRAUD_DECISIONS_HASH": "CUSTOMER_ID", "FRAUD_DECISIONS_KEY": "short"}, "FRAUD_DECISIONS_KEY"),
        ({"FRAUD_DECISIONS_OMIT": "A", "FRAUD_DECISIONS_HASH": "A", "FRAUD_DECISIONS_KEY": KEY}, "name it in one"),
        ({"FRAUD_DECISIONS_FSYNC": "often"}, "'often' is unknown"),
        ({"FRAUD_DECISIONS_QUEUE": "0"}, "FRAUD_DECISIONS_QUEUE='0'"),
        ({"FRAUD_DECISIONS": "nowhere://bucket"}, "nowhere"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, env: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        settings_of(tmp_path, **env)


def test_the_secret_is_taken_as_it_stands(tmp_path: Path):
    assert settings_of(tmp_path, FRAUD_DECISIONS_KEY=" a secret ", FRAUD_DECISIONS=" off ").key == b" a secret "
    assert settings_of(tmp_path, FRAUD_DECISIONS=" off ").url is None


def test_a_misspelt_column_would_show_its_card_data_so_nothing_starts(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'CUSTOMER_ID'"):
        DecisionLog(settings_of(tmp_path, FRAUD_DECISIONS_OMIT="CUSTOMERID"), SCHEMA)


def test_fsync_and_place_are_settings(tmp_path: Path):
    assert settings_of(tmp_path).fsync_s == 0.2 and settings_of(tmp_path).queue == 20_000
    assert settings_of(tmp_path, FRAUD_DECISIONS_FSYNC="always").fsync_s == 0.0
    assert settings_of(tmp_path, FRAUD_DECISIONS_FSYNC="never").fsync_s == float("inf")
    assert settings_of(tmp_path, FRAUD_DECISIONS_FSYNC="50ms").fsync_s == 0.05
    assert settings_of(tmp_path, FRAUD_DECISIONS="kept").url == str(tmp_path / "kept")
    for policy in ("always", "never"):
        settings = settings_of(tmp_path / policy, FRAUD_DECISIONS_FSYNC=policy)
        log = DecisionLog(settings, SCHEMA)
        for number in range(50):
            log.put(a_decision(number))
        log.close()
        assert ids_of(settings) == list(range(50))


def test_switched_off_it_keeps_nothing_and_makes_no_folder(tmp_path: Path):
    log = DecisionLog(settings_of(tmp_path, FRAUD_DECISIONS="off"), SCHEMA)
    log.put(a_decision(1))
    log.close()
    assert not log.is_on and not list(tmp_path.iterdir())


def test_a_store_behind_a_url_is_written_the_same_way(tmp_path: Path):
    url = f"memory://bucket-{os.getpid()}/decisions"
    settings = settings_of(tmp_path, FRAUD_DECISIONS=url)
    log = DecisionLog(settings, SCHEMA)
    log.put(a_decision(1))
    log.close()
    filesystem, folder = fsspec.core.url_to_fs(url)
    (name,) = filesystem.find(folder)
    assert "/date=2025-06-15/" in name and name.endswith(".parquet")
    with filesystem.open(name) as stream:
        assert pq.read_table(stream)["request_id"].to_pylist() == ["1"]


def test_a_model_makes_the_decision_of_its_answer(
    tmp_path: Path, models: dict[str, ServedModel], requests: dict[str, Mapping[str, object]]
):
    settings, model = settings_of(tmp_path), models["mixed"]
    transaction = {column.name: None for column in model.engine.schema.inputs} | {
        "seconds": dt.datetime(1970, 1, 12, 13, 48, 20),
        "class": "web",
        "_score": -2.0,
    }
    answer = model.answer(transaction)
    log = DecisionLog(settings, model.engine.schema)
    for role in ("champion", "canary"):
        log.put(decision_of(log, model, transaction, answer, request_id="r1", key_name="till", role=role))
    log.close()
    first, second = rows_of(settings)
    for name in ("score", "is_fraud", "forest_score", "autoencoder_score", "threshold"):
        assert first[name] == answer[name]
    assert [reason["text"] for reason in first["reasons"]] == [reason["text"] for reason in answer["reasons"]]
    assert (first["version"], first["sha256"], first["key_name"]) == ("7", model.sha256, "till")
    assert first["schema_fingerprint"] == model.engine.schema.fingerprint and first["inputs"] == transaction
    assert second == first | {"role": "canary", "time": second["time"]}
    assert abs(first["time"] - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)


def test_one_odd_decision_is_counted_and_stops_nothing(tmp_path: Path, counts: Counts):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA, metrics=counts)
    log.put(a_decision(1, inputs={"TX_AMOUNT": "no number"}))
    log.put(a_decision(2, schema_fingerprint="of no schema"))
    log.put(a_decision(3))
    log.close()
    assert ids_of(settings) == [3] and counts.decisions == {"written": 1, "lost": 2}


def test_beyond_the_bound_the_newest_are_lost_and_counted(tmp_path: Path, counts: Counts):
    """Nothing can be written: a file stands where the folder of the journals goes."""
    settings = settings_of(tmp_path, FRAUD_DECISIONS_QUEUE="100")
    settings.journal.parent.mkdir()
    settings.journal.touch()
    log = DecisionLog(settings, SCHEMA, metrics=counts)
    for number in range(250):
        log.put(a_decision(number))
    eventually(lambda: counts.decisions["lost"] == 150 and counts.decisions["retried"])
    assert counts.depth <= 100 and not counts.decisions["written"]
    settings.journal.unlink()
    eventually(lambda: counts.decisions["written"] == 100)
    log.put(a_decision(250))
    log.close()
    assert ids_of(settings) == [*range(100), 250]


def test_a_full_disk_loses_nothing_within_the_bound(small_disk: Path, counts: Counts):
    settings = settings_of(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(450_000))
    log = DecisionLog(settings, SCHEMA, metrics=counts)
    for number in range(150):  # some 900 bytes each
        log.put(a_decision(number))
    eventually(lambda: counts.decisions["retried"])
    ballast.unlink()
    eventually(lambda: counts.depth == 0 and counts.decisions["written"])
    log.put(a_decision(150))
    log.close()
    left = journals_of(settings)
    if left:  # the Parquet did not fit beside the journal
        settings = replace(settings, url=str(small_disk.parent / "elsewhere"))
        DecisionLog(settings, SCHEMA).close()
    eventually(lambda: ids_of(settings) == list(range(151)))
    assert not counts.decisions["lost"]


def test_parquet_that_cannot_be_written_waits_as_a_journal(tmp_path: Path, counts: Counts):
    settings = settings_of(tmp_path, FRAUD_DECISIONS="kept")
    obstacle = tmp_path / "kept"
    obstacle.touch()
    log = DecisionLog(settings, SCHEMA, metrics=counts, file_seconds=0.05)
    log.put(a_decision(1))
    eventually(lambda: counts.decisions["retried"])
    log.put(a_decision(2))
    obstacle.unlink()
    eventually(lambda: ids_of(settings) == [1, 2])
    obstacle.rename(tmp_path / "moved")
    obstacle.touch()
    log.put(a_decision(3))
    log.close(timeout=0.3)
    obstacle.unlink()
    again = DecisionLog(settings, SCHEMA)
    eventually(lambda: ids_of(settings) == [3])
    again.close()
    assert not list(settings.journal.iterdir()) and not counts.decisions["lost"]


def test_a_folder_that_somebody_removes_is_made_again(tmp_path: Path, counts: Counts):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA, metrics=counts, file_seconds=0.05)
    log.put(a_decision(1))
    eventually(lambda: ids_of(settings) == [1])
    subprocess.run(["rm", "-r", str(tmp_path / "decisions")], check=True)
    log.put(a_decision(2))
    eventually(lambda: files_of(settings))
    log.close()
    assert ids_of(settings) == [2]


VICTIM = """
import sys, time
from pathlib import Path
from serve_app.decisions.log import DecisionLog
from tests.serve_app.decision_cases import SCHEMA, a_decision, settings_of
log = DecisionLog(settings_of(Path(sys.argv[1])), SCHEMA)
for number in range(1_000_000):
    log.put(a_decision(number))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    time.sleep(0.0005)
"""


def test_what_a_killed_process_left_becomes_parquet_at_the_next_start(tmp_path: Path, counts: Counts):
    settings = settings_of(tmp_path)
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert victim.stdout is not None
    while int(victim.stdout.readline()) < 700:
        pass
    bystander = DecisionLog(settings, SCHEMA)
    victim.send_signal(signal.SIGKILL)
    n_reported = 700 + len(victim.stdout.read().split())
    victim.wait()
    assert not files_of(settings), "the living one's journal was nobody else's to publish"
    (journal,) = journals_of(settings)
    with journal.open("ab") as file:
        file.write(b'{"time":1750000000000000,"request_id":"torn')
    successor = DecisionLog(settings, SCHEMA, metrics=counts)
    eventually(lambda: files_of(settings))
    successor.close()
    bystander.close()
    ids = ids_of(settings)
    assert ids == list(range(len(ids))), "what is lost is the newest, and nothing is there twice"
    assert n_reported - len(ids) <= settings.queue and len(ids) > 100
    assert counts.decisions["lost"] == 1, "the line that is cut short"
    assert not list(settings.journal.iterdir())


def test_a_journal_published_twice_is_there_once(tmp_path: Path):
    """A crash between the Parquet file and the end of its journal."""
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    log.put(a_decision(1))
    eventually(lambda: any(path.stat().st_size > 500 for path in journals_of(settings)))
    (journal,) = journals_of(settings)
    content, dead = journal.read_bytes(), journal.parent
    log.close()
    assert ids_of(settings) == [1]
    dead.mkdir()
    (dead / "lock").touch()
    (dead / journal.name).write_bytes(content)
    DecisionLog(settings, SCHEMA).close()
    eventually(lambda: not dead.exists())
    assert ids_of(settings) == [1]


def test_a_journal_that_is_none_is_put_aside(tmp_path: Path):
    settings = settings_of(tmp_path)
    dead = settings.journal / "dead"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "000001.jsonl").write_bytes(b"\x00" * 100)
    log = DecisionLog(settings, SCHEMA, file_seconds=0.05)
    log.put(a_decision(1))
    eventually(lambda: ids_of(settings) == [1])
    log.close()
    assert [path.name for path in settings.journal.iterdir()] == ["unreadable-dead-000001"]
