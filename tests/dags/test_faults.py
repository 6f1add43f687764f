"""Real Airflow, real Ray, real faults: one job per try, stopped when it must, followed when it may run on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.dags.local_airflow import LocalAirflow, eventually, running

FAULTS = Path(__file__).parent / "faults"
pytestmark = [pytest.mark.airflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    with running(tmp_path_factory.mktemp("local"), FAULTS) as started:
        yield started


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
    local.until_job(run, "FAILED")


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
