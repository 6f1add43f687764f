"""The tables of docs/scaling.md, from the JSON of the last run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.pages import ROOT, row, write_section
from benchmarks.scaling.measure import STAGES, Run
from benchmarks.scaling.simulate import BLOCK_ROWS, cost, estimated_seconds, saturation_cpus, simulated_seconds

RESULTS = ROOT / "benchmarks/results/scaling.json"
SERVING = ROOT / "benchmarks/results/serving.json"
PAGE = ROOT / "docs/scaling.md"
BEGIN = "<!-- measured: python -m benchmarks.scaling --table -->"
NODES, NODE_CPUS = (1, 10, 100), 8
BILLION = 10**9
TRIALS = 1_000


def markdown(results: Mapping[str, Any]) -> str:
    """Markdown tables: measured cost per stage, predicted job times."""
    price = results["usd_per_cpu_hour"]
    lines = [
        row(["stage", "of", "fixed s", "CPU s a million, 1 CPU", "2 CPUs", "quicker with 2", "USD a million, 2 CPUs",
             "of it in the job's own process"]),
        "|" + "---|" * 8,
    ]  # fmt: skip
    predicted = [
        row(
            [
                "stage",
                "job",
                *(f"{nodes} nodes" for nodes in NODES),
                "by arithmetic, 100",
                "CPUs it keeps busy",
            ]
        ),
        "|" + "---|" * (4 + len(NODES)),
    ]
    for stage in STAGES:
        runs = [Run(**run) for run in results["stages"][stage.name]]
        one = cost(runs)
        is_sweep = max(stage.rows) < 1000
        unit, of = (1.0, "a trial") if is_sweep else (1e6, f"{max(stage.rows):,} rows")
        alone = (one.work_s + one.driver_s) * unit
        cells = [stage.name, of, f"{one.fixed_s:.1f}", f"{alone:.2f}"]
        pair = _seconds_per_row(runs, 2)
        if pair is None:
            cells += ["one process", "", f"{alone / 3600 * price:.6f}", "all"]
        else:
            paid = pair * unit * 2
            cells += [f"{paid:.2f}", f"{alone / (pair * unit):.2f} ×", f"{paid / 3600 * price:.6f}",
                      f"{one.driver_s / (one.work_s + one.driver_s):.0%}"]  # fmt: skip
        lines.append(row(cells))
        if stage.is_parallel and not stage.workers_flag:
            jobs, block = (TRIALS, 1) if is_sweep else (BILLION, BLOCK_ROWS)
            ends = [_clock(simulated_seconds(one, jobs, nodes * NODE_CPUS, block)) for nodes in NODES]
            predicted.append(row([
                stage.name, f"{jobs:,} {'trials' if is_sweep else 'rows'}", *ends,
                _clock(estimated_seconds(one, jobs, NODES[-1] * NODE_CPUS)), f"{saturation_cpus(one):,.0f}",
            ]))  # fmt: skip
    served = json.loads(SERVING.read_text())["servers"]["ours"]["rounds"]
    us = sorted(one["cases"]["single 16"]["cpu_us"] for one in served)[len(served) // 2]
    lines.append(row(["/score, a transaction a request", "16 at a time", "", f"{us:.0f}", f"{us:.0f}", "",
                      f"{us / 3600 * price:.6f}", ""]))  # fmt: skip
    head = f"USD at {price} a CPU hour. A sweep's figures are of one trial, /score's of `docs/serving_speed.md`."
    return "\n".join([head, "", *lines, "", f"Predicted, nodes of {NODE_CPUS} CPUs:", "", *predicted])


def write(results: Mapping[str, Any]) -> None:
    write_section(PAGE, markdown(results), BEGIN)


def _seconds_per_row(runs: list[Run], cpus: int) -> float | None:
    """Seconds per additional row; None unless there are two sizes."""
    pair = sorted((one for one in runs if one.cpus == cpus), key=lambda one: one.rows)
    return (pair[1].seconds - pair[0].seconds) / (pair[1].rows - pair[0].rows) if len(pair) == 2 else None


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 300
        else f"{seconds / 60:.0f} min"
        if seconds < 18_000
        else f"{seconds / 3600:.1f} h"
    )
