"""Quality of a sweep's configuration on an unseen test window, beside the default and the shipped one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detection.protocols import DataSet
from benchmarks.sweep import sweeps
from fraud.detectors import forest
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from fraud.training.fitting import Evaluation, Prepared

DEFAULT, SWEPT, SHIPPED = "default", "sweep", "shipped"
SCORES = ("forest", "autoencoder", "label_light", "joined")


def measure(
    data_set: DataSet, folder: Path, scratch: Path, *, trials: int, seeds: Sequence[int], fast: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Sweep from a configuration with only a split, then train with each configuration and seed; JSON-ready.

    Keys: title, protocol, seeds, rows and frauds of the test window, sweep (see Sweep.summary), figures
    {configuration: {score: [average precision per seed]}} on the test window.
    """
    base = sweeps.split_only(data_set.name)
    sweep = sweeps.run(
        sweeps.source_of(data_set, folder), data_set.name, base, scratch / data_set.name, "--trials", str(trials),
        space=sweeps.FAST if fast else None,
    )  # fmt: skip
    summary = sweep.summary()
    log(f"{data_set.name}: {summary}")
    configs = {
        DEFAULT: from_mapping(TrainConfig, base),
        SWEPT: TrainConfig.load(str(sweep.best)),
        SHIPPED: TrainConfig.load(data_set.name),
    }
    rows = data_set.load(folder)
    figures: dict[str, dict[str, list[float]]] = {}
    window: dict[str, int] = {}
    for who, config in configs.items():
        chosen = _faster(config) if fast else config
        prepared = fitting.prepare(rows, data_set.schema, chosen)
        for seed in seeds:
            began = time.perf_counter()
            evaluation = fit(prepared, dataclasses.replace(chosen, seed=seed))
            assert evaluation.labels is not None
            window = {"rows": len(evaluation.labels), "frauds": int((evaluation.labels == 1).sum())}
            for score, value in precisions(evaluation).items():
                figures.setdefault(who, {}).setdefault(score, []).append(round(value, 5))
            latest = {score: values[-1] for score, values in figures[who].items()}
            log(f"  {who}, seed {seed}: {latest} in {time.perf_counter() - began:.0f} s")
    return {
        "title": data_set.title, "protocol": data_set.protocol, "seeds": list(seeds), **window, "sweep": summary,
        "figures": figures,
    }  # fmt: skip


def fit(prepared: Prepared, config: TrainConfig) -> Evaluation:
    """Same as `fitting.fit_locally`, with the seed-independent part prepared once."""
    grown = forest.fit(prepared.x_fit, config.forest, config.seed)
    trained, _ = fitting.fit_autoencoder(fitting.trim(prepared, grown, config), prepared.x_validation, config)
    return fitting.assemble(prepared, grown, trained, config)[1]


def precisions(evaluation: Evaluation) -> dict[str, float]:
    """Average precision of each score. Without a head, label_light is the joined score."""
    metrics: Mapping[str, Mapping[str, float]] = {"label_light": evaluation.metrics["joined"], **evaluation.metrics}
    return {score: float(metrics[score]["average_precision"]) for score in SCORES}


def _faster(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(
        config,
        forest=dataclasses.replace(config.forest, n_estimators=20),
        autoencoder=dataclasses.replace(config.autoencoder, epochs=2, score="whitened"),
        head=dataclasses.replace(config.head, members=1, iterations=30),
    )
