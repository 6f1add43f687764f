"""The tables of docs/scoring.md, from the JSON of the last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.pages import ROOT, row
from benchmarks.pages import write as put
from benchmarks.scoring.stages import STAGES

RESULTS = ROOT / "benchmarks/results/scoring.json"
PAGE = ROOT / "docs/scoring.md"
BEGIN = "<!-- measured: python -m benchmarks.scoring --table -->"


def full(found: Mapping[str, Any]) -> str:
    """Every table, as Markdown."""
    rows, sample = found["rows"], found["sample"]
    whole = rows / _wall(found["usual"])
    lines = [
        f"{found['cpus']} CPUs; `transactions`, 100 trees and an autoencoder 16-8, the same models on both sides "
        f"(scores differ by at most {found['difference']:.0e}); Parquet in and out; median of "
        f"{len(found['ours'])} rounds.",
        "",
        row(["side", "rows", "seconds", "rows/s", "against the usual"]),
        "|" + "---|" * 5,
        _line("pandas + scikit-learn + torch, one process, from its start to its end", rows, rows / whole, whole),
        _line(
            "of that, from when the models are loaded and warm",
            rows,
            median([run["seconds"] for run in found["usual"]]),
            whole,
        ),
        _line("`ray_jobs.score`, whole job on a Ray that runs, no reasons", rows, _wall(found["ours"]), whole),
        _line(
            "its further rows, by the difference to a job of the rows above",
            rows - sample,
            _wall(found["ours"]) - _wall(found["ours_sample"]),
            whole,
        ),
        _line("the same with reasons", rows, _wall(found["reasons"]), whole),
        _line("the same without, on a Ray that it starts and stops", rows, _wall(found["cold"]), whole),
        "",
        "Peak memory of all processes (driver, actors, object store, Ray itself; shared pages counted once): "
        + ", ".join(f"{mib:,.0f} MiB at {int(n):,} rows" for n, mib in found["memory"].items())
        + ".",
        "",
        row([f"{found['small']:,} rows", "whole job", *STAGES.values()]),
        "|" + "---|" * (2 + len(STAGES)),
    ]
    for name, runs in found["small_runs"].items():
        stages = found["stages"].get(name)
        cells = [f"{stages[stage]:.1f} s" if stages else "" for stage in STAGES]
        lines.append(row([name, f"{median(runs):.1f} s", *cells]))
    return "\n".join(lines)


def write(found: Mapping[str, Any]) -> None:
    """Write the tables into their page."""
    put(PAGE, full(found), BEGIN)


def median(values: Sequence[float]) -> float:
    """Median of some figures."""
    return float(np.median(values))


def _wall(runs: Sequence[Mapping[str, Any]]) -> float:
    return median([run["wall_s"] for run in runs])


def _line(name: str, rows: int, seconds: float, usual: float) -> str:
    return row([name, f"{rows:,}", f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{rows / seconds / usual:.1f} ×"])
