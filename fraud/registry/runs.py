"""Create, write and find MLflow runs; `mlflow_client` turns every MLflow failure into a RegistryError.

Only this module and `fraud.registry.versions` import mlflow.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fraud.data.locks import exclusive
from fraud.errors import RegistryError, RegistryUnreachableError
from fraud.settings import Settings, context, turn_telemetry_off

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

# MLflow's own tags: of nested runs; the Markdown text on a run's page; what wrote the run; the view of an experiment.
PARENT_RUN, DESCRIPTION, SOURCE = "mlflow.parentRunId", "mlflow.note.content", "mlflow.source.name"
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # otherwise MLflow 3 may open its view for GenAI
_SQLITE = "sqlite:///"
# MLflow's limits per call (parameters, tags, metrics) and per value (characters).
_MAX_BATCH = 100
_MAX_METRICS = 800
_MAX_PARAMETER, _MAX_TAG = 6000, 5000
_ENVIRONMENT = {
    # With MLflow's defaults a caller waits about four minutes for a server that is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Otherwise every run that ends makes one more request and prints two lines.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Point(NamedTuple):
    """One value of a metric: step: epoch, number of trees or the like; time_ms: since 1970."""

    key: str
    value: float
    step: int
    time_ms: int


@dataclass(frozen=True)
class Run:
    """One MLflow run. Thread-safe. Every method may raise RegistryError.

    experiment_id: experiment of its child runs; None: looked up when needed.
    """

    settings: Settings
    run_id: str
    experiment_id: str | None = None

    def log(
        self,
        *,
        parameters: Mapping[str, object] | None = None,
        points: Sequence[Point] = (),
        tags: Mapping[str, object] | None = None,
    ) -> None:
        """Log in as few calls as MLflow allows.

        A parameter logged again must have the same value. Identical points are stored once. A tag replaces the one of
        its name. Values that are too long are cut.
        """
        with mlflow_client(self.settings, f"logging to run {self.run_id}") as client:
            from mlflow.entities import Metric, Param, RunTag

            params = [Param(key, str(value)[:_MAX_PARAMETER]) for key, value in (parameters or {}).items()]
            metrics = [Metric(point.key, float(point.value), point.time_ms, point.step) for point in points]
            run_tags = [RunTag(key, str(value)[:_MAX_TAG]) for key, value in (tags or {}).items()]
            while params or metrics or run_tags:
                client.log_batch(self.run_id, metrics[:_MAX_METRICS], params[:_MAX_BATCH], run_tags[:_MAX_BATCH])
                params, metrics, run_tags = params[_MAX_BATCH:], metrics[_MAX_METRICS:], run_tags[_MAX_BATCH:]

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log the configuration. A parameter logged again must have the same value."""
        self.log(parameters=parameters)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, time_ms: int | None = None) -> None:
        """Log metrics, with an epoch as `step` if they have one. Idempotent with the same `time_ms`."""
        now = int(time.time() * 1000) if time_ms is None else time_ms
        self.log(points=[Point(key, value, step, now) for key, value in metrics.items()])

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags, replacing those of the same name."""
        self.log(tags=tags)

    def log_folder(self, folder: Path, under: str | None = None) -> None:
        """Store every file of a folder as an artifact, below `under`."""
        with mlflow_client(self.settings, f"storing the artifacts of {folder}") as client:
            client.log_artifacts(self.run_id, str(folder), under)

    def log_file(self, path: Path, under: str | None = None) -> None:
        """Store a file as an artifact of its name, below `under`."""
        with mlflow_client(self.settings, f"storing {path.name}") as client:
            client.log_artifact(self.run_id, str(path), under)

    def log_text(self, text: str, name: str) -> None:
        """Store a text as the artifact `name`."""
        with mlflow_client(self.settings, f"storing {name}") as client:
            client.log_text(self.run_id, text, name)

    def log_dataset(self, *, name: str, path: str, fingerprint: str, columns: Mapping[str, str], rows: int) -> None:
        """Record the training data. fingerprint: SHA-256 of the data; columns: {name: kind}."""
        schema = {
            "mlflow_colspec": [{"type": kind, "name": column, "required": False} for column, kind in columns.items()]
        }
        with mlflow_client(self.settings, "recording the data set") as client:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=name,
                digest=fingerprint[:36],
                source_type="local" if "://" not in path else "uri",
                source=json.dumps({"uri": path}),
                schema=json.dumps(schema),
                profile=json.dumps({"num_rows": rows}),
            )
            client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def page(self) -> str:
        """The address of the run's page; empty without an MLflow server."""
        if not _has_server(self.settings):
            return ""
        experiment_id = self.experiment_id
        if experiment_id is None:
            with mlflow_client(self.settings, f"looking up run {self.run_id}") as client:
                experiment_id = client.get_run(self.run_id).info.experiment_id
        return page(self.settings, f"experiments/{experiment_id}/runs/{self.run_id}")

    def finish(self, status: str = "FINISHED", time_ms: int | None = None) -> None:
        """End the run. status: FINISHED, FAILED or KILLED; time_ms: end time, default now."""
        with mlflow_client(self.settings, "ending the run") as client:
            client.set_terminated(self.run_id, status, time_ms)

    def reopen(self) -> None:
        """Set the status to RUNNING."""
        with mlflow_client(self.settings, f"continuing run {self.run_id}") as client:
            client.update_run(self.run_id, status="RUNNING")

    def delete(self) -> None:
        """Mark the run as deleted in MLflow; it can be restored."""
        with mlflow_client(self.settings, f"deleting run {self.run_id}") as client:
            client.delete_run(self.run_id)


def start_run(
    settings: Settings,
    name: str,
    tags: Mapping[str, object] | None = None,
    *,
    parent: Run | None = None,
    started_ms: int | None = None,
) -> Run:
    """Start a run in the settings' experiment, created if missing. Raises RegistryError.

    parent: makes it a nested run. started_ms: start time, default now.
    """
    named = {key: str(value)[:_MAX_TAG] for key, value in (tags or {}).items()}
    if parent is not None:
        named[PARENT_RUN] = parent.run_id
    with mlflow_client(settings, "starting a run") as client:
        experiment_id = (parent.experiment_id if parent else None) or _experiment(client, settings)
        run = client.create_run(experiment_id, started_ms, named, name)
    return Run(settings, run.info.run_id, experiment_id)


def continue_run(settings: Settings, run_id: str) -> Run | None:
    """Reopen the run of a killed process; None if the run does not exist or was deleted."""
    with mlflow_client(settings, f"continuing run {run_id}") as client:
        from mlflow.exceptions import MlflowException

        try:
            info = client.get_run(run_id).info
        except MlflowException as error:
            if is_missing(error):
                return None
            raise
        if info.lifecycle_stage != "active":
            return None
        client.update_run(run_id, status="RUNNING")
    return Run(settings, run_id, info.experiment_id)


def find_runs(settings: Settings, tags: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Find the experiment's runs that carry all of `tags`, oldest first: (run id, its tags). Raises RegistryError."""
    for key, value in tags.items():
        if not set("'`").isdisjoint(key + value):
            raise ValueError(f"tag {key}={value} holds a quote, which MLflow's filter does not support")
    runs: list[Any] = []
    with mlflow_client(settings, "looking for runs") as client:
        experiment = client.get_experiment_by_name(settings.experiment)
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        token: str | None = ""
        while experiment is not None and token is not None:
            page = client.search_runs([experiment.experiment_id], condition, max_results=1000, page_token=token or None)
            runs += page
            token = page.token or None
    runs.sort(key=lambda run: (run.info.start_time, run.info.run_id))
    return [(run.info.run_id, dict(run.data.tags)) for run in runs]


@contextmanager
def mlflow_client(settings: Settings, doing: str) -> Iterator[MlflowClient]:
    """Yield an MLflow client; create the SQLite store if needed. MLflow errors become a one-line RegistryError.

    The first call of a process logs which model and registry it speaks of.

    doing: the operation, for the message. All imports of MLflow must run inside this context: it turns MLflow's
    telemetry off first.
    """
    _announce(settings)
    turn_telemetry_off()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    where = f"MLflow at {shown(settings)}: {doing} failed"
    try:
        if settings.tracking_uri.startswith(_SQLITE):
            _make_tables(settings)
        yield MlflowClient(settings.tracking_uri, settings.tracking_uri)
    except MlflowException as error:
        line = " ".join(error.message.split())[:400]
        kind = RegistryUnreachableError if error.error_code in _NO_ANSWER else RegistryError
        raise kind(f"{where} ({line}); check MLFLOW_TRACKING_URI and that the server runs") from error
    except (SQLAlchemyError, OSError) as error:
        line = " ".join(str(error).split())[:400]
        raise RegistryUnreachableError(f"{where} ({line}); check MLFLOW_TRACKING_URI, or start the store") from error


@functools.lru_cache
def _announce(settings: Settings) -> None:
    """Log model and registry once. Raises RegistryUnreachableError at once if they are of a stack that does not run."""
    source = context.source(settings, context.TRACKING, settings.tracking_uri)
    if source and not context.is_answering(settings.tracking_uri):
        raise RegistryUnreachableError(context.not_running(source))
    logger.info("model %s, registry %s%s", settings.model_name, shown(settings), f" ({source})" if source else "")


@functools.lru_cache
def _make_tables(settings: Settings) -> None:
    """Create or migrate an SQLite store, once per process, under a lock."""
    from mlflow import MlflowClient

    with exclusive(lock_file(settings)):
        MlflowClient(settings.tracking_uri, settings.tracking_uri).search_experiments(max_results=1)


_NO_ANSWER = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ENDPOINT_NOT_FOUND")


def _experiment(client: MlflowClient, settings: Settings) -> str:
    with exclusive(lock_file(settings)):
        experiment = client.get_experiment_by_name(settings.experiment)
        if experiment is not None:
            for key, value in _KIND.items():
                if key not in experiment.tags:
                    client.set_experiment_tag(experiment.experiment_id, key, value)
            if settings.tracking_uri.startswith(_SQLITE) and experiment.artifact_location.startswith(
                "mlflow-artifacts:"
            ):
                raise RegistryError(
                    f"experiment {settings.experiment!r} in {shown(settings)} keeps artifacts with an MLflow server: "
                    "start it (make up) and set MLFLOW_TRACKING_URI to it, or name another FRAUD_EXPERIMENT"
                )
            return str(experiment.experiment_id)
        # With SQLite, MLflow would put artifacts into ./mlruns of the current directory.
        location = None
        if settings.tracking_uri.startswith(_SQLITE):
            location = (_database(settings).parent / "mlartifacts" / settings.experiment).absolute().as_uri()
        return str(client.create_experiment(settings.experiment, artifact_location=location, tags=_KIND))


def page(settings: Settings, name: str) -> str:
    """The address of a page of the MLflow server, such as "models/fraud", in its view for models; empty without one."""
    if not _has_server(settings):
        return ""
    path = urllib.parse.quote(name)
    return f"{shown(settings).rstrip('/')}/#/{path}?workflowType=machine_learning"


def experiment_page(settings: Settings) -> str:
    """The address of the experiment's runs; empty without an MLflow server or without runs. Raises RegistryError."""
    if not _has_server(settings):
        return ""
    with mlflow_client(settings, "looking up the experiment") as client:
        experiment = client.get_experiment_by_name(settings.experiment)
    return page(settings, f"experiments/{experiment.experiment_id}/runs") if experiment else ""


def _has_server(settings: Settings) -> bool:
    return settings.tracking_uri.startswith(("http://", "https://"))


def is_missing(error: Any) -> bool:
    """Whether an MlflowException means that the resource does not exist."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def _database(settings: Settings) -> Path:
    return Path(settings.tracking_uri.removeprefix(_SQLITE).split("?")[0])


def lock_file(settings: Settings) -> Path:
    """Lock file for look-up-then-create operations of processes on this machine."""
    if settings.tracking_uri.startswith(_SQLITE):
        database = _database(settings)
        return database.with_name(f"{database.name}.lock")
    return settings.state / "registry.lock"


def shown(settings: Settings) -> str:
    """The store's address without the password."""
    scheme, separator, rest = settings.tracking_uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2]
