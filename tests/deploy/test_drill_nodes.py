"""Two Ray nodes on hosts of namespaces: scoring, a sweep and serving outlive the death of one of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy import drill_hosts
from deploy.drill_node_jobs import FILES, score, sweep
from deploy.drill_node_serving import serve
from deploy.drill_raylets import Nodes, drill_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if lacking := drill_hosts.why_not():
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
