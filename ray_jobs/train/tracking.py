"""The MLflow run of a training. It survives a killed driver, and MLflow may be unreachable until the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fraud.errors import RegistryError, RegistryUnreachableError
from fraud.registry import training_rows, versions
from fraud.registry.runs import DESCRIPTION, SOURCE, Run, continue_run, start_run
from fraud.schema.validation import Validated
from fraud.scoring import bundle
from fraud.settings import Settings
from ray_jobs.train import description
from ray_jobs.train.report import BUNDLE, METRICS, PLOTS, REFERENCE
from ray_jobs.train.request import TrainingRequest
from ray_jobs.train.resume import TrainingFolder

logger = logging.getLogger(__name__)


class Tracker:
    """This training's MLflow run; after a kill, the run of the killed driver.

    MLflow may be unreachable during the fit, not at the end.
    """

    def __init__(self, settings: Settings, folder: TrainingFolder) -> None:
        self._settings = settings
        self._folder = folder
        self._run: Run | None = None
        self._begin: Callable[[], Run] | None = None
        self._is_live = True

    def start(self, request: TrainingRequest, fingerprint: str, checked: Validated) -> None:
        """Open the run and log parameters and data before the fit."""

        def begin() -> Run:
            known = self._folder.run_id
            run = continue_run(self._settings, known) if known else None
            if run is None:
                run = start_run(self._settings, f"train {request.schema.name}", {SOURCE: "ray_jobs.train"})
                self._folder.remember_run(run.run_id)
            run.log_parameters(
                {
                    "data": request.data,
                    "schema": request.schema.name,
                    "workers": request.workers,
                    **request.config.flat(),
                }
            )
            columns = {column.name: column.kind for column in request.schema.columns}
            rows = len(checked.rows) + len(checked.quarantine)
            run.log_dataset(
                name=request.schema.name, path=request.data, fingerprint=fingerprint, columns=columns, rows=rows
            )
            run.log_metrics({"rows": rows, "rows_quarantined": len(checked.quarantine)})
            run.set_tags({"use_gpu": request.use_gpu, "schema_fingerprint": request.schema.fingerprint})
            return run

        self._begin = begin
        try:
            self._run = begin()
        except RegistryUnreachableError as error:
            self._is_live = False
            logger.warning("%s; training without it; registration is retried at the end", error)

    def log_epoch(self, line: Mapping[str, Any]) -> None:
        """Log one epoch as it ends."""
        if self._run is None or not self._is_live:
            return
        try:
            self._log(self._run, line)
        except RegistryError as error:
            self._is_live = False
            logger.warning("%s; epochs are logged at the end", error)

    def register(
        self,
        request: TrainingRequest,
        metrics: Mapping[str, float],
        epochs: Sequence[Mapping[str, Any]],
        content: Mapping[str, Any],
    ) -> versions.Version:
        """Log the outcome, register the bundle, end the run. Raises RegistryError; the artifacts on disk stay.

        content: of metrics.json.
        """
        assert self._begin is not None
        try:
            run = self._run or self._begin()
            self._run = run
            reported = [line for line in self._folder.reported_epochs() if "epoch" in line]
            for line in reported:  # also of a killed driver; duplicates are skipped
                self._log(run, line)
            known = {line["epoch"] for line in reported}
            for epoch in epochs:  # a driver killed between an epoch's checkpoint and its report left no line
                if epoch["number"] not in known:
                    self._log(run, {**epoch, "epoch": epoch["number"], "time": time.time()})
            run.log_metrics(metrics)
            manifest = bundle.load(request.outdir / BUNDLE).manifest
            commit = str(manifest["git_commit"] or "unknown")
            text = description.describe(content, request, commit)
            run.set_tags({"mlflow.source.git.commit": commit, "epochs": len(epochs), DESCRIPTION: text})
            run.log_folder(request.outdir / PLOTS, PLOTS)
            run.log_file(request.outdir / REFERENCE)
            run.log_file(request.outdir / training_rows.NAME)
            run.log_text((request.outdir / METRICS).read_text(), METRICS)
            run.log_text(request.schema.to_yaml(), "schema.yaml")
            tags = description.tags(content, request, commit)
            version = versions.register(self._settings, run, request.outdir / BUNDLE, tags, text)
            run.finish()
        except RegistryError as error:
            raise RegistryError(
                f"{error}. The artifacts are complete in {request.outdir}; run the same command again to register them"
            ) from error
        return version

    def pages(self, version: versions.Version) -> str:
        """Lines with the addresses of MLflow's pages; empty without an MLflow server."""
        run_page = self._run.page() if self._run else ""
        if not run_page:
            return ""
        return f"in MLflow: {versions.version_page(self._settings, version.number)}\n           {run_page}\n"

    def abandon(self, status: str) -> None:
        """Mark the run as ended without a result; the same command reopens it."""
        if self._run is not None:
            try:
                self._run.finish(status)
            except RegistryError as error:
                logger.warning("%s", error)

    @staticmethod
    def _log(run: Run, line: Mapping[str, Any]) -> None:
        errors = {
            "autoencoder_train_error": line["train_error"],
            "autoencoder_validation_error": line["validation_error"],
        }
        run.log_metrics(errors, step=line["epoch"], time_ms=int(line["time"] * 1000))


@contextmanager
def ended(tracker: Tracker | None) -> Iterator[None]:
    """End the run when the training fails or is interrupted."""
    try:
        yield
    except Exception:
        if tracker:
            tracker.abandon("FAILED")
        raise
    except BaseException:
        if tracker:
            tracker.abandon("KILLED")
        raise


def discard(folder: TrainingFolder, settings: Settings) -> None:
    """Remove the state of a killed driver and end its MLflow run."""
    if folder.run_id and (run := continue_run(settings, folder.run_id)):
        run.finish("KILLED")
    folder.remove()
    folder.path.mkdir()
