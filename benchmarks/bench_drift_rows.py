"""How many rows a drift verdict needs: false alarms and drifts found by number of rows, on whole and on partial days.

    python -m benchmarks.bench_drift_rows           # minutes
    python -m benchmarks.bench_drift_rows --table   # rewrite the table in docs/drift.md

A shop of 1,000 rows a day whose amounts, channels and rows an hour follow the time of day. The reference is two weeks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.pages import ROOT, row, write_section
from fraud.days import UTC
from fraud.errors import DataError
from monitoring.drift.partial_day import partial_day
from monitoring.drift.variation import own_variation
from monitoring.drift.verdict import DriftLimits, judge, worst

RESULTS = ROOT / "benchmarks/results/drift_rows.json"
PAGE = ROOT / "docs/drift.md"
BEGIN = "<!-- measured: python -m benchmarks.bench_drift_rows --table -->"
KINDS = {"hour": "numeric", "amount": "numeric", "distance": "numeric", "channel": "categorical", "night": "boolean"}
SIZES = (25, 50, 100, 200, 400, 800)
A_DAY, DAYS = 1_000, 14


def shop(days: int, rng: np.random.Generator) -> pd.DataFrame:
    """Rows of whole days, in order of time."""
    n = days * A_DAY
    hour = np.clip(rng.normal(14, 4, n), 0, 23.99)
    time = np.repeat(np.arange(days), A_DAY) + hour / 24
    frame = pd.DataFrame({
        "time": np.datetime64("2026-01-01", "us") + (time * 86_400_000_000).astype("timedelta64[us]"),
        "hour": np.floor(hour), "amount": np.exp(rng.normal(3, 1, n) + (hour - 14) / 16),
        "distance": rng.normal(size=n), "channel": np.where(rng.random(n) < 0.3 + hour / 60, "web", "shop"),
        "night": (hour < 8).astype(float),
    })  # fmt: skip
    return frame.sort_values("time", ignore_index=True)


def measure(draws: int, seed: int) -> list[dict[str, Any]]:
    """Shares of draws by number of rows: see `table`."""
    limits = DriftLimits(min_rows=1)
    rng = np.random.default_rng(seed)
    reference = shop(DAYS, rng)
    times = reference["time"].to_numpy()

    usual = own_variation(reference, "time", KINDS, 1.0, limits)

    def level(old: pd.DataFrame, new: pd.DataFrame) -> str:
        variation = usual if old is reference else own_variation(old, "time", KINDS, 1.0, limits)
        return worst([c.level for c in judge(old, new, KINDS, limits, variation.columns if variation else None)])

    results = []
    for size in SIZES:
        levels: dict[str, list[str]] = {"whole": [], "part": [], "same_hours": [], "moved": []}
        for _ in range(draws):
            day = shop(1, rng)
            rows = day.sample(size, random_state=int(rng.integers(1 << 30)))
            levels["whole"].append(level(reference, rows))
            levels["moved"].append(level(reference, rows.assign(distance=rows["distance"] + 0.65)))
            first = int(rng.integers(A_DAY - size))
            part = day.iloc[first : first + size]
            levels["part"].append(level(reference, part))
            window = (part["time"].iloc[0], part["time"].iloc[-1])
            hours = partial_day(times, window, size, UTC)
            levels["same_hours"].append(level(reference if hours is None else reference[hours.rows], part))
        shares = {name: float(np.mean([one == "drift" for one in verdicts])) for name, verdicts in levels.items()}
        warned = {
            f"{name}_not_ok": float(np.mean([one != "ok" for one in verdicts])) for name, verdicts in levels.items()
        }
        results.append({"rows": size, "draws": draws, **shares, **warned})
    return results


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/drift.md."""
    heads = ["rows", "whole day, no drift", "part of a day", "the same, by its hours", "one number 0.65 sd higher"]
    lines = [row(heads), row(["---"] * len(heads))]
    for one in results:
        shares = (one["whole"], one["part"], one["same_hours"], one["moved"])
        lines.append(row([str(one["rows"]), *(f"{share:.0%}" for share in shares)]))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_drift_rows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draws", type=int, default=60, help="files per number of rows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="do not measure; write the table in docs/drift.md")
    parser.add_argument("--out", default=str(RESULTS), help="results, JSON")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    if arguments.table:
        if not out.exists():
            raise DataError(f"{out} is missing: run python -m benchmarks.bench_drift_rows first")
        results = json.loads(out.read_text())
        write_section(PAGE, table(results), BEGIN)
    else:
        results = measure(arguments.draws, arguments.seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(f"{table(results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
