"""Two Ray nodes on hosts of namespaces: scoring outlives the death of one of them."""

from __future__ import annotations

import pytest

from deploy import drill_hosts
from deploy.drill_node_jobs import FILES, score
from deploy.drill_raylets import drill_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_scoring_outlives_its_worker_node():
    if lacking := drill_hosts.why_not():
        pytest.skip(lacking)
    with drill_nodes() as nodes:
        found = score(nodes)
    assert min(found["actors"]) >= 1 and found["parts_at_kill"] < FILES
    assert found["is_equal"] and found["rows_scored"] == found["rows"]
