"""Train a detector: read, check, split by time, fit the detectors on Ray, evaluate, bundle, register."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.session import connected, terminable
from fraud.cli import stage
from fraud.data import logged, tables
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from ray_jobs.train import history, report, resume
from ray_jobs.train.order import TrainingRequest, read_order
from ray_jobs.train.tracking import Tracker, discard, ended

logger = logging.getLogger(__name__)


def train(order: TrainingRequest, settings: Settings) -> str:
    """Train, write the artifacts, register a version, and return the result as text.

    A killed training resumes from its last epoch when the same command runs again. Raises FraudError.
    """
    from ray_jobs.train import fits

    fingerprint = tables.fingerprint(order.data)
    name = resume.name_of(fingerprint, order.schema, order.config, order.workers)
    with resume.training_folder(settings.state / "training", name) as folder, connected(), terminable():
        if order.should_restart:
            discard(folder, settings)
        resources = fits.check_resources(order.workers, order.use_gpu)
        checked = logged.load(order.data, order.schema, logger, report.QUARANTINE)
        with stage("features and windows", logger):
            prepared = fitting.prepare(checked.rows, order.schema, order.config)
        for window in prepared.windows:
            frauds = "" if window.frauds is None else f", {window.frauds:,} frauds"
            logger.info(
                "%s window: %s to %s, %s rows%s", window.name, window.start, window.end, f"{window.rows:,}", frauds
            )
        tracker = Tracker(settings, folder) if order.should_register else None
        with ended(tracker):
            if tracker:
                tracker.start(order, fingerprint, checked)
            detector, evaluation, state = _fit(order, prepared, resources, folder, tracker)
            with stage(f"artifacts in {order.outdir}", logger):
                content = report.summary(prepared, detector, evaluation, state["epochs"], order.config)
                report.write_weights(state["best_weights"], order.outdir)
                report.write_quarantine(checked.quarantine, order.outdir)
                reference_sha256 = report.write_reference(prepared, evaluation, order.config, order.outdir)
                report.write_plots(prepared, detector, evaluation, state["epochs"], order.config, order.outdir)
                report.write_json(detector.threshold.to_dict(), order.outdir / report.THRESHOLD)
                sha256 = bundle.save(
                    order.outdir / report.BUNDLE,
                    history.leave(detector, checked.rows, order.data, settings, in_bundle=order.should_bundle_history),
                    metrics=evaluation.metrics,
                    data_fingerprint=fingerprint,
                    windows=[dataclasses.asdict(window) for window in prepared.windows],
                    config=order.config.to_dict(),
                    reference_sha256=reference_sha256,
                )
                content |= {"bundle_sha256": sha256, "data": order.data, "data_fingerprint": fingerprint}
                content |= {
                    "nodes": folder.nodes(),
                    "rows": len(checked.rows),
                    "quarantined": len(checked.quarantine),
                    "registry": None,
                }
                report.write_json(content, order.outdir / report.METRICS)
            text = report.table(prepared, detector, evaluation, order.config)
            if tracker:
                with stage("MLflow", logger):
                    version = tracker.register(order, report.flat_metrics(evaluation, detector), state["epochs"])
                content["registry"] = {"model": settings.model_name, **dataclasses.asdict(version)}
                report.write_json(content, order.outdir / report.METRICS)
                text += f"registered {settings.model_name} version {version.number} as {version.alias}\n"
        folder.remove()
    return text + f"artifacts in {order.outdir}\n"


def _fit(
    order: TrainingRequest,
    prepared: fitting.Prepared,
    resources: Any,
    folder: resume.TrainingFolder,
    tracker: Tracker | None,
) -> tuple[Any, fitting.Evaluation, dict[str, Any]]:
    """Fit the detectors on Ray and assemble them: (Detector, Evaluation, the autoencoder's training state)."""
    import ray

    from cluster import tasks
    from fraud.detectors import autoencoder_score
    from ray_jobs.train import fits

    config = order.config
    x_fit = ray.put(prepared.x_fit)
    with stage("forest", logger) as done:
        forest = tasks.fit_forest(x_fit, config.forest, config.seed, resources.cpus_per_worker)
        done(f"{len(forest.roots)} trees on {len(prepared.x_fit):,} rows")
    trimmed = fitting.trim(prepared, forest, config)
    if len(trimmed) < len(prepared.x_fit):
        logger.info("no labels: the most isolated %s rows are left out", f"{len(prepared.x_fit) - len(trimmed):,}")
        x_fit = ray.put(trimmed)

    def on_epoch(line: Mapping[str, Any]) -> None:
        logger.info(
            "epoch %d/%d: training error %.5f, validation error %.5f%s, %.1f s",
            line["epoch"], config.autoencoder.epochs, line["train_error"], line["validation_error"],
            " (best)" if line["is_best"] else "", line["seconds"],
        )  # fmt: skip
        if tracker:
            tracker.log_epoch(line)

    with stage("autoencoder", logger) as done:
        state = fits.fit_autoencoder(
            fits.Matrices(x_fit, ray.put(prepared.x_validation), trimmed.shape),
            config.autoencoder,
            config.seed,
            resources,
            folder,
            on_epoch,
        )
        done(f"{len(state['epochs'])} epochs on {len(trimmed):,} rows")
    with stage("calibration, threshold and evaluation", logger):
        fitted = autoencoder_score.export(state["best_weights"], trimmed, config.autoencoder, config.seed)
        fit_head = functools.partial(tasks.fit_head, cpus=resources.cpus_per_worker)
        detector, evaluation = fitting.assemble(prepared, forest, fitted, config, fit_head)
    for warning in evaluation.warnings:
        logger.warning("%s", warning)
    return detector, evaluation, state


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    settings = Settings.from_environment()
    sys.stdout.write(train(read_order(argv, settings), settings))
    return 0
