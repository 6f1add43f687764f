"""A backup of a state that is in use, restored into another folder, serves the same; a damaged one restores nothing."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import os
import sqlite3
import stat
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from deploy import processes
from deploy.local import backup
from fraud.errors import ConfigError, DataError
from fraud.history.definition import plans
from fraud.history.stores.node import NodeStore
from fraud.labels.store import LabelStore
from fraud.registry import runs, versions
from fraud.registry.models import open_model
from fraud.scoring import bundle, decided
from fraud.settings import Settings
from serve_app.decisions.log import DecisionLog
from serve_app.decisions.maintenance import DecisionFolder
from tests.serve_app.decision_cases import SCHEMA, a_decision, eventually, files_of, journals_of, settings_of

pytestmark = pytest.mark.slow
BUNDLE = Path(__file__).parents[2] / "unchanged" / "handbook"
NOW = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)


def settings_for(state: Path) -> Settings:
    return Settings.from_environment({"FRAUD_ROOT": str(state.parent), "FRAUD_STATE": str(state)})


def log_decisions(state: Path, numbers: range) -> None:
    log = DecisionLog(settings_of(state), SCHEMA)
    for number in numbers:
        log.put(decision(number))
    log.close()


def decision(number: int):
    return a_decision(number, inputs={**a_decision(0).inputs, "TRANSACTION_ID": str(number)})


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion in MLflow, decisions, labels, a live history, a key, and what no backup needs."""
    folder = tmp_path_factory.mktemp("root") / "state"
    folder.mkdir(mode=0o700)
    settings = settings_for(folder)
    run = runs.start_run(settings, "training")
    versions.register(settings, run, BUNDLE)
    run.finish()
    for first in range(0, 9, 3):
        log_decisions(folder, range(first, first + 3))
    DecisionFolder(str(settings_of(folder).url)).merge(now=NOW)
    log_decisions(folder, range(9, 12))
    known_at = pd.Timestamp(2026, 1, 1)
    labels = pd.DataFrame({"id": ["1", "2"], "is_fraud": [1, 0], "known_at": known_at, "source": "bank"})
    LabelStore(str(folder / "labels")).add(labels, "first", ingested_at=NOW)
    (folder / "ray_token").write_text("secret")
    (folder / "ray_token").chmod(0o600)
    (folder / "log").mkdir()
    (folder / "log" / "ray.log").write_text("noise")
    return folder


@pytest.fixture
def history(state: Path) -> Iterator[NodeStore]:
    store = NodeStore(settings_for(state).live, plans(SCHEMA))
    yield store
    store.close()


def test_a_restored_backup_has_the_same_champion_decisions_labels_and_history(
    state: Path, history: NodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    history.put("mark", b"live")
    settings, archive, target = settings_for(state), tmp_path / "backups" / "b.tar.gz", tmp_path / "new" / "state"
    log = DecisionLog(settings_of(state), SCHEMA)
    log.put(decision(12))
    eventually(lambda: any(b'"12"' in path.read_bytes() for path in journals_of(settings_of(state))))
    has_ended = threading.Event()

    def write_on() -> None:  # into MLflow's database and the history, while they are copied
        with closing(sqlite3.connect(state / "mlflow.db")) as database:
            while not has_ended.is_set():
                with database:
                    database.execute("UPDATE experiments SET last_update_time = last_update_time + 1")
                history.put("beat", os.urandom(4))

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        saved = backup.create(settings, archive)
    finally:
        has_ended.set()
        writer.join()
    log.close()
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert not any(name.startswith(("log/", "models/")) for name in saved)
    assert backup.restore(archive, target) == saved
    assert stat.S_IMODE((target / "ray_token").stat().st_mode) == 0o600
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    moved = state.rename(state.with_name("away"))  # nothing may lead back to the old folder
    try:
        restored = settings_for(target)
        assert versions.champion_version(restored) == 1
        assert open_model("champion", restored).bundle.sha256 == bundle.load(BUNDLE).sha256
        again = DecisionLog(settings_of(target), SCHEMA)  # a start publishes what was only in a journal
        eventually(lambda: not journals_of(settings_of(target)))
        again.close()
        ids = decided.read(str(settings_of(target).url), SCHEMA)["id"]
        assert sorted(map(int, ids)) == list(range(13))
        assert len(files_of(settings_of(target))) == len({path.name for path in files_of(settings_of(target))})
        labels = LabelStore(str(target / "labels")).read().set_index("id")["is_fraud"]
        assert labels.to_dict() == {"1": 1, "2": 0}
        store = NodeStore(restored.live, plans(SCHEMA))
        assert store.get("mark") == b"live"
        store.close()
    finally:
        moved.rename(state)


def test_a_journal_whose_file_is_in_the_backup_is_not_published_over_it(state: Path, tmp_path: Path):
    journals = state / "decisions" / "_journal" / "host-1-ab"
    journals.mkdir(parents=True)
    for name in ("lock", "000001.jsonl", "000002.jsonl"):
        (journals / name).touch()
    published = next((state / "decisions").glob("date=*")) / "host-1-ab-000001.parquet"
    published.touch()
    try:
        saved = backup.create(settings_for(state), tmp_path / "b.tar.gz")
    finally:
        published.unlink()
    assert {"decisions/_journal/host-1-ab/lock", "decisions/_journal/host-1-ab/000002.jsonl"} < set(saved)
    assert "decisions/_journal/host-1-ab/000001.jsonl" not in saved


def test_nothing_is_restored_from_a_damaged_or_foreign_archive(state: Path, tmp_path: Path):
    archive, target = tmp_path / "b.tar.gz", tmp_path / "new"
    backup.create(settings_for(state), archive)
    content = archive.read_bytes()
    plain = bytearray(gzip.decompress(content))
    position = plain.rindex(b"secret")  # in the key's file, which comes after the databases
    plain[position] ^= 1
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    for damaged, reason in (
        (content[: len(content) // 2], "is damaged"),
        (gzip.compress(bytes(plain)), r"is damaged: ray_token is not what was saved \(1 files"),
        (b"no archive", "is damaged or no backup"),
        (evil.getvalue(), r"holds '\.\./escaped'"),
    ):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=reason):
            backup.restore(archive, target)
    with pytest.raises(DataError, match="does not exist"):
        backup.restore(tmp_path / "none", target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.gz"]


def test_neither_a_file_nor_a_used_folder_nor_a_running_stack_is_written_over(state: Path, tmp_path: Path):
    archive, target = tmp_path / "b.tar.gz", tmp_path / "new"
    backup.create(settings_for(state), archive)
    with pytest.raises(ConfigError, match="exists: name another file"):
        backup.create(settings_for(state), archive)
    with pytest.raises(ConfigError, match="lies in the state folder"):
        backup.create(settings_for(state), state / "b.tar.gz")
    target.mkdir()
    (target / "mine").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        backup.restore(archive, target)
    (target / "mine").unlink()
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    server = processes.start("server", command, state=target, environment=dict(os.environ), ports={})
    eventually(lambda: processes.find(target))
    try:
        with pytest.raises(ConfigError, match="1 processes run on"):
            backup.restore(archive, target)
    finally:
        assert processes.stop(target, [server], grace_s=2.0) == []


def test_the_command_says_what_is_elsewhere(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    variables = {
        "FRAUD_STATE": str(state), "FRAUD_ROOT": str(tmp_path), "FRAUD_LABELS": "s3://bucket/labels",
        "FRAUD_MLFLOW_BACKEND": "postgresql://user:secret-password@host:5432/mlflow",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert backup.main(["create", "--out", "b.tar.gz"]) == 0
    said = capsys.readouterr().out
    assert "not in it: labels (s3://bucket/labels)" in said and "not in it: MLflow's database" in said
    assert "secret-password" not in said and "keep it private" in said and "decisions (" not in said
    assert backup.main(["restore", "b.tar.gz", "--into", "new"]) == 0
    assert "each checked" in capsys.readouterr().out
    assert (tmp_path / "new" / "ray_token").read_text() == "secret"
