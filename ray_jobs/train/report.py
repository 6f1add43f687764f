"""Write a training's output folder, and format the table that it prints."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fraud import cli
from fraud.counts import counted
from fraud.data import tables
from fraud.detectors import registry
from fraud.detectors.base import column_of
from fraud.registry import reference
from fraud.scoring.detector import JOINED, Detector
from fraud.scoring.engine import SCORE
from fraud.training.config import TrainConfig
from fraud.training.fitting import Evaluation, Prepared

logger = logging.getLogger(__name__)

# The files of an output folder. A training writes the weights first, and no other program calls a file like that:
# a folder with a metrics.json or plots of something else is refused.
BUNDLE, WEIGHTS, THRESHOLD, METRICS, PLOTS = "bundle", "ae.pt", "threshold.json", "metrics.json", "plots"
QUARANTINE, REFERENCE = "quarantine.parquet", reference.NAME
MARKS = {BUNDLE, WEIGHTS}
TRAINING = "training.parquet"  # the data with labels of the store; its counts are in training.labels.json


def check_outdir(path: str) -> Path:
    """Check that the folder is empty or a training's; a bundle without a manifest is not. Raises ConfigError."""
    folder = cli.check_outdir(path, MARKS)
    if (folder / BUNDLE).exists() and not (folder / BUNDLE / "manifest.json").exists():
        raise cli.foreign_files_error(folder)
    return folder


def write_weights(weights: Mapping[str, Any], folder: Path) -> None:
    """Write ae.pt: the best epoch's state_dict, for torch.load(weights_only=True)."""
    import torch

    draft = folder / f".{WEIGHTS}.{uuid.uuid4().hex}"
    try:
        torch.save(dict(weights), draft)
        draft.replace(folder / WEIGHTS)
    finally:
        draft.unlink(missing_ok=True)


def write_quarantine(quarantine: pd.DataFrame, folder: Path) -> None:
    """Write the refused rows; without any, delete the file of an earlier training."""
    path = folder / QUARANTINE
    if len(quarantine):
        tables.write_parquet(quarantine, str(path))
    else:
        path.unlink(missing_ok=True)


def write_reference(prepared: Prepared, evaluation: Evaluation, config: TrainConfig, folder: Path) -> str:
    """Write the drift reference (fraud.registry.reference) and return its SHA-256.

    It is drawn from the test window: like the days it is compared with, the detector has not seen those rows.
    """
    columns = {JOINED: SCORE} | {cls.name: column_of(cls.name) for cls in registry.DETECTORS}
    scores = {columns[name]: values for name, values in evaluation.scores.items() if name in columns}
    frame = reference.draw(prepared.rows.iloc[prepared.split.test], scores, seed=config.seed)
    tables.write_parquet(frame, str(folder / REFERENCE))
    return reference.sha256(folder / REFERENCE)


def write_plots(
    prepared: Prepared,
    detector: Detector,
    evaluation: Evaluation,
    epochs: Sequence[Mapping[str, Any]],
    config: TrainConfig,
    folder: Path,
) -> None:
    """Draw all plots; without both classes in the test window, only the scores and the losses."""
    from fraud.judging import plots

    target = folder / PLOTS
    shutil.rmtree(target, ignore_errors=True)
    window = next(f"{w.start} to {w.end}" for w in prepared.windows if w.name == "test")
    threshold = detector.threshold.value
    scores = evaluation.scores
    has_classes = "forest" in evaluation.metrics
    losses = {"training": [e["train_error"] for e in epochs], "validation": [e["validation_error"] for e in epochs]}
    best = max((e["number"] for e in epochs if e["is_best"]), default=None)
    plots.loss_curve(losses, target / "loss_curve.png", best_epoch=best)
    shown = evaluation.labels if has_classes else None
    plots.score_histogram(
        shown, scores, target / "score_histogram.png", thresholds={"joined": threshold}, window=window
    )
    if shown is None:
        return
    plots.pr_curve(shown, scores, target / "pr_curve.png", window=window)
    plots.roc_curve(shown, scores, target / "roc_curve.png", window=window)
    plots.threshold_curves(shown, scores, target / "threshold_curves.png", threshold=threshold, window=window)
    amounts = None
    if config.threshold.amount_column:
        amounts = prepared.rows.iloc[prepared.split.test][config.threshold.amount_column].to_numpy(dtype=np.float64)
    plots.threshold_cost(
        shown,
        scores,
        target / "threshold_cost.png",
        config=config.threshold if config.threshold.policy == "cost" else None,
        threshold=threshold,
        amounts=amounts,
        window=window,
    )


def summary(
    prepared: Prepared,
    detector: Detector,
    evaluation: Evaluation,
    epochs: Sequence[Mapping[str, Any]],
    config: TrainConfig,
) -> dict[str, Any]:
    """The content of metrics.json, of JSON types."""
    return {
        "metrics": evaluation.metrics,
        "average_precision_intervals": {name: list(interval) for name, interval in evaluation.intervals.items()},
        "threshold": detector.threshold.to_dict(),
        "windows": [dataclasses.asdict(window) for window in prepared.windows],
        "warnings": list(evaluation.warnings),
        "epochs": [dict(epoch) for epoch in epochs],
        "config": config.to_dict(),
    }


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file atomically."""
    tables.write_text(json.dumps(content, indent=2, default=str) + "\n", str(path))


def flat_metrics(evaluation: Evaluation, detector: Detector) -> dict[str, float]:
    """Finite metrics for MLflow: joined_average_precision, forest_roc_auc, threshold, ..."""
    flat = {
        f"{name}_{metric}": value for name, metrics in evaluation.metrics.items() for metric, value in metrics.items()
    }
    for name, (low, high) in evaluation.intervals.items():
        flat |= {f"{name}_average_precision_low": low, f"{name}_average_precision_high": high}
    flat["threshold"] = detector.threshold.value
    return {key: value for key, value in flat.items() if math.isfinite(value)}


def table(prepared: Prepared, detector: Detector, evaluation: Evaluation, config: TrainConfig) -> str:
    """The result as aligned lines of text."""
    test = next(window for window in prepared.windows if window.name == "test")
    frauds = "frauds unknown" if test.frauds is None else counted(test.frauds, "fraud")
    lines = [f"test window {test.start} to {test.end}: {counted(test.rows, 'row')}, {frauds}"]
    budget = f"recall at {config.alert_budget:.2%} alerts"
    cells = [["", "ROC-AUC", "average precision", "95 % interval", "precision@100", budget]]
    for name in (*(name for name in evaluation.scores if name != JOINED), JOINED):
        metrics = evaluation.metrics.get(name, {})
        if "average_precision" in metrics:
            low, high = evaluation.intervals[name]
            figures = [f"{metrics[key]:.4f}" for key in ("roc_auc", "average_precision")]
            last = [f"{metrics[key]:.3f}" for key in ("precision_at_100", "recall_at_budget")]
            cells.append([name, *figures, f"{low:.3f} to {high:.3f}", *last])
    if len(cells) > 1:
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    gained = evaluation.metrics.get("head", {})
    if "average_precision_gained" in gained:
        lines.append(
            f"the supervised head (weight {gained['weight']:.2f}) adds {gained['average_precision_gained']:+.4f} of "
            "average precision to forest and autoencoder, which use no labels (label_light)"
        )
    joined = evaluation.metrics["joined"]
    words = [f"{word} {joined[word]:.3f}" for word in ("precision", "recall") if word in joined]
    chosen = detector.threshold
    outcome = ", ".join([*words, f"alerts on {joined['alert_rate']:.2%} of rows"])
    lines.append(f"threshold {chosen.value:.4f} ({chosen.policy}, chosen on validation): on the test window {outcome}")
    return "\n".join(lines) + "\n"
