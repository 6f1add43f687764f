"""How many replicas to run: by the processor time that they use.

Serve's own measure, `target_ongoing_requests`, does not see the load: a replica answers one request from its first byte
to its last before it takes up the next, and what waits stands in its socket. Under 32 callers it counts one or two.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fraud.errors import ConfigError

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

METRIC = "busy"


class Use:
    """The share of one processor that this process uses, between two calls of `share`."""

    def __init__(self) -> None:
        self._cpu_s, self._at = time.process_time(), time.monotonic()

    def share(self) -> float:
        """0 for idle, 1 for all of one processor, above it where threads beside the requests' work too."""
        cpu_s, now = time.process_time(), time.monotonic()
        used, passed = cpu_s - self._cpu_s, now - self._at
        self._cpu_s, self._at = cpu_s, now
        return used / passed if passed > 0 else 0.0


class ByUse:
    """Autoscaling policy for Serve: so many replicas that each uses `target` of a processor. Raises ConfigError.

    What a replica that has not reported yet will use is taken for the mean of the others.
    """

    def __init__(self, target: float = 0.6) -> None:
        if not isinstance(target, int | float) or not 0 < target <= 1:
            raise ConfigError(f"target {target!r} is no share of a processor: give a number above 0 and up to 1")
        self._target = float(target)

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number of replicas wanted; Serve applies its bounds and delays."""
        shares = list((context.aggregated_metrics or {}).get(METRIC, {}).values())
        if not shares:
            return context.target_num_replicas, {}
        mean = sum(shares) / len(shares)
        return mean * max(context.current_num_replicas, len(shares)) / self._target, {}
