"""Run a sweep on a connected Ray: search, choose the winner, write the report, log to MLflow.

Importing this takes seconds (Tune, Optuna), so `tuning.sweep` does it while Ray starts.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread

import ray
from ray import tune

from fraud.cli import stage
from fraud.data import tables
from fraud.errors import ConfigError, FraudError
from fraud.settings import Settings
from fraud.training import label_free
from tuning.order import BEST, PLOTS, REPORT, SweepRequest
from tuning.record.journal import Journal
from tuning.record.results import Results
from tuning.report import command as report
from tuning.report.verdict import headline
from tuning.search import shared, winner
from tuning.search.halving import HalvingByDetector
from tuning.search.journal_callback import JournalCallback
from tuning.search.progress import Progress
from tuning.search.sampler import TurnsSearch
from tuning.search.shared import Shared
from tuning.search.trial import REDUCTION, DetectorTrial, rungs_of
from tuning.search.windows import Windows
from tuning.tracking import SweepTracker

logger = logging.getLogger(__name__)

# A trial whose process dies is restarted twice, because a dying node can take a trial and its restart with it. A third
# death is blamed on the trial.
MAX_FAILURES = 2
_FOREST_REDUCTION = 2.0
# Switches off Tune's own state files, table and log per trial: the journal and Progress replace them.
_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run(order: SweepRequest, journal: Journal, settings: Settings, reading: Future[Windows]) -> str:
    """Run the remaining trials, choose the winner, write the report. Returns text; raises as `sweep.sweep`."""
    at_once = _trials_at_once(order)
    windows = reading.result()
    shared_data = _share(order, journal, windows)
    order = dataclasses.replace(
        order, objective_name=shared.OBJECTIVE if shared_data.has_labels else label_free.OBJECTIVE
    )
    if not shared_data.has_labels:
        logger.warning(
            "no labelled frauds to judge by: the objective is %s, no threshold is chosen", order.objective_name
        )
    journal.write_order(order.to_dict())
    tracker = SweepTracker(settings, journal) if order.should_track else None
    if tracker:
        tracker.start()
    status, patience_s = "FAILED", 15.0
    try:
        _search(order, journal, shared_data, at_once, tracker)
        trials = journal.trials().values()
        ended = sum(trial.has_ended for trial in trials)
        if ended < order.trials and not any(trial.result for trial in trials):
            status = "FINISHED"
            return f"no trial finished within the time budget: {_unfinished(order, ended)}"
        with stage("pairs, head and thresholds", logger):
            config = winner.choose(journal, windows.folds, shared_data, min(1.0, order.cpus_per_trial))
        comments = [
            f"The best of sweep {order.sweep_id}, {ended} trials on {order.data} ({order.fingerprint}).",
            f"{_training(order)} --config {BEST}",
        ]
        tables.write_text(winner.to_yaml(config, comments), str(order.outdir / BEST))
        with stage(f"report in {order.outdir}", logger):
            report.write(journal, order.outdir)
        if tracker:
            tracker.log_folder(_copy_results(order, journal))
        status, patience_s = "FINISHED", 120.0
    except KeyboardInterrupt:
        status = "KILLED"
        logger.warning("interrupted; go on with: %s", _resume(order))
        raise
    finally:
        journal.append({"event": "closed", "time": time.time(), "status": status})
        if tracker:
            tracker.finish(status, patience_s)
    text = f"{headline(Results.read(journal))}\n"
    if ended < order.trials:
        text += _unfinished(order, ended)
    text += f"report: {order.outdir / REPORT}\nbest configuration: {order.outdir / BEST}\n"
    return text + f"train it: {_training(order)} --config {order.outdir / BEST}\n"


def _copy_results(order: SweepRequest, journal: Journal) -> Path:
    """Copy the results beside the journal: --outdir may hold other files that do not belong in MLflow."""
    folder = journal.path / "result"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(order.outdir / PLOTS, folder / PLOTS)
    for name in (REPORT, BEST):
        shutil.copyfile(order.outdir / name, folder / name)
    return folder


def _unfinished(order: SweepRequest, ended: int) -> str:
    return f"{ended} of {order.trials} trials ended; go on with: {_resume(order)}\n"


def _resume(order: SweepRequest) -> str:
    return f"python -m tuning.sweep --resume {order.sweep_id}"


def _training(order: SweepRequest) -> str:
    return f"python -m ray_jobs.train --data {order.data} --schema {order.schema.name}"


def _trials_at_once(order: SweepRequest) -> int:
    """Trials that run at once. Raises ConfigError when the cluster is too small for a single one."""
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    if order.cpus_per_trial > cpus:
        raise ConfigError(
            f"--cpus-per-trial {order.cpus_per_trial:g} is more than the {cpus:g} CPUs of this Ray cluster: lower it"
        )
    if order.gpus_per_trial > gpus:
        raise ConfigError(
            f"--gpus-per-trial {order.gpus_per_trial:g} is more than the {gpus:g} GPUs of this Ray cluster: "
            + (f"use at most {gpus:g}" if gpus else "leave it out")
        )
    return order.max_concurrent or max(1, int(cpus / order.cpus_per_trial + 1e-9))


def _share(order: SweepRequest, journal: Journal, windows: Windows) -> Shared:
    """Transform the data once for each preprocessing, and put it into the object store."""
    configs = shared.preprocessings(order.space, order.config, order.detectors)
    with stage(f"{len(configs)} preprocessings of {len(windows.folds)} folds into the object store", logger):
        tasks = shared.put_tasks(windows.folds, configs)
    return Shared(
        base=order.config,
        space=order.space,
        tasks=tasks,
        days=windows.days,
        amounts=windows.amounts,
        has_labels=shared.has_frauds(windows.folds),
        folder=str(journal.path / "trials"),
        device="cuda" if order.gpus_per_trial else "cpu",
        threads=max(1, int(order.cpus_per_trial)),
    )


def _search(
    order: SweepRequest, journal: Journal, shared_data: Shared, at_once: int, tracker: SweepTracker | None
) -> None:
    os.environ.update(_TUNE)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # JournalCallback reports a trial that died in one line
    known = journal.trials()
    search = TurnsSearch(
        order.space, order.detectors, n_trials=order.trials, seed=order.config.seed, objectives=order.objectives,
        known=known, should_retry=order.should_retry,
    )  # fmt: skip
    halving = None
    if order.scheduler == "asha":
        rungs = {"forest": order.space.forest_sizes, "autoencoder": rungs_of(order.space.epochs)}
        reductions = {"forest": _FOREST_REDUCTION, "autoencoder": float(REDUCTION)}
        halving = HalvingByDetector(rungs, reductions, known.values())
    progress = Progress(order.trials, order.objective_name, known)
    draft = Thread(target=_draft, args=(journal, order.outdir), daemon=True)

    def draft_early() -> None:
        """With no trial left to start, a CPU is free: warm up the report's imports and plots."""
        if search.is_exhausted and draft.ident is None:
            draft.start()

    callback = JournalCallback(journal, progress, halving, tracker, draft_early)
    journal.append({"event": "opened", "time": time.time(), "trials": order.trials, "at_once": at_once})
    began = time.time()
    scratch = journal.path / "tune"
    shutil.rmtree(scratch, ignore_errors=True)
    trainable = tune.with_resources(
        tune.with_parameters(DetectorTrial, shared=shared_data),
        {"cpu": order.cpus_per_trial, "gpu": order.gpus_per_trial},
    )
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=search, scheduler=halving, num_samples=-1, reuse_actors=True,
                max_concurrent_trials=at_once, time_budget_s=order.time_budget_s,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(journal.path), verbose=0, callbacks=[callback],
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            ),
        ).fit()  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if draft.ident is not None:
            draft.join()
    unfinished = [trial for trial in journal.trials().values() if not trial.has_ended]
    is_over_time = order.time_budget_s is not None and time.time() - began >= order.time_budget_s
    if (unfinished or not search.is_exhausted) and not is_over_time:
        raise KeyboardInterrupt  # Tune returns on Ctrl-C instead of raising


def _draft(journal: Journal, outdir: Path) -> None:
    with suppress(FraudError):  # the final report raises it again
        report.write(journal, outdir)
