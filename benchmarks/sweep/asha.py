"""Early stopping: the same sweep with and without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detection.protocols import DataSet
from benchmarks.sweep import sweeps

SCHEDULERS = ("asha", "none")


def measure(
    data_set: DataSet, folder: Path, scratch: Path, *, trials: int, seeds: Sequence[int], fast: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Run the sweep with each scheduler and seed, in alternating order; returns JSON-ready results.

    Keys: title, trials, seeds, and {scheduler: [Sweep.summary per seed]}.
    """
    results: dict[str, Any] = {"title": data_set.title, "trials": trials, "seeds": list(seeds)}
    results |= {scheduler: [] for scheduler in SCHEDULERS}
    for index, seed in enumerate(seeds):
        for scheduler in SCHEDULERS if index % 2 == 0 else SCHEDULERS[::-1]:
            sweep = sweeps.run(
                sweeps.source_of(data_set, folder), data_set.name, sweeps.split_only(data_set.name),
                scratch / f"{data_set.name}-{scheduler}-{seed}", "--trials", str(trials), "--seed", str(seed),
                "--scheduler", scheduler, space=sweeps.FAST if fast else None,
            )  # fmt: skip
            results[scheduler].append(sweep.summary())
            log(f"{data_set.name}, seed {seed}, {scheduler}: {results[scheduler][-1]}")
    return results
