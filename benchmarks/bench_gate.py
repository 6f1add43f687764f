"""The gate's false-promotion rate, and its power for challengers that are better.

Two models score the same frauds with independent noise. Frauds cluster by card, by terminal and by day, as the gate's
bootstraps must allow for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fraud.judging import gate
from fraud.judging.evaluation import Plan, Scored
from fraud.judging.gate_limits import GateLimits
from fraud.metrics.resampling import wilson
from fraud.schema import Schema
from fraud.schema.columns import Column
from fraud.settings import Settings

SCHEMA = Schema(
    name="gate",
    columns=(
        Column(name="time", kind="timestamp"), Column(name="card", kind="entity"),
        Column(name="terminal", kind="entity"), Column(name="amount", kind="numeric", minimum=0),
        Column(name="is_fraud", kind="label"),
    ),
)  # fmt: skip
GAINS = (0.0, 0.1, 0.2, 0.4)


def window(rng: np.random.Generator, rows: int, days: int, gain: float) -> tuple[Scored, Scored]:
    """Challenger and champion on one window. gain: the challenger's extra separation of frauds, standard deviations."""
    fraud = rng.random(rows) < 0.02
    card, terminal = rng.integers(0, rows // 8, rows), rng.integers(0, rows // 20, rows)
    half = rng.random(rows) < 0.5  # half of the frauds share terminals, the others share cards
    card[fraud & half] = rng.integers(0, rows // 100, int((fraud & half).sum()))
    terminal[fraud & ~half] = rng.integers(0, rows // 100, int((fraud & ~half).sum()))
    bunch = np.where(half, card, terminal + rows)
    _, code = np.unique(bunch, return_inverse=True)
    seen = 2.0 * fraud + 0.5 * rng.normal(size=rows)
    frame = pd.DataFrame({
        "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(rng.random(rows)) * days, unit="D"),
        "card": card.astype(str), "terminal": terminal.astype(str), "amount": np.exp(rng.normal(3, 1, rows)),
    })  # fmt: skip
    sides = []
    for more in (gain, 0.0):
        own = 0.5 * rng.normal(size=code.max() + 1)[code] * fraud + 0.5 * rng.normal(size=rows)
        score = 1 / (1 + np.exp(-(seen + own + more * fraud)))
        sides.append(Scored(SCHEMA, frame, {"joined": score}, fraud.astype(np.int8), 0.9, "amount", "card"))
    return sides[0], sides[1]


def measure(windows: int, rows: int, days: int, seed: int) -> list[dict[str, Any]]:
    """Count, per gain, the windows on which `gate.better` and `gate.segments` pass the challenger."""
    limits, results = GateLimits(), []
    for gain in GAINS:
        rng = np.random.default_rng([seed, int(gain * 100)])
        passed = {"better": 0, "nothing worse": 0, "segments": 0, "all": 0}
        differences = []
        n = windows if not gain else max(1, windows // 4)
        for _ in range(n):
            ours, theirs = window(rng, rows, days, gain)
            plan = Plan(resamples=200, seed=int(rng.integers(1 << 30)))
            checks, compared = gate.better(ours, theirs, plan, limits)
            checks.append(gate.segments(ours, theirs, plan, limits))
            for check in checks:
                passed[check.name] += check.passed is not False
            passed["all"] += not gate.failed(checks)
            differences.append(compared["figures"]["average_precision"]["difference"])
        results.append({"gain": gain, "windows": n, "rows": rows, "days": days,
                      "mean_difference": float(np.mean(differences)), "passed": passed,
                      "interval": wilson(passed["all"], n)})  # fmt: skip
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gate", description=__doc__)
    parser.add_argument(
        "--windows",
        type=int,
        default=400,
        help="simulated windows without gain; a quarter as many for each gain (default: %(default)s)",
    )
    parser.add_argument("--rows", type=int, default=5000, help="rows per window (default: %(default)s)")
    parser.add_argument("--days", type=int, default=14, help="days per window (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--json", default="benchmarks/results/gate.json", help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    results = measure(arguments.windows, arguments.rows, arguments.days, arguments.seed)
    out = Path(Settings.from_environment().locate(arguments.json))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"settings": vars(arguments), "found": results}, indent=2) + "\n")
    for one in results:
        low, high = one["interval"]
        shares = ", ".join(f"{name} {count / one['windows']:.1%}" for name, count in one["passed"].items())
        sys.stdout.write(f"average precision {one['mean_difference']:+.3f}: {shares} [{low:.1%}, {high:.1%}]\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
