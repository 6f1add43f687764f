"""How many replicas there should be, from how busy those are that there are.

A replica scores on its event loop, one request after another in a fraction of a millisecond, so nearly always none is
"ongoing" when Serve counts, until suddenly many are: too late. CPU time says how busy it is all along, batches in
threads and all, as Kubernetes' horizontal autoscaler would. serve_app/autoscaling.yaml puts this to use.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

STATISTIC = "busy"
TARGET = 0.6


class Busy:
    """Cores that this process kept busy since the last time somebody asked."""

    def __init__(self) -> None:
        self._before = time.perf_counter(), time.process_time()

    def cores(self) -> float:
        """0 to 1, more where a batch runs beside single requests."""
        moment, used = time.perf_counter(), time.process_time()
        (moment_before, used_before), self._before = self._before, (moment, used)
        return (used - used_before) / max(moment - moment_before, 1e-9)


def replicas_wanted(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's policy function: as many replicas as keep each TARGET cores busy; Serve applies bounds and delays.

    A replica that has not reported yet counts as one that is as busy as it should be.
    """
    told = (context.aggregated_metrics or {}).get(STATISTIC) or {}
    running = max(context.current_num_replicas, 1)
    cores = sum(told.values()) + TARGET * max(running - len(told), 0)
    return wanted(cores, running), {}


def wanted(cores: float, running: int) -> int:
    """Replicas for so many busy cores; `running` where they are within a tenth of the target, lest it flaps."""
    if abs(cores / (running * TARGET) - 1.0) <= 0.1:
        return running
    return max(1, math.ceil(cores / TARGET - 1e-9))
