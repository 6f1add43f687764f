"""Predict cluster times from measured costs: by arithmetic, and by simulating the job block by block."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np

from benchmarks.scaling.measure import Run

# Actor start rate of a cluster: ray-project/ray, release/release_logs/2.10.0/benchmarks/many_actors.json
ACTORS_PER_SECOND = 650.0
BLOCK_ROWS = 262_144  # ray_jobs.score's pieces
SPREAD = 0.2  # sigma of the lognormal block time: nodes differ in speed


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one stage. fixed_s: seconds independent of the rows, on one CPU.

    work_s, driver_s: CPU seconds per row (or trial) in the workers and in the driver.
    """

    fixed_s: float
    work_s: float
    driver_s: float


def cost(runs: Sequence[Run]) -> Cost:
    """Fit the cost to two sizes on one CPU, where workers and driver do not overlap."""
    small, large = sorted((one for one in runs if one.cpus == 1), key=lambda one: one.rows)
    further = large.rows - small.rows
    seconds = max(large.seconds - small.seconds, 0.0) / further  # noise may make it negative
    driver = min(max(large.driver_cpu_s - small.driver_cpu_s, 0.0) / further, seconds)
    return Cost(fixed_s=max(small.seconds - seconds * small.rows, 0.0), work_s=seconds - driver, driver_s=driver)


def estimated_seconds(one: Cost, rows: int, cpus: int) -> float:
    """Seconds: fixed cost plus the longer of the workers' share and the driver's work, which overlap."""
    return one.fixed_s + max(one.work_s * rows / cpus, one.driver_s * rows)


def simulated_seconds(one: Cost, rows: int, cpus: int, block_rows: int = BLOCK_ROWS, seed: int = 0) -> float:
    """Seconds, simulated per block: actors start at Ray's published rate, block times vary, one driver."""
    blocks = max(-(-rows // block_rows), 1)
    each = rows / blocks
    times = one.work_s * each * np.random.default_rng(seed).lognormal(-(SPREAD**2) / 2, SPREAD, blocks)
    free = [i / ACTORS_PER_SECOND for i in range(min(cpus, blocks))]  # sorted, so already a heap
    driver, done = 0.0, []
    for seconds in times:
        done.append(heapq.heappop(free) + float(seconds))
        heapq.heappush(free, done[-1])
    for end in sorted(done):
        driver = max(driver, end) + one.driver_s * each
    return one.fixed_s + driver


def saturation_cpus(one: Cost) -> float:
    """Number of CPUs that one driver can keep busy; infinite if the driver does no work."""
    return one.work_s / one.driver_s if one.driver_s > 0 else float("inf")
