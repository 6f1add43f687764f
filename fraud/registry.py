"""MLflow runs, model versions and the aliases champion and challenger; the only importer of mlflow.

A model version points at a bundle among its run's artifacts and carries the tag `bundle_sha256`, which pins the
bundle's manifest and through it every file. What is fetched is that folder; MLflow's model formats are not used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud import bundle
from fraud.errors import BundleError, RegistryError
from fraud.locks import exclusive
from fraud.settings import Settings, turn_telemetry_off

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
BUNDLE_SHA256 = "bundle_sha256"
BUNDLE_PATH = "bundle"
_SQLITE = "sqlite:///"
_MAX_BATCH = 100  # MLflow takes at most 100 parameters and tags a call
_MAX_VALUE = 6000  # characters of a parameter
# MLflow's own defaults keep a caller waiting about four minutes for a server that is down.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class RegistryUnreachableError(RegistryError):
    """MLflow gave no answer, as opposed to answering that there is no such thing."""


@dataclass(frozen=True)
class Version:
    """A model version. number: as MLflow counts; sha256: of the manifest; alias: the one `register` gave it."""

    number: int
    run_id: str
    sha256: str
    alias: str | None = None


@dataclass(frozen=True)
class Run:
    """One MLflow run, written to by this process; threads may share it. Every method may raise RegistryError."""

    settings: Settings
    run_id: str

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log the configuration. A value that is logged again must be the same."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_MAX_VALUE]) for key, value in parameters.items()]
        with _answers(self.settings, "logging parameters") as client:
            for start in range(0, len(params), _MAX_BATCH):
                client.log_batch(self.run_id, params=params[start : start + _MAX_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, time_ms: int | None = None) -> None:
        """Log numbers, at an epoch (`step`) if they have one; the same with the same `time_ms` again is kept once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000) if time_ms is None else time_ms
        with _answers(self.settings, "logging metrics") as client:
            client.log_batch(self.run_id, metrics=[Metric(key, float(v), now, step) for key, v in metrics.items()])

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags, replacing those of the same name."""
        from mlflow.entities import RunTag

        with _answers(self.settings, "setting tags") as client:
            client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_folder(self, folder: Path, under: str | None = None) -> None:
        """Store every file of a folder as an artifact, below `under`."""
        with _answers(self.settings, f"storing the artifacts of {folder}") as client:
            client.log_artifacts(self.run_id, str(folder), under)

    def log_text(self, text: str, name: str) -> None:
        """Store a text as the artifact `name`."""
        with _answers(self.settings, f"storing {name}") as client:
            client.log_text(self.run_id, text, name)

    def log_dataset(self, *, name: str, path: str, fingerprint: str, columns: Mapping[str, str], rows: int) -> None:
        """Record what the run learnt from: fingerprint: SHA-256 of the data; columns: {name: kind}."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        schema = {
            "mlflow_colspec": [{"type": kind, "name": column, "required": False} for column, kind in columns.items()]
        }
        dataset = Dataset(
            name=name,
            digest=fingerprint[:36],
            source_type="local" if "://" not in path else "uri",
            source=json.dumps({"uri": path}),
            schema=json.dumps(schema),
            profile=json.dumps({"num_rows": rows}),
        )
        with _answers(self.settings, "recording the data set") as client:
            client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        with _answers(self.settings, "ending the run") as client:
            client.set_terminated(self.run_id, status)


def start_run(settings: Settings, name: str, tags: Mapping[str, object] | None = None) -> Run:
    """Open a run in the settings' experiment, which is made if it is missing. Raises RegistryError."""
    with _answers(settings, "starting a run") as client:
        experiment_id = _experiment(client, settings)
        run = client.create_run(
            experiment_id, run_name=name, tags={key: str(value) for key, value in (tags or {}).items()}
        )
    return Run(settings, run.info.run_id)


def continue_run(settings: Settings, run_id: str) -> Run | None:
    """Open again a run that a killed process left; None when MLflow does not know it (any more)."""
    from mlflow.exceptions import MlflowException

    with _answers(settings, f"continuing run {run_id}") as client:
        try:
            if client.get_run(run_id).info.lifecycle_stage != "active":
                return None
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise
        client.update_run(run_id, status="RUNNING")
    return Run(settings, run_id)


def register(settings: Settings, run: Run, bundle_folder: Path, tags: Mapping[str, object] | None = None) -> Version:
    """Store a bundle among the run's artifacts and make it a model version.

    It becomes champion when there is none, otherwise challenger. Raises RegistryError, or BundleError for a bad bundle.
    """
    from mlflow.exceptions import MlflowException

    sha256 = bundle.load(bundle_folder).sha256
    name = settings.model_name
    run.log_folder(bundle_folder, BUNDLE_PATH)
    with _answers(settings, f"registering a version of {name!r}") as client, exclusive(_lock_file(settings)):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{BUNDLE_PATH}"
        version = client.create_model_version(
            name, source, run.run_id, tags={**{k: str(v) for k, v in (tags or {}).items()}, BUNDLE_SHA256: sha256}
        )
        alias = CHAMPION if _by_alias(client, name, CHAMPION) is None else CHALLENGER
        client.set_registered_model_alias(name, alias, str(version.version))
    return Version(int(version.version), run.run_id, sha256, alias)


def version_of(alias: str, settings: Settings) -> int | None:
    """Version number behind an alias, None when no version has it. Raises RegistryError."""
    with _answers(settings, f"looking up {alias!r}") as client:
        found = _by_alias(client, settings.model_name, alias)
    return None if found is None else int(found.version)


def champion_version(settings: Settings) -> int | None:
    """Version number of the champion, None when there is none. Raises RegistryError."""
    return version_of(CHAMPION, settings)


def set_alias(alias: str, version: int, settings: Settings) -> None:
    """Move an alias to a version. Raises RegistryError when there is no such version."""
    with _answers(settings, f"setting {alias!r} to version {version} of {settings.model_name!r}") as client:
        client.set_registered_model_alias(settings.model_name, alias, str(version))


def remove_alias(alias: str, settings: Settings) -> None:
    """Take an alias away, if a version has it. Raises RegistryError."""
    with _answers(settings, f"removing {alias!r}") as client:
        if _by_alias(client, settings.model_name, alias) is not None:
            client.delete_registered_model_alias(settings.model_name, alias)


def resolve(reference: str | int, settings: Settings) -> Version:
    """Find a version by alias or number. Raises RegistryError (nothing found) or RegistryUnreachableError."""
    from mlflow.exceptions import MlflowException

    name, reference = settings.model_name, str(reference)
    with _answers(settings, f"looking up {reference!r} of {name!r}") as client:
        try:
            found = (
                client.get_model_version(name, reference)
                if reference.isdecimal()
                else _by_alias(client, name, reference)
            )
        except MlflowException as error:
            if not _is_missing(error):
                raise
            found = None
    if found is None:
        what = f"version {reference}" if reference.isdecimal() else f"alias {reference!r}"
        raise RegistryError(
            f"model {name!r} has no {what} in {_shown(settings)}: train one with `python -m ray_jobs.train`, or set it"
        )
    if not found.tags.get(BUNDLE_SHA256):
        raise RegistryError(
            f"version {found.version} of {name!r} has no tag {BUNDLE_SHA256!r}: `python -m ray_jobs.train` sets it"
        )
    return Version(int(found.version), found.run_id, found.tags[BUNDLE_SHA256])


def fetch(reference: str | int, settings: Settings) -> Path:
    """Give a local folder with the bundle of an alias or version, checked against the SHA-256 the registry recorded.

    Folders are kept below `settings.state/models/<version>` and used again, so the folder's name is the version. When
    MLflow cannot be reached, the copy that `reference` last meant is given, with a warning.

    Raises RegistryError (no such alias or version; unreachable and no copy) or BundleError (the bundle was altered).
    """
    cache = settings.state / "models"
    note = cache / f"{reference}.json"
    with exclusive(cache / ".lock"):
        try:
            version = resolve(reference, settings)
        except RegistryUnreachableError as error:
            if not note.exists():
                raise
            last = Version(**json.loads(note.read_text()))
            logger.warning("%s; using version %d of %r fetched before", error, last.number, settings.model_name)
            bundle.load(cache / str(last.number), expected_sha256=last.sha256)
            return cache / str(last.number)
        folder = cache / str(version.number)
        if not _holds(folder, version.sha256):
            _download(version, folder, settings)
        draft = note.with_suffix(".tmp")
        draft.write_text(json.dumps({"number": version.number, "run_id": version.run_id, "sha256": version.sha256}))
        draft.replace(note)
        return folder


def _download(version: Version, folder: Path, settings: Settings) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as draft:
        with _answers(settings, f"fetching version {version.number} of {settings.model_name!r}") as client:
            found = Path(client.download_artifacts(version.run_id, BUNDLE_PATH, draft))
        bundle.load(found, expected_sha256=version.sha256)
        shutil.rmtree(folder, ignore_errors=True)
        found.replace(folder)


def _holds(folder: Path, sha256: str) -> bool:
    """Whether the folder is that very bundle, whole; a copy that was damaged is fetched again."""
    if not folder.exists():
        return False
    try:
        bundle.load(folder, expected_sha256=sha256)
    except BundleError as error:
        logger.warning("%s", error)
        return False
    return True


@contextmanager
def _answers(settings: Settings, doing: str) -> Iterator[MlflowClient]:
    """Give a client of a store that exists, and turn whatever MLflow raises into one line."""
    turn_telemetry_off()
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    where = f"MLflow at {_shown(settings)}: {doing} failed"
    try:
        if settings.tracking_uri.startswith(_SQLITE):
            with exclusive(_lock_file(settings)):  # who comes first creates or migrates the tables, alone
                client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
                client.search_experiments(max_results=1)
        else:
            client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
        yield client
    except MlflowException as error:
        line = " ".join(error.message.split())[:400]
        kind = RegistryUnreachableError if error.error_code in _NO_ANSWER else RegistryError
        raise kind(f"{where} ({line}); check MLFLOW_TRACKING_URI and that the server runs") from error
    except (SQLAlchemyError, OSError) as error:
        line = " ".join(str(error).split())[:400]
        raise RegistryUnreachableError(f"{where} ({line}); check MLFLOW_TRACKING_URI, or start the store") from error


_NO_ANSWER = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ENDPOINT_NOT_FOUND")


def _experiment(client: MlflowClient, settings: Settings) -> str:
    with exclusive(_lock_file(settings)):
        found = client.get_experiment_by_name(settings.experiment)
        if found is not None:
            return str(found.experiment_id)
        # On SQLite, MLflow would put artifacts into ./mlruns of whatever folder a process happens to run in.
        location = None
        if settings.tracking_uri.startswith(_SQLITE):
            location = (_database(settings).parent / "mlartifacts" / settings.experiment).absolute().as_uri()
        return str(client.create_experiment(settings.experiment, artifact_location=location))


def _by_alias(client: MlflowClient, name: str, alias: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # MLflow answers INVALID_PARAMETER_VALUE for an alias that no version has.
        if _is_missing(error) or (error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in error.message):
            return None
        raise


def _is_missing(error: Any) -> bool:
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def _database(settings: Settings) -> Path:
    return Path(settings.tracking_uri.removeprefix(_SQLITE).split("?")[0])


def _lock_file(settings: Settings) -> Path:
    if settings.tracking_uri.startswith(_SQLITE):
        database = _database(settings)
        return database.with_name(f"{database.name}.lock")
    return settings.state / "registry.lock"


def _shown(settings: Settings) -> str:
    """The store's address without a password it may carry."""
    scheme, separator, rest = settings.tracking_uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2]
