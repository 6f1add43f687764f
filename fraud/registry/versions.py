"""Register, look up, fetch and verify model versions in MLflow; move the aliases champion and challenger.

A model version refers to a bundle among its run's artifacts. Its tag `bundle_sha256` is the hash of the bundle's
manifest, which holds the hash of every file. MLflow's model formats are not used.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud.data.locks import exclusive
from fraud.errors import BundleError, RegistryError, RegistryUnreachableError
from fraud.registry import changes, promotion
from fraud.registry.changes import Change
from fraud.registry.runs import Run, is_missing, lock_file, mlflow_client, page, shown
from fraud.scoring import bundle
from fraud.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
BUNDLE_SHA256 = "bundle_sha256"
BUNDLE_PATH = "bundle"
_ABOUT_MODEL = (
    "Scores transactions: higher is more suspicious, in [0, 1]. The alias `champion` serves; `challenger` is the "
    "newest version that does not. `python -m ray_jobs.promote --status` shows who moved them, and why."
)


@dataclass(frozen=True)
class Version:
    """A model version. number: in MLflow; sha256: of the manifest; alias: set by `register`."""

    number: int
    run_id: str
    sha256: str
    alias: str | None = None


@dataclass(frozen=True)
class TaggedVersion(Version):
    """A version with its tags; sha256 is empty if the version has no such tag."""

    tags: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class RegistryState:
    """The registered model at one moment.

    champion: the requested version, by default the champion; None if there is none. tags: of the registered model; see
    fraud.registry.promotion and fraud.registry.changes.
    """

    champion: TaggedVersion | None
    challenger: TaggedVersion | None
    tags: Mapping[str, str]


def register(
    settings: Settings,
    run: Run,
    bundle_folder: Path,
    tags: Mapping[str, object] | None = None,
    description: str | None = None,
) -> Version:
    """Store a bundle among the run's artifacts and register it as a model version.

    It becomes champion if there is none, otherwise challenger. Raises RegistryError, or BundleError for a bad bundle.
    tags, description (Markdown): shown on the version's page.
    """
    sha256 = bundle.load(bundle_folder).sha256
    name = settings.model_name
    run.log_folder(bundle_folder, BUNDLE_PATH)
    with mlflow_client(settings, f"registering a version of {name!r}") as client, exclusive(lock_file(settings)):
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name, description=_ABOUT_MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{BUNDLE_PATH}"
        version = client.create_model_version(
            name, source, run.run_id, tags={**{k: str(v) for k, v in (tags or {}).items()}, BUNDLE_SHA256: sha256},
            description=description,
        )  # fmt: skip
        number = int(version.version)
        alias = CHAMPION if _by_alias(client, name, CHAMPION) is None else CHALLENGER
        client.set_registered_model_alias(name, alias, str(number))
        if alias == CHAMPION:
            reason = "the first version: there was no champion"
            first = Change(action=changes.PROMOTED, time=promotion.now(), by=changes.user(), reason=reason,
                           version=number, after=number)  # fmt: skip
            _record(client, name, client.get_registered_model(name).tags, first)
    return Version(number, run.run_id, sha256, alias)


def version_page(settings: Settings, number: int) -> str:
    """The address of a version's page; empty without an MLflow server."""
    return page(settings, f"models/{settings.model_name}/versions/{number}")


def version_of(alias: str, settings: Settings) -> int | None:
    """Version number of an alias; None if no version has it. Raises RegistryError."""
    with mlflow_client(settings, f"looking up {alias!r}") as client:
        version = _by_alias(client, settings.model_name, alias)
    return None if version is None else int(version.version)


def champion_version(settings: Settings) -> int | None:
    """Version number of the champion; None if there is none. Raises RegistryError."""
    return version_of(CHAMPION, settings)


def set_alias(alias: str, version: int, settings: Settings) -> None:
    """Move an alias to a version. Raises RegistryError if the version does not exist."""
    with mlflow_client(settings, f"setting {alias!r} to version {version} of {settings.model_name!r}") as client:
        client.set_registered_model_alias(settings.model_name, alias, str(version))


def remove_alias(alias: str, settings: Settings) -> None:
    """Remove an alias, if a version has it. Raises RegistryError."""
    with mlflow_client(settings, f"removing {alias!r}") as client:
        if _by_alias(client, settings.model_name, alias) is not None:
            client.delete_registered_model_alias(settings.model_name, alias)


def registry_state(
    settings: Settings, reference: str | int = CHAMPION, *, with_idle_challenger: bool = True
) -> RegistryState:
    """Look up the version of `reference` (an alias or number), the challenger, and the tags.

    with_idle_challenger: False skips the challenger unless a tag switches it on; saves one of three requests.
    Raises RegistryUnreachableError.
    """
    name, reference = settings.model_name, str(reference)
    with mlflow_client(settings, f"looking up {reference!r} of {name!r}") as client:
        from mlflow.exceptions import MlflowException

        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return RegistryState(None, None, {})
        aliases = {alias: int(number) for alias, number in model.aliases.items()}
        requested = int(reference) if reference.isdecimal() else aliases.get(reference)
        rival = aliases.get(CHALLENGER) if with_idle_challenger or promotion.may_be_on(model.tags) else None
        champion, challenger = (_version(client, name, number) for number in (requested, rival))
        return RegistryState(champion, challenger, dict(model.tags))


def look_up(reference: str | int, settings: Settings) -> TaggedVersion:
    """`resolve`, with the version's tags. Raises as `resolve`."""
    version = registry_state(settings, reference).champion
    if version is not None and version.sha256:
        return version
    resolve(reference, settings)  # raises with the reason
    raise RegistryError(f"{reference!r} of {settings.model_name!r} changed while it was looked up: try again")


def move_champion(settings: Settings, move: Change, *, expected: int | None) -> None:
    """Make a version the champion and record the move.

    move: PROMOTED or ROLLED_BACK, with the version; `before` and `after` are filled in. expected: the champion that the
    caller saw. Raises RegistryError if it has changed.
    """
    name = settings.model_name
    with (
        mlflow_client(settings, f"promoting version {move.version} of {name!r}") as client,
        exclusive(lock_file(settings)),
    ):
        model = client.get_registered_model(name)
        champion = model.aliases.get(CHAMPION)
        champion = None if champion is None else int(champion)
        if champion != expected:
            raise RegistryError(f"the champion of {name!r} was moved to version {champion} meanwhile: check and retry")
        recorded = changes.history(model.tags, None)
        now = changes.history(model.tags, champion)
        move = replace(move, before=champion, after=move.version)
        # The alias first: it decides. If the tag then fails, the next look at the history finds the move.
        client.set_registered_model_alias(name, CHAMPION, str(move.version))
        _record(client, name, model.tags, *now[len(recorded) :], move)


def record(settings: Settings, change: Change) -> None:
    """Add a change to the model's history. Raises RegistryError."""
    name = settings.model_name
    with mlflow_client(settings, f"recording a change of {name!r}") as client, exclusive(lock_file(settings)):
        _record(client, name, client.get_registered_model(name).tags, change)


def set_tag(settings: Settings, key: str, value: str | None, *, version: int | None = None) -> None:
    """Set a tag of a version, or of the registered model; None removes it. Raises RegistryError."""
    name = settings.model_name
    with mlflow_client(settings, f"setting the tag {key!r} of {name!r}") as client:
        if value is None and version is None:
            client.delete_registered_model_tag(name, key)
        elif value is None:
            client.delete_model_version_tag(name, str(version), key)
        elif version is None:
            client.set_registered_model_tag(name, key, value)
        else:
            client.set_model_version_tag(name, str(version), key, value)


def resolve(reference: str | int, settings: Settings) -> Version:
    """Find a version by alias or number. Raises RegistryError (no such version) or RegistryUnreachableError."""
    name, reference = settings.model_name, str(reference)
    with mlflow_client(settings, f"looking up {reference!r} of {name!r}") as client:
        from mlflow.exceptions import MlflowException

        try:
            version = (
                client.get_model_version(name, reference)
                if reference.isdecimal()
                else _by_alias(client, name, reference)
            )
        except MlflowException as error:
            if not is_missing(error):
                raise
            version = None
    if version is None:
        target = f"version {reference}" if reference.isdecimal() else f"alias {reference!r}"
        raise RegistryError(
            f"model {name!r} has no {target} in {shown(settings)}: train one with `python -m ray_jobs.train`, or set it"
        )
    if not version.tags.get(BUNDLE_SHA256):
        raise RegistryError(
            f"version {version.version} of {name!r} has no tag {BUNDLE_SHA256!r}: `python -m ray_jobs.train` sets it"
        )
    return Version(int(version.version), version.run_id, version.tags[BUNDLE_SHA256])


def fetch(reference: str | int, settings: Settings) -> Path:
    """Return a local folder with the bundle of an alias or version, checked against the registry's SHA-256.

    Bundles are cached in `settings.models/<version>`. If MLflow cannot be reached, the last version of `reference` is
    used from the cache, with a warning.

    Raises RegistryError (no such alias or version; unreachable and not cached) or BundleError (the bundle was altered).
    """
    cache = settings.models
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
        folder = _cached_bundle(version, cache, settings)
        draft = note.with_suffix(".tmp")
        draft.write_text(json.dumps({"number": version.number, "run_id": version.run_id, "sha256": version.sha256}))
        draft.replace(note)
        return folder


def fetch_version(version: Version, settings: Settings) -> Path:
    """`fetch` for a version that was looked up already. Raises as `fetch`."""
    if not version.sha256:
        raise RegistryError(f"version {version.number} of {settings.model_name!r} has no tag {BUNDLE_SHA256!r}")
    cache = settings.models
    with exclusive(cache / ".lock"):
        return _cached_bundle(version, cache, settings)


def fetch_artifact(reference: str | int, name: str, target: Path, settings: Settings) -> None:
    """Copy the artifact `name` of a version's run to `target`, atomically. Raises RegistryError."""
    version = resolve(reference, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as draft:
        with mlflow_client(
            settings, f"fetching {name} of version {version.number} of {settings.model_name!r}"
        ) as client:
            downloaded = Path(client.download_artifacts(version.run_id, name, draft))
        downloaded.replace(target)


def _record(client: MlflowClient, name: str, tags: Mapping[str, str], *entries: Change) -> None:
    """Store changes as tags. The caller holds the registry's lock."""
    tags = dict(tags)
    for change in entries:
        key, value = changes.tag_of(change, tags)
        client.set_registered_model_tag(name, key, value)
        tags[key] = value


def _cached_bundle(version: Version, cache: Path, settings: Settings) -> Path:
    """The version's folder in the cache; downloaded if missing or damaged. The caller holds the cache's lock."""
    folder = cache / str(version.number)
    if not _is_cached(folder, version.sha256):
        _download(version, folder, settings)
    return folder


def _download(version: Version, folder: Path, settings: Settings) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as draft:
        with mlflow_client(settings, f"fetching version {version.number} of {settings.model_name!r}") as client:
            downloaded = Path(client.download_artifacts(version.run_id, BUNDLE_PATH, draft))
        bundle.load(downloaded, expected_sha256=version.sha256)
        shutil.rmtree(folder, ignore_errors=True)
        downloaded.replace(folder)


def _is_cached(folder: Path, sha256: str) -> bool:
    """Whether the folder holds the intact bundle with this hash."""
    if not folder.exists():
        return False
    try:
        cached = bundle.load(folder)
    except BundleError as error:
        logger.warning("%s", error)
        return False
    if cached.sha256 != sha256:
        logger.info("%s is the copy of another registry's version: fetching this registry's", folder)
    return cached.sha256 == sha256


def _version(client: MlflowClient, name: str, number: int | None) -> TaggedVersion | None:
    from mlflow.exceptions import MlflowException

    if number is None:
        return None
    try:
        version = client.get_model_version(name, str(number))
    except MlflowException as error:
        if is_missing(error):
            return None
        raise
    return TaggedVersion(number, version.run_id, version.tags.get(BUNDLE_SHA256, ""), tags=dict(version.tags))


def _by_alias(client: MlflowClient, name: str, alias: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if is_missing(error):
            return None
        # MLflow 3.17 answers INVALID_PARAMETER_VALUE for an alias that no version has, and for other mistakes too.
        if error.error_code == "INVALID_PARAMETER_VALUE" and alias not in client.get_registered_model(name).aliases:
            return None
        raise
