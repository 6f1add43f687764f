"""`ray up cluster.yaml` over ssh on two hosts of namespaces: a training on both outlives the death of one of them."""

from __future__ import annotations

import pytest

from deploy import drill_ray_up
from deploy.drills import hosts
from deploy.drills.training import EPOCHS

pytestmark = [pytest.mark.ray, pytest.mark.drill]


def test_a_training_outlives_its_worker_node():
    if lacking := hosts.missing_requirement():
        pytest.skip(lacking)
    messages: list[str] = []
    result = drill_ray_up.drill(messages.append, kill=True)
    assert set(result["without_token"].values()) == {401}
    assert result["public_listeners"] == ["127.0.0.1:8265"]
    assert result["mode_of_token"] == ["0o600", "0o600"]
    training = result["training"]
    assert len(training["nodes"]) == 2 and training["failures"] == 1
    assert EPOCHS <= training["epochs"] <= EPOCHS + 1, "a killed node costs one epoch at most"
    assert training["killed_after_epoch"] < EPOCHS
