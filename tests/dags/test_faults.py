"""Real Airflow, real Ray: whole runs of both DAGs; faults: one job a try, stopped when it must be, followed else."""

from __future__ import annotations

import datetime as dt
import json
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import airflow
from deploy.services import CODE
from tests.dags import sample
from tests.dags.local_airflow import LocalAirflow, eventually, running

FAULTS = Path(__file__).parent / "faults"
pytestmark = [pytest.mark.airflow, pytest.mark.slow]


TODAY = dt.datetime.now(dt.UTC).date()
TRAIN = ["python", "-m", "ray_jobs.train", "--data", "data/history.parquet", "--schema", "handbook"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    root = tmp_path_factory.mktemp("local")
    sample.write(root, TODAY)
    with running(root, FAULTS) as started:
        components = [started.process(component) for component in airflow.COMPONENTS]
        yield started
    assert not [process for process in components if process.is_running()], "down stops every component"


def whole_run(local: LocalAirflow, dag_id: str, tmp_path: Path, date: dt.date) -> None:
    """`airflow dags test` of a real DAG, on a copy of the database, which the running scheduler does not see."""
    variables = airflow.environment(local.stack, local.stack.port("airflow"))
    with sqlite3.connect(airflow.home(local.stack.settings) / "airflow.db") as ours:
        ours.backup(sqlite3.connect(tmp_path / "airflow.db"))
    variables |= {
        **sample.VARIABLES,
        "AIRFLOW__CORE__DAGS_FOLDER": str(CODE / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "FRAUD_DAILY_SCHEDULE": "none",
        "FRAUD_WEEKLY_SCHEDULE": "none",
        "FRAUD_DEADLINES": "off",
    }
    command = [str(airflow.binary()), "dags", "test", dag_id, "--conf", json.dumps({"date": str(date)})]
    ended = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-6000:]


def test_what_make_airflow_starts_is_ours_and_its_secrets_are_closed(local: LocalAirflow):
    again = airflow.up(local.stack.settings, [].append)
    assert again.services == local.stack.services  # safe to repeat
    folder = airflow.home(local.stack.settings)
    for name in ("passwords.json", "secrets.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    slots = {pool["name"]: (pool["slots"], pool["include_deferred"]) for pool in local.ask("/pools")["pools"]}
    for name, pool in airflow.POOLS.items():
        assert slots[name] == (pool["slots"], True)
    listening = {
        connection.laddr.ip
        for component in airflow.COMPONENTS
        for process in [local.process(component), *local.process(component).children(recursive=True)]
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_day_and_a_retraining_run_green(local: LocalAirflow, tmp_path: Path):
    root, environment = local.stack.settings.root, local.stack.environment()
    environment |= {"RAY_API_SERVER_ADDRESS": local.stack.url("dashboard")}
    submit = ["ray", "job", "submit", "--", *TRAIN, "--config", "quick.yaml", "--outdir", "artifacts/first"]
    trained = subprocess.run(submit, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stdout[-3000:]

    whole_run(local, "fraud_daily_scoring", tmp_path, TODAY)
    assert list((root / "scored" / f"date={TODAY}").glob("part-*.parquet"))
    for kind in ("drift", "volume", "performance"):
        assert (root / "reports" / kind / f"{TODAY}.json").exists()
    assert (root / "review" / f"{TODAY}.csv").exists()

    whole_run(local, "fraud_weekly_retraining", tmp_path, TODAY)
    decided = json.loads((root / "gate" / f"{TODAY}.json").read_text())
    assert decided["decision"] in ("promoted", "refused")
    assert (root / "sweep" / str(TODAY) / "best.yaml").exists()


def task_process(local: LocalAirflow, run_id: str) -> psutil.Process:
    """The process that runs a task of a run: the one in whose Airflow supervisor it was forked."""
    pid = eventually(lambda: local.task("held", run_id)["pid"], "the task has a process")
    return psutil.Process(pid)


def test_a_job_that_fails_fails_the_task_with_its_log(local: LocalAirflow):
    run = local.trigger("deferred", seconds=0, code=7)
    task = local.until("deferred", run, "failed")
    log = local.log("deferred", run)
    assert task["try_number"] == 1  # 7 is hopeless: no retry
    assert "driver exit code 7" in log
    assert "begin of the job" in log.split("last lines of its log", 1)[1]
    assert local.stack.token_path.read_text() not in log
    first = local.until_job(run, "FAILED")

    # A clear starts over, with another job; of a run that has not ended it would not.
    eventually(lambda: local.ask(f"/dags/deferred/dagRuns/{run}")["state"] == "failed", "the run has failed")
    local.ask("/dags/deferred/clearTaskInstances", {"dry_run": False, "dag_run_id": run, "only_failed": True})
    eventually(lambda: len(jobs := local.jobs(run)) == 2 and jobs[first] == "FAILED", "a second job after the clear")


@pytest.mark.parametrize("dag_id", ["deferred", "held"])
def test_a_task_marked_failed_stops_its_job(local: LocalAirflow, dag_id: str):
    run = local.trigger(dag_id)
    job = local.until_job(run, "RUNNING")
    local.until(dag_id, run, "deferred" if dag_id == "deferred" else "running")
    eventually(lambda: "second 1" in local.log(dag_id, run), "the job's log is in the task's while it runs")
    local.mark(dag_id, run, "failed")
    assert local.until_job(run, "STOPPED") == job


def test_a_killed_task_process_is_followed_by_a_retry_that_takes_its_job_over(local: LocalAirflow):
    run = local.trigger("held", seconds=20)
    job = local.until_job(run, "RUNNING")
    task_process(local, run).kill()
    eventually(lambda: local.task("held", run)["try_number"] == 2, "a second try")
    task = local.until("held", run, "success")
    assert task["try_number"] == 2
    assert local.until_job(run, "SUCCEEDED") == job
    assert "following it instead of starting another" in local.log("held", run, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_triggerer_that_is_restarted_follows_the_same_job(local: LocalAirflow, number: signal.Signals):
    run = local.trigger("deferred", seconds=25)
    local.until("deferred", run, "deferred")
    job = local.until_job(run, "RUNNING")
    eventually(lambda: "second 1" in local.log("deferred", run), "the triggerer follows the job")
    triggerer = local.process("triggerer")
    family = [triggerer, *triggerer.children(recursive=True)]
    triggerer.send_signal(number)
    if number == signal.SIGKILL:
        for child in family[1:]:
            child.kill()
    psutil.wait_procs(family, timeout=60)
    local.restart("triggerer")
    assert local.jobs(run) == {job: "RUNNING"}
    assert local.until("deferred", run, "success")["try_number"] == 1
    assert local.until_job(run, "SUCCEEDED") == job


def test_a_task_out_of_time_stops_its_job(local: LocalAirflow):
    run = local.trigger("hasty")
    local.until("hasty", run, "failed")
    local.until_job(run, "STOPPED")
