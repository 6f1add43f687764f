"""Detection on published data: forest, autoencoder and joined score on the untouched test window, over several seeds.

    python -m benchmarks.bench_detection [--data handbook ulb] [--seeds 0 1 2] [--out benchmarks/results/detection.json]

Protocols, published figures and where the files come from: ../shared/data/README.md. The data folder is
FRAUD_SHARED_DATA (default ../shared/data). Beside ours, measured in the same run: scikit-learn's IsolationForest with
its defaults on the same features, and the seed's autoencoder (16-8, all rows, plain squared error).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.ensemble import IsolationForest

from fraud import autoencoder_score, data, fitting, metrics
from fraud.autoencoder import AutoencoderConfig
from fraud.config import TrainConfig
from fraud.errors import DataError, run_command
from fraud.schema import Schema
from fraud.settings import Settings

torch.set_num_threads(1)

FILES = {
    "handbook": ("handbook_2018-04-01_2018-08-14.parquet", "test week 2018-08-08 .. 08-14"),
    "ulb": ("ulb_creditcard_first80pct.parquet", "last 25 % of the file"),
}
# As quoted in ../shared/data/README.md: (who, ROC-AUC, average precision).
PUBLISHED = {
    "handbook": [
        ("IsolationForest defaults, handbook's 15 features", "0.826", "0.261"),
        ("IsolationForest, handbook's notebook (validation week)", "0.808", "0.164"),
        ("handbook's autoencoder 100-20, normals, MSE", "0.832", "0.412"),
        ("small autoencoder, compact features, whitened + latent", "0.874", "0.544"),
        ("forest + autoencoder joined, compact features", "0.874", "0.535"),
        ("supervised ceiling: random forest, handbook's notebook", "0.867", "0.658"),
    ],
    "ulb": [
        ("IsolationForest defaults", "0.925-0.938", "0.019-0.025"),
        ("seed's autoencoder 16-8, all rows, MSE", "0.933-0.936", "0.015-0.018"),
        ("denoising autoencoder 64-32-16, whitened residual", "0.953", "0.281"),
        ("denoising autoencoder 64-32-20, three seeds", "0.937-0.958", "0.25-0.49"),
        ("supervised ceiling: random forest", "0.942", "0.776"),
    ],
}


def measure(name: str, seeds: Sequence[int], folder: Path) -> dict[str, dict[str, list[float]]]:
    """Fit and judge once a seed; {detector: {metric: one value a seed}}."""
    path = folder / FILES[name][0]
    if not path.exists():
        raise DataError(f"{path} is missing: set FRAUD_SHARED_DATA to the folder with the published data sets")
    schema = Schema.load(name)
    rows = data.load(str(path), schema, need_label=True).rows
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        begin = time.perf_counter()
        config = dataclasses.replace(TrainConfig.load(name), seed=seed)
        detector, evaluation = fitting.fit_locally(rows, schema, config)
        for who, figures in (evaluation.metrics | peers(rows, schema, config, seed)).items():
            for metric in ("roc_auc", "average_precision"):
                found.setdefault(who, {}).setdefault(metric, []).append(figures[metric])
        joined = evaluation.metrics["joined"]
        print(
            f"{name} seed {seed}: joined AP {joined['average_precision']:.3f} {evaluation.intervals['joined']}, "
            f"forest weight {detector.calibration.forest_weight:.2f}, {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
    return found


def peers(rows: object, schema: Schema, config: TrainConfig, seed: int) -> dict[str, dict[str, float]]:
    """The usual models on the same features, split and test rows; fitted on all training rows, as they usually are."""
    prepared = fitting.prepare(rows, schema, config)  # type: ignore[arg-type]
    train = prepared.features.transform(prepared.raw[prepared.split.train])
    test = prepared.features.transform(prepared.raw[prepared.split.test])
    assert prepared.labels is not None
    labels = prepared.labels[prepared.split.test]
    forest = IsolationForest(random_state=seed).fit(train)
    usual = dataclasses.replace(config, autoencoder=AutoencoderConfig(noise=0.0, score="mse", epochs=10))
    fitted, _ = fitting.fit_autoencoder(train, prepared.x_validation, usual)
    assert isinstance(fitted, autoencoder_score.Autoencoder)
    return {
        "IsolationForest, sklearn defaults": metrics.evaluate(labels, -forest.score_samples(test)),
        "autoencoder 16-8, all rows, MSE": metrics.evaluate(labels, fitted.score(test)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print one table a data set, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", default="benchmarks/results/detection.json")
    arguments = parser.parse_args(argv)
    folder = Settings.from_environment().shared_data
    results = {}
    for name in arguments.data:
        found = measure(name, arguments.seeds, folder)
        results[name] = found
        print(f"\n{name}, {FILES[name][1]}, seeds {arguments.seeds}: mean ± std")
        print(f"{'':<58} {'ROC-AUC':>16} {'average precision':>20}")
        for who, figures in found.items():
            auc, ap = figures["roc_auc"], figures["average_precision"]
            print(f"{who:<58} {np.mean(auc):>8.3f} ± {np.std(auc):.3f} {np.mean(ap):>12.3f} ± {np.std(ap):.3f}")
        for who, auc_text, ap_text in PUBLISHED[name]:
            print(f"{'quoted: ' + who:<58} {auc_text:>16} {ap_text:>20}")
        print(flush=True)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"seeds": arguments.seeds, "results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
