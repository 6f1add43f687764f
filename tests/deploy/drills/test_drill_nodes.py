"""Two Ray nodes on hosts of namespaces: scoring, a sweep and serving outlive the death of one of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest

from deploy.drills import hosts
from deploy.drills.cluster import wait_until
from deploy.drills.node_head import head, job_status, submit
from deploy.drills.node_jobs import FILES, score, sweep
from deploy.drills.node_serving import serve
from deploy.drills.raylets import Nodes, drill_nodes
from deploy.local.services import CODE

pytestmark = [pytest.mark.ray, pytest.mark.drill]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if lacking := hosts.why_not():
        pytest.skip(lacking)
    with drill_nodes() as started:
        yield started


def test_scoring_outlives_its_worker_node(nodes: Nodes):
    found = score(nodes)
    assert min(found["actors"]) >= 1 and found["parts_at_kill"] < FILES
    assert found["is_equal"] and found["rows_scored"] == found["rows"]


def test_a_sweep_outlives_its_worker_node(nodes: Nodes):
    found = sweep(nodes)
    assert found["killed_trials"] and found["ended_at_kill"] < found["trials"]
    assert found["ended"] == list(range(1, found["trials"] + 1)) and not found["failed"] and found["best_is_there"]


def test_serving_outlives_its_worker_node(nodes: Nodes):
    found = serve(nodes)
    assert found["undisturbed"]["failed"] == 0
    assert found["killed"]["requests"] > 100
    assert found["killed"]["failed"] <= 2, "those that were under way on the dead node"
    assert found["mended"]["failed"] == 0


def test_serving_outlives_the_head_and_the_next_head_knows_it(nodes: Nodes):
    found = head(nodes)
    assert found["undisturbed"]["failed"] == 0
    assert found["without_head"]["requests"] > 100 and found["without_head"]["failed"] == 0
    assert found["with_new_head"]["failed"] <= 2, "those under way while HAProxy learns the new replica"
    assert found["same_replica"], "the worker's replica should not notice"
    assert (found["job_after"], found["lost_job_after_another"]) == ("SUCCEEDED", "FAILED")


def test_airflow_sees_that_a_job_died_with_the_head(nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(CODE / "dags" / "plugins"), *sys.path])
    monkeypatch.setenv("RAY_AUTH_TOKEN", nodes.token)
    from fraud_airflow.jobs_api import RayJobs

    async def ask(job: str) -> str:
        async with RayJobs(f"http://127.0.0.1:{nodes.port}") as jobs:
            return str((await jobs.look(job))["status"])

    job = submit(nodes, "python -c 'import time; time.sleep(600)'")
    wait_until(lambda: asyncio.run(ask(job)) == "RUNNING", "the job")
    nodes.kill(nodes.head)
    nodes.start(nodes.head)
    wait_until(lambda: job_status(nodes, job), "an answer of the new head")
    wait_until(lambda: asyncio.run(ask(job)) == "FAILED", "the end of the job")
    assert job_status(nodes, job) == "RUNNING", "Ray noticed by itself: is fraud_airflow's own look still needed?"
