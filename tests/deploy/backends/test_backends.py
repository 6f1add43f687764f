"""Everything on real PostgreSQL, S3 and Redis by settings alone: what works, what is said when not, what goes on."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem
from starlette.testclient import TestClient

from deploy import mlflow_server
from deploy.backends.servers import Servers
from fraud.data import filesystems, leases, tables
from fraud.data.s3 import S3
from fraud.data.simulation import cards, transactions
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import BundleError, ConfigError, DataError, FraudError, ObjectStoreError
from fraud.history.snapshots.days import Snapshots
from fraud.labels.store import LabelStore
from fraud.registry import runs, versions
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring import bundle, decided
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from monitoring.performance import command as performance
from ray_jobs import generate
from ray_jobs.history import command as history
from ray_jobs.score import command as score
from serve_app.decisions.log import DecisionLog
from serve_app.decisions.maintenance import DecisionFolder
from serve_app.model import source
from serve_app.replica import Replica
from tests.deploy.shared_backends import mlflow_on, running
from tests.serve_app.decision_cases import SCHEMA, a_decision, eventually, settings_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
DAY = "2026-01-31"
CONFIG = TrainConfig(
    forest=ForestConfig(n_estimators=20), autoencoder=AutoencoderConfig(epochs=1), head=HeadConfig(use="never")
)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def shared(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings that lead to the servers, which all run, in the environment."""
    servers.start(lambda _: None)
    variables = servers.environment()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    S3.clear_instance_cache()
    return variables


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{schema name: bundle folder}: five columns, and cards with entity history."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, rows in (("transactions", transactions(3_000, seed=1)), ("handbook", cards(3_000, seed=1))):
        schema = Schema.load(name)
        detector, _ = fitting.fit_locally(validate(rows, schema).rows, schema, CONFIG)
        bundle.save(folder / name, detector)
    return {name: folder / name for name in ("transactions", "handbook")}


@pytest.fixture(scope="module")
def server(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An MLflow server on PostgreSQL and S3: its address, and its folder of this machine."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.environment().items():
            patch.setenv(name, value)
        patch.setenv("FRAUD_STATE", str(folder))
        with mlflow_on(Settings.from_environment()) as url:
            yield url, folder


@pytest.fixture
def mlflow(server: tuple[str, Path], shared: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that lead to it, with a state folder of the test's own."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])
    return Settings.from_environment()


def register(settings: Settings, folder: Path) -> versions.Version:
    run = runs.start_run(settings, "test")
    version = versions.register(settings, run, folder)
    run.finish()
    return version


def keys_below(url: str) -> list[str]:
    filesystem, path = filesystems.of(url)
    return list(filesystem.find(path))


def test_mlflow_keeps_its_tables_in_postgresql_its_files_in_s3_and_no_secret_in_sight(
    mlflow: Settings, server: tuple[str, Path], models: dict[str, Path], shared: dict[str, str], servers: Servers
):
    version = register(mlflow, models["transactions"])
    champion = source.from_registry(mlflow, "champion")
    assert champion.bundle.sha256 == version.sha256 == bundle.load(models["transactions"]).sha256
    stored = [key for key in keys_below(shared["FRAUD_MLFLOW_ARTIFACTS"]) if key.endswith("/arrays.safetensors")]
    assert len(stored) == 1
    assert not list(server[1].rglob("mlflow.db")) and not list(server[1].rglob("*.safetensors"))
    import psycopg2

    with psycopg2.connect(shared["FRAUD_MLFLOW_BACKEND"]) as database, database.cursor() as cursor:
        cursor.execute("SELECT name, version FROM model_versions")
        assert cursor.fetchall() == [(mlflow.model_name, 1)]

    secrets = json.loads((servers.folder / "secrets.json").read_text()).values()
    lines = "\n".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    assert "mlflow" in lines and "postgres" in lines and not [secret for secret in secrets if secret in lines]
    folders = (servers.folder, server[1])
    logs = "".join(path.read_text(errors="replace") for folder in folders for path in folder.rglob("*.log"))
    assert "Uvicorn running" in logs and not [secret for secret in secrets if secret in logs]
    for name in ("environment", "secrets.json", "redis/redis.conf", "s3/s3.json"):
        assert (servers.folder / name).stat().st_mode & 0o777 == 0o600

    filesystem, _ = filesystems.of(shared["FRAUD_MLFLOW_ARTIFACTS"])
    filesystem.pipe_file(stored[0].replace("arrays.safetensors", "threshold.json"), b"{}")
    with pytest.raises(BundleError, match="does not match its SHA-256"):
        source.from_registry(replace(mlflow, state=mlflow.state / "another"), "champion")


def test_serving_goes_on_without_s3_postgresql_and_redis(
    mlflow: Settings, models: dict[str, Path], shared: dict[str, str], servers: Servers, tmp_path: Path
):
    """What cannot be written waits on this machine, and is in S3 as soon as that is back."""
    register(replace(mlflow, model_name="cards"), models["handbook"])
    row = {"TX_DATETIME": "2018-09-01T10:15:00", "CUSTOMER_ID": 5, "TERMINAL_ID": "3", "TX_AMOUNT": 57.1}
    variables = {**os.environ, "FRAUD_MODE": "dev", "FRAUD_MODEL_NAME": "cards", "FRAUD_MODEL_POLL_S": "1"}
    variables |= {"FRAUD_DECISIONS": f"{shared['FRAUD_DECISIONS']}/outage"}
    replica = Replica(variables)
    asked: list[str] = []

    def ask() -> dict[str, Any]:
        asked.append(f"T{len(asked)}")
        answer = client.post("/score", json={"TRANSACTION_ID": asked[-1], **row})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    try:
        with TestClient(replica.app()) as client:
            assert not ask()["warnings"]
            for name in ("s3", "postgresql"):
                servers.stop(name, kill=True)
                assert not ask()["warnings"]
            servers.stop("redis", kill=True)
            assert "history" in str(ask()["warnings"])
            servers.start(lambda _: None)
            ask()
    finally:
        replica.close()
    assert sorted(ids_in(variables["FRAUD_DECISIONS"])) == asked


def ids_in(url: str) -> list[str]:
    filesystem, _ = filesystems.of(url)
    ids: list[str] = []
    for key in keys_below(url):
        with filesystem.open(key) as file:
            ids += [row["TRANSACTION_ID"] for row in pq.read_table(file)["inputs"].to_pylist()]
    return ids


def test_a_log_in_s3_waits_for_its_store_and_is_read_by_monitoring(
    shared: dict[str, str], servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    url = f"{shared['FRAUD_DECISIONS']}/log"
    servers.stop("s3", kill=True)
    log = DecisionLog(settings_of(tmp_path, FRAUD_DECISIONS=url), SCHEMA, file_seconds=0.2)
    for number in range(40):
        log.put(a_decision(number, is_fraud=number % 2 == 0))
    eventually(lambda: list((tmp_path / "decisions" / "_journal").rglob("*.jsonl")))
    servers.start(lambda _: None)
    log.close()
    assert not list((tmp_path / "decisions" / "_journal").rglob("*.jsonl"))
    assert all("/date=2025-06-15/" in key for key in keys_below(url))

    known = pd.DataFrame({"id": [str(n) for n in range(0, 40, 2)], "is_fraud": True, "source": "analyst"})
    known["known_at"] = pd.Series([pd.Timestamp("2025-06-16")] * len(known)).astype("datetime64[us]")
    labels = LabelStore(shared["FRAUD_LABELS"])
    labels.add(known, "first", ingested_at=pd.Timestamp("2025-06-16").to_pydatetime())
    out = f"{shared['FRAUD_STORE']}/performance.json"
    flags = ["--schema", "handbook", "--as-of", "2025-06-30", "--decisions", url, "--out", out]
    assert performance.main(flags) == 0
    filesystem, path = filesystems.of(out)
    (day,) = json.loads(filesystem.cat(path))["days"]
    assert (day["alerts"], day["labelled"], day["precision"]) == (20, 20, 1.0)


def test_a_log_in_s3_is_merged_and_pruned(shared: dict[str, str], tmp_path: Path):
    url = f"{shared['FRAUD_DECISIONS']}/merged"
    for number in range(3):
        log = DecisionLog(settings_of(tmp_path, FRAUD_DECISIONS=url), SCHEMA)
        log.put(a_decision(number, inputs={**a_decision(0).inputs, "TRANSACTION_ID": str(number)}))
        log.close()
    folder, later = DecisionFolder(url), dt.datetime(2025, 6, 20, tzinfo=dt.UTC)
    ((before, after),) = folder.merge(now=later)
    assert (len(before.files), len(after.files)) == (3, 1)
    assert sorted(decided.read(url, SCHEMA)["id"]) == ["0", "1", "2"]
    folder.delete(folder.older_than(dt.timedelta(days=3), now=later))
    assert folder.days() == [] and not [key for key in keys_below(url) if key.endswith(".parquet")]


def scoring(models: dict[str, Path], rows: str, out: str, *more: str) -> list[str]:
    flags = ["--data", rows, "--out", out, "--date", DAY, "--model", str(models["transactions"])]
    return [*flags, "--rows-on-ray", "1000000000", "--no-reasons", *more]


def test_a_day_in_s3_is_whole_or_not_there_and_scored_once(
    models: dict[str, Path], shared: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    rows, out = f"{shared['FRAUD_STORE']}/rows.parquet", f"{shared['FRAUD_STORE']}/scored"
    generate.main(["--rows", "400000", "--out", rows])
    staged = f"{out}/_staging"
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.score", *scoring(models, rows, out)], cwd=ROOT, stderr=subprocess.PIPE
    )
    eventually(lambda: keys_below(staged) or process.poll() is not None, 600)
    process.kill()
    process.wait()
    assert keys_below(staged), "killed too late for this test to say anything"
    assert not keys_below(f"{out}/date={DAY}")
    with pytest.raises(DataError, match=r"has no \.csv or \.parquet"):
        tables.read(out)

    monkeypatch.setattr(leases, "LEASE_S", 1.0)  # of the killed job, which nobody renews any more
    monkeypatch.setattr(leases, "POLL_S", 0.2)
    few = f"{shared['FRAUD_STORE']}/few.parquet"
    generate.main(["--rows", "3000", "--out", few])
    threads = [threading.Thread(target=lambda: score.main(scoring(models, few, out))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    output = capsys.readouterr().out
    assert output.count("3,000 scored") == 2 and output.count("already scored, verified") == 1
    assert len(tables.read(out)) == 3_000
    assert not [key for key in keys_below(f"{out}/_locks") if key.endswith(".lock")]

    part = next(key for key in keys_below(f"{out}/date={DAY}") if "part-" in key)
    filesystem, _ = filesystems.of(out)
    filesystem.pipe_file(part, filesystem.cat(part)[:-1])
    assert score.main(scoring(models, few, out)) == 0
    assert "already scored" not in capsys.readouterr().out and len(tables.read(out)) == 3_000


def test_snapshots_in_s3_are_built_found_erased_and_pruned(shared: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """The command on S3: what it makes there equals what it makes on a disk."""
    schema, rows = Schema.load("handbook"), cards(3_000, seed=3).drop(columns="TX_FRAUD")
    for day, of_day in rows.groupby(rows["TX_DATETIME"].dt.date):
        tables.write_parquet(of_day, f"{shared['FRAUD_STORE']}/daily/{day}.parquet")
    last = rows["TX_DATETIME"].max().date()

    def run(verb: str, *more: str) -> str:
        assert history.main([verb, "--schema", "handbook", *more]) == 0
        return capsys.readouterr().out

    pattern = ["--data", f"{shared['FRAUD_STORE']}/daily/*.parquet", "--through", str(last)]
    run("build", *pattern)
    snapshots = Snapshots(shared["FRAUD_HISTORY"], schema)
    assert snapshots.newest_day() == last
    assert run("build", *pattern).startswith(f"{snapshots.url}: 0 days built, 0 rebuilt, 0 unchanged")
    row = rows.iloc[-1]
    matches = snapshots.find([str(row["TRANSACTION_ID"])])
    assert matches["TERMINAL_ID"].tolist() == [str(row["TERMINAL_ID"])]
    customer = str(row["CUSTOMER_ID"])
    run("erase", "--entity", f"CUSTOMER_ID={customer}")
    run("verify")
    assert customer not in Snapshots(snapshots.url, schema).events(0, last).keys
    memory_days = snapshots.longest_memory_days
    run("prune", "--keep-days", str(memory_days))
    assert len(Snapshots(snapshots.url, schema).days()) == memory_days


def test_a_lease_that_was_taken_over_is_noticed_before_anything_is_published(
    shared: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leases, "LEASE_S", 0.5)
    monkeypatch.setattr(leases, "POLL_S", 0.1)
    filesystem, path = filesystems.of(f"{shared['FRAUD_STORE']}/a.lock")
    with leases.acquire(filesystem, path) as sleeper, leases.acquire(filesystem, path) as taker:
        taker.renew()
        with pytest.raises(DataError, match="another job took over this lock"):
            sleeper.renew()
    assert not filesystem.exists(path)


def test_a_file_whose_writing_fails_does_not_appear(shared: dict[str, str]):
    def put(stream: Any) -> None:
        stream.write(b"x" * 60_000_000)  # more than one part of an upload
        raise OSError("the pen broke")

    url = f"{shared['FRAUD_STORE']}/half.csv"
    with pytest.raises(DataError, match="the pen broke"):
        tables.write(url, put)
    filesystem, path = filesystems.of(url)
    assert not filesystem.exists(path) and not filesystem.list_multipart_uploads(path.split("/")[0])


@pytest.mark.parametrize("condition", ["IfNoneMatch", "IfMatch"])
def test_a_condition_that_is_dropped_on_its_way_gives_nobody_a_lease(
    condition: str, shared: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """As s3fs drops an argument that botocore does not know, and as some stores ignore the header."""
    passed_on = S3FileSystem._filter_kwargs

    def dropped(self: S3FileSystem, method: Any, kwargs: dict[str, Any]) -> Any:
        return passed_on(self, method, {name: value for name, value in kwargs.items() if name != condition})

    monkeypatch.setattr(S3FileSystem, "_filter_kwargs", dropped)
    filesystem, path = filesystems.of(f"{shared['FRAUD_STORE']}/dropped.lock")
    reason = f"wrote .*dropped.lock although the condition {condition} failed: use a store"
    with pytest.raises(ObjectStoreError, match=reason), leases.acquire(filesystem, path) as lease:
        lease.renew()
    assert not filesystem.exists(path)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "refuses bucket 'fraud' to these keys .*AWS_SECRET_ACCESS_KEY"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "AWS_ENDPOINT_URL=http://127.0.0.1:1 does not answer"),
        ("FRAUD_MLFLOW_ARTIFACTS", "s3://no-bucket/mlflow", "FRAUD_MLFLOW_ARTIFACTS=.*has no bucket 'no-bucket'"),
    ],
)
def test_what_is_wrong_with_s3_is_one_line(
    variable: str, value: str, words: str, shared: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    secret = shared["AWS_SECRET_ACCESS_KEY"]
    tables.write_text("a\n1\n", f"{shared['FRAUD_STORE']}/there.csv")
    monkeypatch.setenv(variable, value)
    S3.clear_instance_cache()
    with pytest.raises(ObjectStoreError, match=words) as raised:
        mlflow_server.environment(Settings.from_environment())
    assert secret not in str(raised.value) and "\n" not in str(raised.value)
    if variable != "FRAUD_MLFLOW_ARTIFACTS":
        for use in (lambda url: tables.write_text("x", url), tables.read, lambda url: tables.load(url, SCHEMA)):
            with pytest.raises(FraudError, match=words):
                use(f"{shared['FRAUD_STORE']}/there.csv")
    else:
        with pytest.raises(FraudError, match="has no bucket 'no-bucket'"):
            tables.write_text("x", "s3://no-bucket/there.csv")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url.replace("/mlflow:", "/mlflow:no-"), "does not let user 'mlflow' in .*password"),
        (lambda url: url.rpartition("/")[0] + "/absent", "does not let user 'mlflow' in"),
        (lambda url: "postgresql://mlflow:never-shown@127.0.0.1:1/mlflow", "127.0.0.1:1/mlflow .*check that it runs"),
        (lambda url: "mysql://mlflow:never-shown@127.0.0.1/mlflow", "FRAUD_MLFLOW_BACKEND is neither"),
    ],
)
def test_what_is_wrong_with_postgresql_is_one_line(change: Any, words: str, shared: dict[str, str]):
    wrong = change(shared["FRAUD_MLFLOW_BACKEND"])
    with pytest.raises(ConfigError, match=words) as raised:
        mlflow_server.environment(Settings.from_environment(), {**os.environ, "FRAUD_MLFLOW_BACKEND": wrong})
    text = str(raised.value)
    assert "FRAUD_MLFLOW_BACKEND" in text and "never-shown" not in text and "\n" not in text
    assert wrong.split(":")[2].split("@")[0] not in text


def test_a_password_may_stay_in_a_file(shared: dict[str, str], tmp_path: Path):
    user, _, location = shared["FRAUD_MLFLOW_BACKEND"].removeprefix("postgresql://").partition("@")
    name, password = user.split(":")
    host, database = location.split("/")
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"{host}:{database}:{name}:{password}\n")
    passwords.chmod(0o600)
    env = {**os.environ, "FRAUD_MLFLOW_BACKEND": f"postgresql://{name}@{location}", "PGPASSFILE": str(passwords)}
    variables = mlflow_server.environment(Settings.from_environment(), env)
    assert variables["PGPASSFILE"] == str(passwords) and password not in variables["MLFLOW_BACKEND_STORE_URI"]


def test_only_mlflow_s_server_is_told_the_databases(shared: dict[str, str]):
    left = mlflow_server.without_secrets(os.environ)
    assert "AWS_SECRET_ACCESS_KEY" in left and "FRAUD_HISTORY_URL" in left
    assert not [name for name, value in left.items() if "postgresql" in value]


def test_data_outlive_a_crash_of_every_server(servers: Servers, shared: dict[str, str]):
    import redis

    redis.Redis.from_url(shared["FRAUD_HISTORY_URL"]).set("kept", "1")
    tables.write_text("kept", f"{shared['FRAUD_STORE']}/kept.txt")
    time.sleep(1.5)  # Redis forces its file to disk every second
    for name in ("redis", "s3", "postgresql"):
        servers.stop(name, kill=True)
    servers.start(lambda _: None)
    assert servers.environment() == shared, "ports and passwords stay"
    S3.clear_instance_cache()
    assert redis.Redis.from_url(shared["FRAUD_HISTORY_URL"]).get("kept") == b"1"
    filesystem, path = filesystems.of(f"{shared['FRAUD_STORE']}/kept.txt")
    assert filesystem.cat(path) == b"kept"
