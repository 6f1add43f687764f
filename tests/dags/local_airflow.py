"""A real local Ray and Airflow, started as `make airflow` starts them, and what tests ask of them."""

from __future__ import annotations

import datetime as dt
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from deploy import processes
from deploy.local import airflow, services
from deploy.local.services import CODE, HOST, Stack, StackError
from fraud.settings import Settings

PATIENCE_S = 600.0  # for a slow machine; nothing here asserts a time


def eventually(ask: Callable[[], Any], what: str) -> Any:
    """Wait until `ask` returns something true, and return that."""
    ends = time.monotonic() + PATIENCE_S
    while not (answer := ask()):
        assert time.monotonic() < ends, f"not so after {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.3)
    return answer


class LocalAirflow:
    """The running stack. stack: what runs; api: URL of Airflow's REST interface."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.api = f"{stack.url('airflow')}/api/v2"
        user, password = airflow.login(stack.settings)
        body = json.dumps({"username": user, "password": password})
        status, answer = services.ask(f"{stack.url('airflow')}/auth/token", body=body, timeout_s=30)
        assert status == 201, answer
        self._headers = {"Authorization": f"Bearer {json.loads(answer)['access_token']}"}

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """Ask Airflow's REST interface; returns its JSON."""
        text = None if body is None else json.dumps(body)
        url, headers = self.api + path, self._headers
        for _ in range(5):
            status, answer = services.ask(url, headers=headers, body=text, method=method, timeout_s=60)
            # SQLite was locked by another component; Airflow asks for PostgreSQL where that matters.
            if status != 500 or "Database error" not in answer:
                break
            time.sleep(1)
        assert 200 <= status < 300, f"{method or ''} {path}: {status} {answer}"
        return json.loads(answer)

    def variables_of_a_test_run(self, database: Path, **variables: str) -> dict[str, str]:
        """The environment of `airflow dags test` with our DAGs, on a copy of Airflow's tables in `database`.

        On the tables themselves the scheduler would run the same tasks.
        """
        with sqlite3.connect(airflow.home(self.stack.settings) / "airflow.db") as ours:
            ours.backup(sqlite3.connect(database))
        return airflow.environment(self.stack, self.stack.port("airflow")) | {
            **variables,
            "AIRFLOW__CORE__DAGS_FOLDER": str(CODE / "dags"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}",
            "FRAUD_DAILY_SCHEDULE": "none",
            "FRAUD_WEEKLY_SCHEDULE": "none",
            "FRAUD_DEADLINES": "off",
        }

    def trigger(self, dag_id: str, **conf: Any) -> str:
        """Start a run as the page's button does, with the logical date now; returns its id."""
        eventually(lambda: services.ask(f"{self.api}/dags/{dag_id}", headers=self._headers)[0] == 200, dag_id)
        now = dt.datetime.now(dt.UTC).isoformat()
        return str(self.ask(f"/dags/{dag_id}/dagRuns", {"logical_date": now, "conf": conf})["dag_run_id"])

    def task(self, dag_id: str, run_id: str, task_id: str = "job") -> dict[str, Any]:
        """A task of a run."""
        return dict(self.ask(f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}"))

    def until(self, dag_id: str, run_id: str, *states: str, task_id: str = "job") -> dict[str, Any]:
        """Wait until a task is in one of `states`."""

        def poll() -> dict[str, Any] | None:
            task = self.task(dag_id, run_id, task_id)
            return task if task["state"] in states else None

        return dict(eventually(poll, f"{dag_id}.{task_id} is {' or '.join(states)}"))

    def mark(self, dag_id: str, run_id: str, state: str, task_id: str = "job") -> None:
        """What a person does with the button."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}"
        self.ask(path, {"new_state": state}, "PATCH")

    def log(self, dag_id: str, run_id: str, try_number: int = 1, task_id: str = "job") -> str:
        """The log of a try, as the page shows it."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/logs/{try_number}?full_content=true"
        return "\n".join(json.dumps(line) for line in self.ask(path)["content"])

    def jobs(self, run_id: str) -> dict[str, str]:
        """{submission id: status} of a run's Ray jobs, whatever their try."""
        listed = json.loads(services.ask_ray(self.stack, "/api/jobs/")[1])
        mine = [job for job in listed if (job.get("metadata") or {}).get("airflow_run") == run_id]
        return {job["submission_id"]: job["status"] for job in mine}

    def status(self, job: str) -> str | None:
        """A Ray job's status; None where Ray knows no such job."""
        code, answer = services.ask_ray(self.stack, f"/api/jobs/{job}")
        return str(json.loads(answer)["status"]) if code == 200 else None

    def until_job(self, run_id: str, *statuses: str) -> str:
        """Wait until the one job of a run has one of `statuses`; returns its id. More than one is an error."""

        def poll() -> str | None:
            jobs = self.jobs(run_id)
            assert len(jobs) <= 1, jobs
            return next((job for job, status in jobs.items() if status in statuses), None)

        return str(eventually(poll, f"the Ray job of {run_id} is {' or '.join(statuses)}"))

    def restart(self, component: str) -> None:
        """Start a component again that has ended."""
        port = self.stack.port("airflow")
        arguments = [str(airflow.binary()), *airflow.COMPONENTS[component]]
        airflow.start_component(self.stack, component, arguments, airflow.environment(self.stack, port), port)

    def process(self, component: str) -> psutil.Process:
        """A component's process."""
        return psutil.Process(self.stack.services[airflow.name_of(component)].pid)


@contextmanager
def running(root: Path, dags: Path) -> Iterator[LocalAirflow]:
    """Ray, MLflow and Airflow with the DAGs of one folder, below `root`."""
    settings = replace(Settings.from_environment(), root=root, state=root / "state")
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
    messages: list[str] = []
    # Away from those of another stack on this machine, which may start in the same moment.
    preferred_ports = {**services.RAY_PORTS, **services.MLFLOW_PORTS, **airflow.PORTS}
    ports = {purpose: port + 500 for purpose, port in preferred_ports.items()}
    try:
        services.up(settings, messages.append, ports)
        yield LocalAirflow(airflow.up(settings, messages.append, ports))
    except StackError:
        sys.stderr.write("\n".join(messages))
        raise
    finally:
        del os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
        services.down(settings, messages.append)
        assert not processes.find(settings.state), HOST
