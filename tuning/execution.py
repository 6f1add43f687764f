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

from fraud.cli import next_step, stage
from fraud.errors import ConfigError, FraudError
from fraud.settings import Settings
from fraud.training import label_free
from tuning.record.journal import Journal
from tuning.record.results import Results
from tuning.report import command as report
from tuning.report.verdict import headline
from tuning.request import BEST, PLOTS, REPORT, SweepRequest, resume_command, training_command
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

# A trial whose process dies is restarted twice, because a dying node can take a trial and its restart with it. After
# the third death the trial has failed.
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


def run(request: SweepRequest, journal: Journal, settings: Settings, reading: Future[Windows]) -> str:
    """Run the remaining trials, choose the winner, write the report. Returns text; raises as `sweep.sweep`."""
    at_once = _trials_at_once(request)
    windows = reading.result()
    shared_data = _share(request, journal, windows)
    request = dataclasses.replace(
        request, objective_name=shared.OBJECTIVE if shared_data.has_labels else label_free.OBJECTIVE
    )
    if not shared_data.has_labels:
        logger.warning("no labelled frauds: the objective is %s, and no threshold is chosen", request.objective_name)
    journal.write_request(request.to_dict())
    tracker = SweepTracker(settings, journal) if request.should_track else None
    if tracker:
        tracker.start()
    status, patience_s = "FAILED", 15.0
    try:
        _search(request, journal, shared_data, at_once, tracker)
        trials = journal.trials().values()
        ended = sum(trial.has_ended for trial in trials)
        if ended < request.trials and not any(trial.result for trial in trials):
            status = "FINISHED"
            left = _unfinished(request, ended)
            return f"no trial finished within the time budget: {left}{next_step(resume_command(request.sweep_id))}"
        with stage("pairs, head and thresholds", logger):
            config = winner.choose(journal, windows.folds, shared_data, min(1.0, request.cpus_per_trial))
        comments = [
            f"The best of sweep {request.sweep_id}, {ended} trials on {request.data} ({request.fingerprint}).",
            training_command(request.to_dict(), Path(BEST)),
        ]
        winner.write_best(winner.to_yaml(config, comments), request.outdir / BEST)
        with stage(f"report in {request.outdir}", logger):
            report.write(journal, request.outdir)
        if tracker:
            tracker.log_folder(_copy_results(request, journal))
        status, patience_s = "FINISHED", 120.0
    except KeyboardInterrupt:
        status = "KILLED"
        logger.warning("interrupted; resume with: %s", resume_command(request.sweep_id))
        raise
    finally:
        journal.append({"event": "closed", "time": time.time(), "status": status})
        if tracker:
            tracker.finish(status, patience_s)
    text = f"{headline(Results.read(journal))}\n"
    if ended < request.trials:
        text += _unfinished(request, ended)
    text += f"report: {request.outdir / REPORT}\nbest configuration: {request.outdir / BEST}\n"
    return text + next_step(training_command(request.to_dict(), request.outdir / BEST))


def _copy_results(request: SweepRequest, journal: Journal) -> Path:
    """Copy the results beside the journal: --outdir may hold other files that do not belong in MLflow."""
    folder = journal.path / "result"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(request.outdir / PLOTS, folder / PLOTS)
    for name in (REPORT, BEST):
        shutil.copyfile(request.outdir / name, folder / name)
    return folder


def _unfinished(request: SweepRequest, ended: int) -> str:
    return f"{ended} of {request.trials} trials ended; resume with: {resume_command(request.sweep_id)}\n"


def _trials_at_once(request: SweepRequest) -> int:
    """Trials that run at once. Raises ConfigError when the cluster is too small for a single one."""
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    if request.cpus_per_trial > cpus:
        raise ConfigError(
            f"--cpus-per-trial {request.cpus_per_trial:g} is more than the {cpus:g} CPUs of this Ray cluster: lower it"
        )
    if request.gpus_per_trial > gpus:
        raise ConfigError(
            f"--gpus-per-trial {request.gpus_per_trial:g} is more than the {gpus:g} GPUs of this Ray cluster: "
            + (f"use at most {gpus:g}" if gpus else "leave it out")
        )
    return request.max_concurrent or max(1, int(cpus / request.cpus_per_trial + 1e-9))


def _share(request: SweepRequest, journal: Journal, windows: Windows) -> Shared:
    """Transform the data once per preprocessing, and put it into the object store."""
    configs = shared.preprocessings(request.space, request.config, request.detectors)
    with stage(f"{len(configs)} preprocessings of {len(windows.folds)} folds into the object store", logger):
        tasks = shared.put_tasks(windows.folds, configs)
    return Shared(
        base=request.config,
        space=request.space,
        tasks=tasks,
        days=windows.days,
        amounts=windows.amounts,
        has_labels=shared.has_frauds(windows.folds),
        folder=str(journal.path / "trials"),
        device="cuda" if request.gpus_per_trial else "cpu",
        threads=max(1, int(request.cpus_per_trial)),
    )


def _search(
    request: SweepRequest, journal: Journal, shared_data: Shared, at_once: int, tracker: SweepTracker | None
) -> None:
    os.environ.update(_TUNE)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # JournalCallback reports a trial that died in one line
    known = journal.trials()
    search = TurnsSearch(
        request.space, request.detectors, n_trials=request.trials, seed=request.config.seed,
        objectives=request.objectives, known=known, should_retry=request.should_retry,
    )  # fmt: skip
    halving = None
    if request.scheduler == "asha":
        rungs = {"forest": request.space.forest_sizes, "autoencoder": rungs_of(request.space.epochs)}
        reductions = {"forest": _FOREST_REDUCTION, "autoencoder": float(REDUCTION)}
        halving = HalvingByDetector(rungs, reductions, known.values())
    progress = Progress(request.trials, request.objective_name, known)
    draft = Thread(target=_draft, args=(journal, request.outdir), daemon=True)

    def draft_early() -> None:
        """With no trial left to start, a CPU is free: warm up the report's imports and plots."""
        if search.is_exhausted and draft.ident is None:
            draft.start()

    callback = JournalCallback(journal, progress, halving, tracker, draft_early)
    journal.append({"event": "opened", "time": time.time(), "trials": request.trials, "at_once": at_once})
    began = time.time()
    scratch = journal.path / "tune"
    shutil.rmtree(scratch, ignore_errors=True)
    trainable = tune.with_resources(
        tune.with_parameters(DetectorTrial, shared=shared_data),
        {"cpu": request.cpus_per_trial, "gpu": request.gpus_per_trial},
    )
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=search, scheduler=halving, num_samples=-1, reuse_actors=True,
                max_concurrent_trials=at_once, time_budget_s=request.time_budget_s,
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
    is_over_time = request.time_budget_s is not None and time.time() - began >= request.time_budget_s
    if (unfinished or not search.is_exhausted) and not is_over_time:
        raise KeyboardInterrupt  # Tune returns on Ctrl-C instead of raising


def _draft(journal: Journal, outdir: Path) -> None:
    with suppress(FraudError):  # the final report raises it again
        report.write(journal, outdir)
