"""What the measured costs foretell for a cluster: by arithmetic, and by simulating the job block by block."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np

from benchmarks.scaling.measure import Run

ACTORS_PER_SECOND = (
    650.0  # of a whole cluster: ray-project/ray, release/release_logs/2.10.0/benchmarks/many_actors.json
)
BLOCK_ROWS = 262_144  # ray_jobs.score's pieces
SPREAD = 0.2  # sigma of a block's lognormal time: nodes are not alike


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one stage. fixed_s: seconds whatever the rows, on one CPU.

    work_s, driver_s: CPU seconds a row (a trial) in the workers, which are many, and in the job's own process.
    """

    fixed_s: float
    work_s: float
    driver_s: float


def cost(runs: Sequence[Run]) -> Cost:
    """The cost from two sizes on one CPU, where nothing overlaps: the line through both."""
    small, large = sorted((one for one in runs if one.cpus == 1), key=lambda one: one.rows)
    further = large.rows - small.rows
    seconds = max(large.seconds - small.seconds, 0.0) / further  # noise, where rows cost nothing
    driver = min(max(large.driver_cpu_s - small.driver_cpu_s, 0.0) / further, seconds)
    return Cost(fixed_s=max(small.seconds - seconds * small.rows, 0.0), work_s=seconds - driver, driver_s=driver)


def estimated_seconds(one: Cost, rows: int, cpus: int) -> float:
    """Seconds: the longer of the workers' shares and the driver's part, which overlap, after what is fixed."""
    return one.fixed_s + max(one.work_s * rows / cpus, one.driver_s * rows)


def simulated_seconds(one: Cost, rows: int, cpus: int, block_rows: int = BLOCK_ROWS, seed: int = 0) -> float:
    """Seconds, block by block: actors come at Ray's published rate, blocks differ, one driver takes in each in turn."""
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
    """How many CPUs the driver keeps busy: more do not help. Infinite without a driver's part."""
    return one.work_s / one.driver_s if one.driver_s > 0 else float("inf")
