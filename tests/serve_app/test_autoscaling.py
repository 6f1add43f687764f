"""Replicas follow the cores that they keep busy."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from serve_app.autoscaling import STATISTIC, TARGET, Busy, replicas_wanted, wanted


def context(told: dict[str, float] | None, running: int) -> SimpleNamespace:
    metrics = None if told is None else {STATISTIC: told, "running_requests": {"a": 99.0}}
    return SimpleNamespace(aggregated_metrics=metrics, current_num_replicas=running)


def test_only_what_was_used_since_the_last_time_counts():
    busy, began = Busy(), time.perf_counter()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert busy.cores() * (time.perf_counter() - began) >= 0.19
    began, used = time.perf_counter(), time.process_time()
    time.sleep(0.1)
    cores = busy.cores()
    assert cores * (time.perf_counter() - began) <= time.process_time() - used + 0.05


@pytest.mark.parametrize(
    ("cores", "running", "expected"),
    [
        (2 * TARGET, 2, 2),
        (2 * TARGET * 1.09, 2, 2),
        (1.8, 2, 3),
        (2.0, 2, 4),
        (TARGET, 2, 1),
        (0.05, 4, 1),
        (8 * TARGET, 8, 8),
    ],
)
def test_each_replica_is_kept_at_the_target(cores: float, running: int, expected: int):
    assert wanted(cores, running) == expected


def test_replicas_that_have_not_told_change_nothing():
    assert replicas_wanted(context(None, 2))[0] == 2
    assert replicas_wanted(context({"a": TARGET}, 3))[0] == 3
    assert replicas_wanted(context({"a": 0.95, "b": 0.95}, 2))[0] == 4
    assert replicas_wanted(context({"a": 0.02, "b": 0.02, "c": 0.02}, 3))[0] == 1
    assert replicas_wanted(context({}, 0))[0] == 1
