"""The tables of docs/scoring.md, from the JSON of the last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.pages import ROOT, row, write_section
from benchmarks.scoring.stages import STAGES

RESULTS = ROOT / "benchmarks/results/scoring.json"
PAGE = ROOT / "docs/scoring.md"
BEGIN = "<!-- measured: python -m benchmarks.scoring --table -->"


def markdown(results: Mapping[str, Any]) -> str:
    """Markdown of all tables."""
    rows, sample = results["rows"], results["sample"]
    peer_rate = rows / _wall(results["usual"])
    lines = [
        f"{results['cpus']} CPUs; `transactions`, 100 trees and an autoencoder 16-8, the same models on both sides "
        f"(scores differ by at most {results['difference']:.0e}); Parquet in and out; median of "
        f"{len(results['ours'])} rounds.",
        "",
        row(["side", "rows", "seconds", "rows/s", "against the usual"]),
        "|" + "---|" * 5,
        _line(
            "pandas + scikit-learn + torch, one process, from its start to its end", rows, rows / peer_rate, peer_rate
        ),
        _line(
            "of that, from when the models are loaded and warm",
            rows,
            median([run["seconds"] for run in results["usual"]]),
            peer_rate,
        ),
        _line("`ray_jobs.score`, whole job on a Ray that runs, no reasons", rows, _wall(results["ours"]), peer_rate),
        _line(
            "its further rows, by the difference to a job of the rows above",
            rows - sample,
            _wall(results["ours"]) - _wall(results["ours_sample"]),
            peer_rate,
        ),
        _line("the same with reasons", rows, _wall(results["reasons"]), peer_rate),
        _line("the same without, on a Ray that it starts and stops", rows, _wall(results["cold"]), peer_rate),
        "",
        "Peak memory of all processes (driver, actors, object store, Ray itself; shared pages counted once): "
        + ", ".join(f"{mib:,.0f} MiB at {int(n):,} rows" for n, mib in results["memory"].items())
        + ".",
        "",
        row([f"{results['small']:,} rows", "whole job", *STAGES.values()]),
        "|" + "---|" * (2 + len(STAGES)),
    ]
    for name, runs in results["small_runs"].items():
        stages = results["stages"].get(name)
        cells = [f"{stages[stage]:.1f} s" if stages else "" for stage in STAGES]
        lines.append(row([name, f"{median(runs):.1f} s", *cells]))
    return "\n".join(lines)


def write(results: Mapping[str, Any]) -> None:
    write_section(PAGE, markdown(results), BEGIN)


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _wall(runs: Sequence[Mapping[str, Any]]) -> float:
    return median([run["wall_s"] for run in runs])


def _line(name: str, rows: int, seconds: float, usual: float) -> str:
    return row([name, f"{rows:,}", f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{rows / seconds / usual:.1f} ×"])
