"""The scoring engine against plain scikit-learn + torch: 1 row, 1,000 rows, 100,000 rows.

    python -m benchmarks.bench_engine [--rounds 7] [--out benchmarks/results/engine.json]

Both sides use the same fitted models (100 trees of 256 rows, autoencoder 5-16-8-16-5) and the same five raw columns.
Each round times both sides; the report is the median over the rounds. One thread each, as in a replica.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import IsolationForest

from fraud.cli import run_command
from fraud.data.simulation import transactions
from fraud.detectors import autoencoder, autoencoder_score, calibration, features, forest
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.calibration import to_score
from fraud.detectors.features import FeatureConfig
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring.detector import Detector
from fraud.scoring.engine import Engine
from fraud.thresholds.selection import Threshold

torch.set_num_threads(1)


class Baseline:
    """The common implementation: pandas in, scaling, IsolationForest.score_samples, a torch forward pass."""

    def __init__(self, detector: Detector, trees: IsolationForest, module: torch.nn.Module) -> None:
        self.detector, self.trees, self.module = detector, trees, module.eval()

    def score(self, rows: pd.DataFrame) -> np.ndarray:
        """Joined score of canonical rows, float64 (n_rows,)."""
        f, a = self.detector.features, self.detector.autoencoder
        raw = rows[list(f.names)].to_numpy(dtype=np.float64)
        logged = np.where(f.kinds == 1, np.log1p(np.maximum(raw, 0)), raw)
        X = np.clip((logged - f.center) / f.scale, -f.clip, f.clip).astype(np.float32)
        forest_score = -self.trees.score_samples(X)
        with torch.no_grad():
            x = torch.from_numpy(X)
            latent = self.module[:3](x)
            deviation = torch.cat([self.module(x) - x, latent], dim=1).numpy()
        error = np.log(np.square((deviation - a.center) @ a.factors[0]).mean(axis=1))
        raw = {"forest": forest_score, "autoencoder": error}
        return to_score(self.detector.calibration.evidence(raw)["joint"])


def fit_both(seed: int = 0) -> tuple[Engine, Baseline, pd.DataFrame]:
    """Fit one detector; return the engine and the baseline around it, and 100,000 canonical rows to score."""
    schema = Schema.load("transactions")
    rows = validate(transactions(100_000, seed=seed), schema).rows
    fit_rows = rows.head(20_000)
    raw = features.raw_features(fit_rows, schema, {}, np.empty((len(fit_rows), 0)))
    mapping = features.fit(raw, schema, {}, FeatureConfig())
    X = mapping.transform(raw)
    trees = IsolationForest(n_estimators=100, random_state=seed).fit(X)
    config = AutoencoderConfig(epochs=3)
    training = autoencoder.Training(X.shape[1], config, seed)
    while not training.is_finished:
        training.run_epoch(torch.from_numpy(X), torch.from_numpy(X))
    training.plain_module.load_state_dict(training.best_weights)
    grown, exported = forest.flatten(trees), autoencoder_score.export(training.best_weights, X, config)
    calibrated = calibration.fit({part.name: part.score(X) for part in (grown, exported)}, None)
    threshold = Threshold(0.4, "alert_budget", {}, {}, {}, (0.4, 0.4))
    detector = Detector(schema, mapping, (), (grown, exported), calibrated, threshold)
    engine = Engine(detector)
    engine.warm_up()
    return engine, Baseline(detector, trees, training.plain_module), rows


def seconds(call: Callable[[], object], at_least: float = 0.5) -> float:
    """Mean seconds per call, over at least `at_least` seconds of calls."""
    calls, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < at_least or calls == 0:
        call()
        calls += 1
    return passed / calls


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the median is reported (default 7)")
    parser.add_argument("--out", default="benchmarks/results/engine.json", help="results, JSON")
    arguments = parser.parse_args(argv)
    engine, usual, rows = fit_both()
    difference = float(np.abs(engine.score_frame(rows)["score"].to_numpy() - usual.score(rows)).max())
    record = rows.iloc[0].to_dict()
    one, thousand = rows.head(1), rows.head(1000)
    sides: dict[str, tuple[int, Callable[[], object], Callable[[], object]]] = {
        "1 row": (1, lambda: usual.score(one), lambda: engine.score_row(record)),
        "1 row + reasons": (1, lambda: usual.score(one), lambda: engine.score_and_explain(record)),
        "1,000 rows": (1000, lambda: usual.score(thousand), lambda: engine.score_frame(thousand)),
        "100,000 rows": (100_000, lambda: usual.score(rows), lambda: engine.score_frame(rows)),
    }
    table = []
    for name, (n, theirs, ours) in sides.items():
        times = [(seconds(theirs), seconds(ours)) for _ in range(arguments.rounds)]
        usual_s, engine_s = (float(np.median(column)) for column in zip(*times, strict=True))
        ratio = float(np.median([a / b for a, b in times]))
        table.append({"case": name, "usual_us": usual_s * 1e6, "engine_us": engine_s * 1e6, "ratio": ratio, "rows": n})
    print(f"{'case':<16} {'scikit-learn + torch':>22} {'engine':>14} {'ratio':>8} {'engine rows/s':>14}")
    for line in table:
        print(
            f"{line['case']:<16} {line['usual_us']:>19,.0f} µs {line['engine_us']:>11,.1f} µs {line['ratio']:>7,.1f}x"
            f" {line['rows'] / line['engine_us'] * 1e6:>14,.0f}"
        )
    print(f"largest difference of a score over {len(rows):,} rows: {difference:.1e}")
    result = {
        "table": table,
        "max_difference": difference,
        "cpu": platform.processor(),
        "python": platform.python_version(),
    }
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
