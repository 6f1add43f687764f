"""Real Airflow, real Ray, faults: a try starts one job, stops it when it must and follows it otherwise."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local import airflow, services
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


def test_what_make_airflow_starts_is_ours_and_its_secrets_are_closed(local: LocalAirflow):
    again = airflow.up(local.stack.settings, [].append)
    assert again.services == local.stack.services  # safe to repeat
    begun = {name: service.started for name, service in again.services.items()}
    assert max(begun, key=lambda name: begun[name]) == "airflow-scheduler"  # whose first tasks need all the others
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


def test_a_killed_task_process_is_followed_by_a_retry_that_takes_its_job_over(local: LocalAirflow, tmp_path: Path):
    end = tmp_path / "end"
    run = local.trigger("held", end=str(end))
    job = local.until_job(run, "RUNNING")
    task_process(local, run).kill()
    eventually(lambda: local.task("held", run)["try_number"] == 2, "a second try")
    follows = "following it instead of starting another"
    eventually(lambda: follows in local.log("held", run, 2), "the second try follows the job")
    end.touch()
    task = local.until("held", run, "success")
    assert task["try_number"] == 2
    assert local.until_job(run, "SUCCEEDED") == job


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_triggerer_that_is_restarted_follows_the_same_job(
    local: LocalAirflow, number: signal.Signals, tmp_path: Path
):
    run = local.trigger("deferred", end=str(tmp_path / "end"))
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
    assert local.jobs(run) == {job: "RUNNING"}
    # What is marked before a triggerer took it has no job, or one that is stopped at once.
    unwanted = local.trigger("deferred")
    local.until("deferred", unwanted, "deferred")
    local.mark("deferred", unwanted, "failed")
    local.restart("triggerer")
    (tmp_path / "end").touch()
    assert local.until("deferred", run, "success")["try_number"] == 1
    assert local.until_job(run, "SUCCEEDED") == job
    assert set(local.jobs(unwanted).values()) <= {"STOPPED", "FAILED"}


def test_a_task_out_of_time_stops_its_job(local: LocalAirflow):
    run = local.trigger("hasty")
    local.until("hasty", run, "failed")
    local.until_job(run, "STOPPED", "FAILED")  # the latter where it had not started yet


def test_a_job_that_was_stopped_before_it_started_ends_as_it_starts(local: LocalAirflow, tmp_path: Path):
    package = tmp_path / "package.zip"
    os.mkfifo(package)
    run = local.trigger("pending", package=str(package))
    try:
        local.until("pending", run, "deferred")
        job = local.until_job(run, "PENDING")
        local.mark("pending", run, "failed")
        eventually(lambda: local.status(f"end.{job}"), "its end is ordered")
        assert local.until_job(run, "PENDING") == job
    finally:  # Ray starts no job as long as it waits for this one's code; for both, so as not to wait for it here
        with os.fdopen(os.open(package, os.O_RDWR), "wb") as pipe, zipfile.ZipFile(pipe, "w") as content:
            content.writestr("code/empty.py", "")
    eventually(lambda: local.status(job) in ("STOPPED", "FAILED"), "the job has ended")
    eventually(lambda: local.status(f"end.{job}") == "SUCCEEDED", "and what was to end it")
    # Ray starts the process before it reads that it shall stop: a loaded machine sees its first words.
    assert "second 2" not in services.ask_ray(local.stack, f"/api/jobs/{job}/logs")[1]


def test_a_run_that_is_late_is_told(local: LocalAirflow):
    run = local.trigger("late")

    def texts() -> list[str]:
        logs = local.stack.settings.root.glob("**/alerts/*/alerts.jsonl")
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        return [line["text"] for line in lines if line["subject"] == "late"]

    eventually(texts, "the alert of the deadline")
    assert texts() == [f"run {run} is running {1 / 3600:g} hours after its interval began"]
    local.mark("late", run, "failed")
    local.until_job(run, "STOPPED")
