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
from deploy.drills.ray_nodes import Nodes, drill_nodes
from deploy.local.services import CODE

pytestmark = [pytest.mark.ray, pytest.mark.drill]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if lacking := hosts.missing_requirement():
        pytest.skip(lacking)
    with drill_nodes() as started:
        yield started


def test_scoring_outlives_its_worker_node(nodes: Nodes):
    result = score(nodes)
    assert min(result["actors"]) >= 1 and result["parts_at_kill"] < FILES
    assert result["is_equal"] and result["rows_scored"] == result["rows"]


def test_a_sweep_outlives_its_worker_node(nodes: Nodes):
    result = sweep(nodes)
    assert result["killed_trials"] and result["ended_at_kill"] < result["trials"]
    assert result["ended"] == list(range(1, result["trials"] + 1)) and not result["failed"] and result["best_is_there"]


def test_serving_outlives_its_worker_node(nodes: Nodes):
    result = serve(nodes)
    assert result["undisturbed"]["failed"] == 0
    assert result["killed"]["requests"] > 100
    assert result["killed"]["failed"] <= 2, "those that were under way on the dead node"
    assert result["mended"]["failed"] == 0


def test_serving_outlives_the_head_and_the_next_head_knows_it(nodes: Nodes):
    result = head(nodes)
    assert result["undisturbed"]["failed"] == 0
    assert result["without_head"]["requests"] > 100 and result["without_head"]["failed"] == 0
    assert result["with_new_head"]["failed"] <= 2, "those under way while HAProxy learns the new replica"
    assert result["same_replica"], "the worker's replica should not notice"
    assert (result["job_after"], result["lost_job_after_another"]) == ("SUCCEEDED", "FAILED")


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
