"""Latency of one replica by number of callers, and autoscaling from 1 to 3 replicas and back."""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.serving_faults.background_load import BackgroundLoad, drive_once, summarize
from benchmarks.serving_faults.rig import Rig

_LADDER = (1, 2, 4, 8, 16, 32, 64)
_UP_TIMEOUT_S, _DOWN_TIMEOUT_S = 120.0, 240.0
AUTOSCALING = {
    "min_replicas": 1, "max_replicas": 3, "upscale_delay_s": 3, "downscale_delay_s": 15, "metrics_interval_s": 1,
    "look_back_period_s": 5,
}  # fmt: skip


def measure(rig: Rig, *, seconds: float = 8.0, connections: int = 32, target: float = 0.6) -> dict[str, Any]:
    """Measure one replica under 1 to 64 callers, then scaling up under load and down without it."""
    rig.deploy(options={"num_replicas": 1})
    rig.wait_ready(1)
    drive_once(rig, 3)
    results: dict[str, Any] = {"ladder": {}}
    for callers in _LADDER:
        totals = summarize([drive_once(rig, seconds, connections=callers)])
        results["ladder"][str(callers)] = totals
        rig.log(
            f"{callers} callers, 1 replica: {totals['rate']:.0f}/s, p50 {totals['p50_ms']:.1f} ms, "
            f"p99 {totals['p99_ms']:.1f} ms"
        )
    policy = {"policy_function": "serve_app.scaling:ByUse", "policy_kwargs": {"target": target}}
    rig.deploy(options={"num_replicas": "auto", "autoscaling_config": {**AUTOSCALING, "policy": policy}})
    rig.wait_ready(1)
    results["target"] = target
    with _ReplicaCounter(rig) as counting:
        load = BackgroundLoad(rig, None, 10.0, connections)
        load.start()
        try:
            results["up_s"] = counting.wait(3, _UP_TIMEOUT_S)
            time.sleep(5)
        finally:
            results["up"] = load.stop()
        light = BackgroundLoad(rig, 20.0, 10.0, 2)  # these requests must not fail when a replica stops
        light.start()
        try:
            results["down_s"] = counting.wait(1, _DOWN_TIMEOUT_S)
        finally:
            results["down"] = light.stop()
    results["replicas"] = counting.seen
    rig.log(
        f"{results['up']['failed']} of {results['up']['requests']:,} failed while scaling up, "
        f"{results['down']['failed']} of {results['down']['requests']:,} while scaling down: {results['replicas']}"
    )
    return results


class _ReplicaCounter:
    """Counts the ready replicas every second. seen: (seconds, replicas) at each change."""

    def __init__(self, rig: Rig) -> None:
        self.seen: list[tuple[float, int]] = []
        self._rig, self._over, self._began = rig, threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._count, name="count")

    def __enter__(self) -> _ReplicaCounter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def wait(self, replicas: int, timeout_s: float) -> float | None:
        """Wait for `replicas` ready replicas; returns the seconds, None after `timeout_s`."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self.seen and self.seen[-1][1] == replicas:
                return time.monotonic() - began
            time.sleep(0.2)
        self._rig.log(f"not {replicas} replicas after {timeout_s:.0f} s")
        return None

    def _count(self) -> None:
        while not self._over.wait(1.0):
            now = self._rig.ready()
            if not self.seen or self.seen[-1][1] != now:
                self.seen.append((time.monotonic() - self._began, now))
                self._rig.log(f"{now} replicas answer")
