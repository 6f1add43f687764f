"""The DAG files: what parsing them imports and costs, what they hold, and that nothing in them is left to chance."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.local import airflow
from tests.test_layering import FOREIGN_TO_DAG_PARSING

ROOT = Path(__file__).parents[2]
DAGS = ("fraud_backfill", "fraud_daily_scoring", "fraud_weekly_retraining")
pytestmark = pytest.mark.airflow
# Airflow itself is imported first: what is measured is ours. CPU time, since a busy machine is slow by the clock.
PARSE = """
import importlib.util, json, sys, time
import aiohttp, airflow.sdk, airflow.triggers.base
import airflow.sdk.definitions.deadline, airflow.sdk.definitions.callback
import airflow.providers.standard.operators.empty
dags, began = {}, time.process_time()
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location(path.rsplit("/", 1)[1][:-3], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dag = module.dag
    if dag is None:
        continue
    dags[dag.dag_id] = {
        "catchup": dag.catchup, "max_active_runs": dag.max_active_runs, "deadline": bool(dag.deadline),
        "schedule": type(dag.timetable).__name__, "is_dated": dag.start_date is not None,
        "tasks": {task.task_id: {
            "pool": task.pool, "retries": task.retries, "backoff": bool(task.retry_exponential_backoff),
            "timeout": task.execution_timeout.total_seconds() if task.execution_timeout else None,
            "told": bool(task.on_failure_callback), "command": list(getattr(task, "command", [])),
            "after": sorted(task.upstream_task_ids),
        } for task in dag.tasks},
    }
cpu_s = time.process_time() - began
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from fraud_airflow.alerting import kind_of
kinds = [[task, type(reason).__name__, kind_of(task, reason)] for task in ("await_data", "score")
         for reason in (AirflowFailException(), AirflowException(), None)]
print(json.dumps({"cpu_s": cpu_s, "modules": sorted(sys.modules), "dags": dags, "kinds": kinds}))
"""
# What the days of a run are, as Airflow renders them: of an interval's start, and of the time of a run by hand.
RENDER = """
import importlib.util, json, sys
from datetime import datetime
from types import SimpleNamespace
from airflow.sdk.execution_time import macros
from fraud_airflow import pipeline
spec = importlib.util.spec_from_file_location("daily", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
environment = module.dag.get_template_env()
def rendered(expression, **run):
    run = SimpleNamespace(**{name: datetime.fromisoformat(time) for name, time in run.items() if time},
                          **{name: None for name, time in run.items() if not time})
    template = environment.from_string(pipeline.value_of(expression))
    return template.render(dag_run=run, params=SimpleNamespace(date=""), macros=macros)
days = [[rendered(pipeline.DAY, data_interval_start=time, run_after=time),
         rendered(pipeline.DAY, data_interval_start=None, run_after=time),
         rendered(pipeline.AS_OF, run_after=time)] for time in sys.argv[2:]]
job = module.dag.get_task("score").runtime_env
print(json.dumps({"days": days, "zone": str(module.dag.timetable.timezone), "job": job}))
"""


def run_airflow(home: Path, code: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW__", "FRAUD_"))},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": str(ROOT / "dags" / "plugins"),
        **more,
    }
    command = [str(airflow.binary().parent / "python"), "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    ended = run_airflow(tmp_path_factory.mktemp("home"), PARSE, *files)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def test_parsing_is_thin(parsed: dict[str, Any]):
    loaded = {name.split(".")[0] for name in parsed["modules"]}
    assert not loaded & (FOREIGN_TO_DAG_PARSING | {"pandas", "numpy", "evidently"})
    assert parsed["cpu_s"] < 1.0


def test_the_three_dags_are_there(parsed: dict[str, Any]):
    assert tuple(parsed["dags"]) == DAGS
    daily, weekly = (parsed["dags"][name] for name in DAGS[1:])
    for dag in (daily, weekly):
        assert dag["schedule"] == "CronDataIntervalTimetable"
        assert dag["deadline"]
    for dag in parsed["dags"].values():
        assert (dag["catchup"], dag["max_active_runs"], dag["is_dated"]) == (False, 1, True)
    assert daily["tasks"]["score"]["after"] == ["await_data", "labels"]
    assert weekly["tasks"]["gate"]["after"] == ["evaluate"]


def test_a_synthetic_world_has_dags_and_folders_of_its_own(tmp_path: Path):
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    ended = run_airflow(tmp_path, PARSE, *files, FRAUD_SYNTHETIC="1", FRAUD_TRIALS="7")
    assert ended.returncode == 0, ended.stderr
    dags = json.loads(ended.stdout.splitlines()[-1])["dags"]
    assert set(dags) == {*DAGS, "fraud_first_try"}
    for name in set(dags) - {"fraud_backfill"}:
        tasks = dags[name]["tasks"]
        assert tasks["synthetic"]["command"][2] == "ray_jobs.synthetic" and tasks["synthetic"]["after"] == []
        assert "synthetic" in tasks["labels"]["after"]
    daily, weekly = (dags[name]["tasks"] for name in DAGS[1:])
    assert daily["await_data"]["after"] == ["synthetic"]
    assert "'synthetic/scored'" in " ".join(daily["score"]["command"])
    assert "'handbook'" in " ".join(weekly["join"]["command"]) and "'7'" in " ".join(weekly["sweep"]["command"])
    paths = [part for tasks in (daily, weekly) for task in tasks.values() for part in task["command"] if "/" in part]
    assert paths and all("'synthetic/" in part for part in paths)


def test_every_ray_job_is_retried_bounded_and_told_about(parsed: dict[str, Any]):
    for name, dag in parsed["dags"].items():
        jobs = {task_id: task for task_id, task in dag["tasks"].items() if task["command"]}
        assert jobs
        for task_id, task in jobs.items():
            where = f"{name}.{task_id}"
            assert task["retries"] == 2 and task["backoff"] and task["timeout"] and task["told"], where
            expected = "default_pool" if task_id == "await_data" else None
            assert task["pool"] == (expected or ("fraud_backfill" if name == "fraud_backfill" else "fraud_ray")), where


def test_the_pools_of_the_dags_are_made_here(parsed: dict[str, Any]):
    used = {task["pool"] for dag in parsed["dags"].values() for task in dag["tasks"].values()}
    assert used == {*airflow.POOLS, "default_pool"}
    assert all(pool["include_deferred"] for pool in airflow.POOLS.values())


@pytest.mark.parametrize(
    ("zone", "days"),
    [
        # At 03:00 in Tokyo it is 18:00 UTC of the day before; at 23:30 UTC it is the next day in Berlin.
        ("", [["2026-03-27", "2026-03-26", "2026-03-27"], ["2026-03-28", "2026-03-27", "2026-03-28"]]),
        ("Asia/Tokyo", [["2026-03-28", "2026-03-27", "2026-03-28"], ["2026-03-29", "2026-03-28", "2026-03-29"]]),
        ("Europe/Berlin", [["2026-03-27", "2026-03-26", "2026-03-27"], ["2026-03-29", "2026-03-28", "2026-03-29"]]),
    ],
)
def test_a_run_has_the_day_of_the_zone_and_tells_its_jobs(tmp_path: Path, zone: str, days: list[list[str]]):
    times = ["2026-03-27T18:00:00+00:00", "2026-03-28T23:30:00+00:00"]
    daily = str(ROOT / "dags" / "fraud_daily_scoring.py")

    ended = run_airflow(tmp_path, RENDER, daily, *times, FRAUD_DAY_ZONE=zone)

    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout.splitlines()[-1])
    assert printed["days"] == days
    assert (zone or "UTC") in printed["zone"]
    assert printed["job"] == {"env_vars": {"FRAUD_DAY_ZONE": zone or "UTC"}}


def test_an_unknown_zone_stops_the_parsing_and_is_named(tmp_path: Path):
    daily = str(ROOT / "dags" / "fraud_daily_scoring.py")
    ended = run_airflow(tmp_path, RENDER, daily, FRAUD_DAY_ZONE="Europe/Berln")
    assert ended.returncode == 1
    assert "FRAUD_DAY_ZONE='Europe/Berln' is no time zone: use an IANA name" in ended.stderr


def test_only_data_that_did_not_come_are_told_as_missing(parsed: dict[str, Any]):
    assert len(parsed["kinds"]) == 6
    for task, reason, kind in parsed["kinds"]:
        in_vain = (task, reason) == ("await_data", "AirflowFailException")
        assert kind == ("missing_data" if in_vain else "job_failure"), (task, reason)
