"""Scales the number of replicas by their CPU time.

Serve's own measure, `target_ongoing_requests`, does not see the load: a replica answers one request at a time, and the
others wait in its socket. With 32 callers Serve counts one or two.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fraud.errors import ConfigError

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

METRIC = "busy"


class CpuUse:
    """Measures the share of one CPU that this process uses between two calls of `share`."""

    def __init__(self) -> None:
        self._cpu_s, self._at = time.process_time(), time.monotonic()

    def share(self) -> float:
        """0: idle; 1: one full CPU; more if background threads work too."""
        cpu_s, now = time.process_time(), time.monotonic()
        used, passed = cpu_s - self._cpu_s, now - self._at
        self._cpu_s, self._at = cpu_s, now
        return used / passed if passed > 0 else 0.0


class ByUse:
    """Autoscaling policy for Serve: each replica should use the share `target` of a CPU. Raises ConfigError.

    A replica that has not reported yet counts with the mean of the others.
    """

    def __init__(self, target: float = 0.6) -> None:
        if not isinstance(target, int | float) or not 0 < target <= 1:
            raise ConfigError(f"target {target!r} is no share of a processor: give a number above 0 and up to 1")
        self._target = float(target)

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The target number of replicas. Serve applies its bounds and delays."""
        shares = list((context.aggregated_metrics or {}).get(METRIC, {}).values())
        if not shares:
            return context.target_num_replicas, {}
        mean = sum(shares) / len(shares)
        return mean * max(context.current_num_replicas, len(shares)) / self._target, {}
