"""Train a detector: read, check, split by time, fit the detectors on Ray, evaluate, bundle, register."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.session import connected, terminable
from fraud.cli import next_step, stage
from fraud.counts import counted
from fraud.data import logged, tables
from fraud.registry import training_rows
from fraud.registry.versions import CHALLENGER
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from ray_jobs.train import history, labels, report, resume
from ray_jobs.train.request import TrainingRequest, read_request
from ray_jobs.train.tracking import Tracker, discard, ended

logger = logging.getLogger(__name__)


def train(request: TrainingRequest, settings: Settings) -> str:
    """Train, write the artifacts, register a version, and return the result as text.

    A killed training resumes from its last epoch when the same command runs again. Raises FraudError.
    """
    from ray_jobs.train import fits

    request = labels.with_labels(request, settings)
    fingerprint = tables.fingerprint(request.data)
    name = resume.name_of(fingerprint, request.schema, request.config, request.workers)
    with resume.training_folder(settings.state / "training", name) as folder, connected(), terminable():
        if request.should_restart:
            discard(folder, settings)
        resources = fits.check_resources(request.workers, request.use_gpu)
        checked = logged.load(request.data, request.schema, logger, report.QUARANTINE)
        with stage("features and windows", logger):
            prepared = fitting.prepare(checked.rows, request.schema, request.config)
        for window in prepared.windows:
            frauds = "" if window.frauds is None else f", {counted(window.frauds, 'fraud')}"
            logger.info(
                "%s window: %s to %s, %s rows%s", window.name, window.start, window.end, f"{window.rows:,}", frauds
            )
        tracker = Tracker(settings, folder) if request.should_register else None
        with ended(tracker):
            if tracker:
                tracker.start(request, fingerprint, checked)
            detector, evaluation, state = _fit(request, prepared, resources, folder, tracker)
            with stage(f"artifacts in {request.outdir}", logger):
                content = report.summary(prepared, detector, evaluation, state["epochs"], request.config)
                report.write_weights(state["best_weights"], request.outdir)
                report.write_quarantine(checked.quarantine, request.outdir)
                reference_sha256 = report.write_reference(prepared, evaluation, request.config, request.outdir)
                report.write_plots(prepared, detector, evaluation, state["epochs"], request.config, request.outdir)
                report.write_json(detector.threshold.to_dict(), request.outdir / report.THRESHOLD)
                sha256 = bundle.save(
                    request.outdir / report.BUNDLE,
                    history.write_snapshots(
                        detector, checked.rows, request.data, settings, in_bundle=request.should_bundle_history
                    ),
                    metrics=evaluation.metrics,
                    data_fingerprint=fingerprint,
                    windows=[dataclasses.asdict(window) for window in prepared.windows],
                    config=request.config.to_dict(),
                    reference_sha256=reference_sha256,
                )
                content |= {"bundle_sha256": sha256, "data": request.data, "data_fingerprint": fingerprint}
                content |= {
                    "nodes": folder.nodes(),
                    "rows": len(checked.rows),
                    "quarantined": len(checked.quarantine),
                    "registry": None,
                }
                report.write_json(content, request.outdir / report.METRICS)
                training_rows.write(
                    request.outdir / training_rows.NAME,
                    prepared.rows.iloc[prepared.split.learnt],
                    request.schema,
                    sha256,
                )
            text = report.table(prepared, detector, evaluation, request.config)
            if tracker:
                with stage("MLflow", logger):
                    metrics = report.flat_metrics(evaluation, detector)
                    version = tracker.register(request, metrics, state["epochs"], content)
                content["registry"] = {"model": settings.model_name, **dataclasses.asdict(version)}
                report.write_json(content, request.outdir / report.METRICS)
                text += f"registered {settings.model_name} version {version.number} as {version.alias}\n"
                text += tracker.pages(version)
        folder.remove()
    text += f"artifacts in {request.outdir}\n"
    alias = content["registry"] and content["registry"]["alias"]
    return text + _next(request, alias, is_judged="forest" in evaluation.metrics)


def _next(request: TrainingRequest, alias: str | None, *, is_judged: bool) -> str:
    """The next command: the gate for a challenger, a judgement of others; scoring, where the data have no labels."""
    model = alias or request.outdir / report.BUNDLE
    if not is_judged:
        return next_step(
            "python -m ray_jobs.score", "--data", request.data, "--model", model, "--out", "scored.parquet"
        )
    if alias == CHALLENGER:
        return next_step("python -m ray_jobs.promote challenger --gate", "--data", request.data)
    return next_step("python -m ray_jobs.evaluate", "--data", request.data, "--model", model)


def _fit(
    request: TrainingRequest,
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

    config = request.config
    x_fit = ray.put(prepared.x_fit)
    with stage("forest", logger) as done:
        forest = tasks.fit_forest(x_fit, config.forest, config.seed, resources.cpus_per_worker)
        done(f"{len(forest.roots)} trees on {len(prepared.x_fit):,} rows")
    trimmed = fitting.trim(prepared, forest, config)
    if len(trimmed) < len(prepared.x_fit):
        logger.info("no labels: training without the %s most isolated rows", f"{len(prepared.x_fit) - len(trimmed):,}")
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
    sys.stdout.write(train(read_request(argv, settings), settings))
    return 0
