"""Measure each feature group: a Ray task refits the model without it; all refits are judged on the same test rows."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fraud.data.splits import split_by_time
from fraud.errors import FraudError
from fraud.judging.evaluation import Plan
from fraud.judging.paired import paired_average_precision
from fraud.schema import Schema
from fraud.training import fitting
from fraud.training.ablation import groups
from fraud.training.config import TrainConfig
from ray_jobs.evaluate.rows import JOINED, labels_of, times_of

logger = logging.getLogger(__name__)

_ALL = "all features"
_RETRIES = 3


def refit(rows: pd.DataFrame, schema: Schema, config: TrainConfig) -> dict[str, Any]:
    """Train in this process. Returns {scores, seconds} or {error}; scores: joined, test window, in time order."""
    began = time.perf_counter()
    try:
        _, evaluation = fitting.fit_locally(rows, schema, config)
    except FraudError as error:  # e.g. no feature is left; the other groups still count
        return {"error": str(error)}
    return {"scores": evaluation.scores[JOINED], "seconds": round(time.perf_counter() - began, 1)}


def ablate(rows: pd.DataFrame, schema: Schema, config: TrainConfig, plan: Plan, card: str | None) -> dict[str, Any]:
    """Refit with all features and without each group. Needs a connected Ray.

    rows: canonical frame with the training windows. Returns the page's section: window {start, end, rows, frauds},
    all {average_precision, interval}, groups [{name, features, average_precision, interval, worth, worth_interval} or
    {name, features, missing}], largest worth first. Raises DataError, ConfigError as `fraud.training.fitting.prepare`.
    """
    import ray

    delay_days = max(config.split.delay_days, schema.label_delay_days)
    split = split_by_time(times_of(rows, schema), replace(config.split, delay_days=delay_days), len(rows))
    labels = labels_of(rows, schema)[split.test]
    known = labels >= 0
    if not (labels == 1).any() or not (labels == 0).any():
        return {"missing": "the training's test window has no labelled frauds or no labelled legitimate rows"}
    feature_groups = groups(schema)
    schemas = {_ALL: schema, **{group.name: group.schema for group in feature_groups if group.schema is not None}}
    shared = ray.put(rows)
    cpus = max(0.01, min(1.0, ray.available_resources().get("CPU", 0.0)))
    task = ray.remote(num_cpus=cpus, max_retries=_RETRIES)(refit)
    running = {task.remote(shared, without, config): name for name, without in schemas.items()}
    outcome: dict[str, dict[str, Any]] = {}
    while running:
        ready, _ = ray.wait(list(running))
        name = running.pop(ready[0])
        outcome[name] = ray.get(ready[0])
        result = outcome[name].get("error") or f"{outcome[name]['seconds']:.1f} s"
        what = name if name == _ALL else f"without {name}"
        logger.info("ablation %d/%d: %s: %s", len(outcome), len(schemas), what, result)
    if "error" in outcome[_ALL]:
        return {"missing": f"the model could not be retrained: {outcome[_ALL]['error']}"}
    scores = {name: done["scores"][known] for name, done in outcome.items() if "scores" in done}
    clusters = None
    if card is not None:
        clusters, _ = pd.factorize(rows[card].iloc[split.test[known]].to_numpy(dtype=object), use_na_sentinel=False)
    judged = paired_average_precision(labels[known], scores, _ALL, n=plan.resamples, seed=plan.seed, clusters=clusters)
    lines = []
    for group in feature_groups:
        line: dict[str, Any] = {"name": group.name, "features": list(group.features)}
        if group.schema is None:
            line["missing"] = "no feature remains without it"
        elif group.name in judged:
            line |= judged[group.name]
        else:
            line["missing"] = outcome[group.name]["error"]
        lines.append(line)
    lines.sort(key=lambda line: -line.get("worth", np.inf))
    window = next(
        window for window in split.windows(times_of(rows, schema), labels_of(rows, schema)) if window.name == "test"
    )
    return {
        "window": {"start": window.start, "end": window.end, "rows": window.rows, "frauds": window.frauds},
        "all": {key: judged[_ALL][key] for key in ("average_precision", "interval")},
        "groups": lines,
    }
