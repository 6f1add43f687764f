"""Baseline: score a file in one process with pandas, scikit-learn's IsolationForest and a torch autoencoder.

    python -m benchmarks.scoring.peer --data rows.parquet --out scored.parquet

Reads the file, scales, scores with both models, joins, decides and writes Parquet; it validates nothing and writes no
reasons and no per-model scores. The models are those of benchmarks.bench_engine, fitted first (`fit_s`). `seconds`
starts when they are warm.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import pandas as pd

from benchmarks.bench_engine import fit_both
from fraud.cli import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Score; print rows and seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Parquet file")
    parser.add_argument("--out", required=True, help="Parquet file")
    arguments = parser.parse_args(argv)
    began = time.perf_counter()
    engine, usual, rows = fit_both()
    fit_s = time.perf_counter() - began
    usual.score(rows.head(1_000))
    stages = {}
    began = last = time.perf_counter()

    def mark(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        stages[stage], last = now - last, now

    frame = pd.read_parquet(arguments.data)
    mark("read")
    frame["score"] = usual.score(frame)
    mark("score")
    frame["is_fraud"] = frame["score"] >= engine.threshold.value
    frame["model_version"] = "1"
    frame.to_parquet(arguments.out, index=False)
    mark("write")
    print(json.dumps({"rows": len(frame), "seconds": time.perf_counter() - began, "stages": stages, "fit_s": fit_s}))
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
