"""Model versions in MLflow and the aliases champion and challenger: registered, looked up, fetched and checked.

A model version points at a bundle among its run's artifacts and carries the tag `bundle_sha256`, which pins the
bundle's manifest and through it every file. What is fetched is that folder; MLflow's model formats are not used.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud.data.locks import exclusive
from fraud.errors import BundleError, RegistryError, RegistryUnreachableError
from fraud.registry import promotion
from fraud.registry.runs import Run, answers, is_missing, lock_file, shown
from fraud.scoring import bundle
from fraud.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
BUNDLE_SHA256 = "bundle_sha256"
BUNDLE_PATH = "bundle"


@dataclass(frozen=True)
class Version:
    """A model version. number: as MLflow counts; sha256: of the manifest; alias: the one `register` gave it."""

    number: int
    run_id: str
    sha256: str
    alias: str | None = None


@dataclass(frozen=True)
class TaggedVersion(Version):
    """A version with its tags, as `standing` finds it; sha256 is empty where none is recorded."""

    tags: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Standing:
    """What the registry says of the model at one moment.

    champion: the version that was asked for, by default the champion; None when there is none. tags: of the registered
    model; see fraud.registry.promotion.
    """

    champion: TaggedVersion | None
    challenger: TaggedVersion | None
    tags: Mapping[str, str]


def register(settings: Settings, run: Run, bundle_folder: Path, tags: Mapping[str, object] | None = None) -> Version:
    """Store a bundle among the run's artifacts and make it a model version.

    It becomes champion when there is none, otherwise challenger. Raises RegistryError, or BundleError for a bad bundle.
    """
    sha256 = bundle.load(bundle_folder).sha256
    name = settings.model_name
    run.log_folder(bundle_folder, BUNDLE_PATH)
    with answers(settings, f"registering a version of {name!r}") as client, exclusive(lock_file(settings)):
        from mlflow.exceptions import MlflowException

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
    with answers(settings, f"looking up {alias!r}") as client:
        found = _by_alias(client, settings.model_name, alias)
    return None if found is None else int(found.version)


def champion_version(settings: Settings) -> int | None:
    """Version number of the champion, None when there is none. Raises RegistryError."""
    return version_of(CHAMPION, settings)


def set_alias(alias: str, version: int, settings: Settings) -> None:
    """Move an alias to a version. Raises RegistryError when there is no such version."""
    with answers(settings, f"setting {alias!r} to version {version} of {settings.model_name!r}") as client:
        client.set_registered_model_alias(settings.model_name, alias, str(version))


def remove_alias(alias: str, settings: Settings) -> None:
    """Take an alias away, if a version has it. Raises RegistryError."""
    with answers(settings, f"removing {alias!r}") as client:
        if _by_alias(client, settings.model_name, alias) is not None:
            client.delete_registered_model_alias(settings.model_name, alias)


def standing(settings: Settings, reference: str | int = CHAMPION, *, with_idle_challenger: bool = True) -> Standing:
    """Look up the version that `reference`, an alias or a number, means, the challenger, and every tag.

    with_idle_challenger: False leaves the challenger out while no tag switches it on, which saves a third of the work.
    Raises RegistryUnreachableError.
    """
    name, reference = settings.model_name, str(reference)
    with answers(settings, f"looking up {reference!r} of {name!r}") as client:
        from mlflow.exceptions import MlflowException

        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return Standing(None, None, {})
        aliases = {alias: int(number) for alias, number in model.aliases.items()}
        asked = int(reference) if reference.isdecimal() else aliases.get(reference)
        beside = aliases.get(CHALLENGER) if with_idle_challenger or promotion.may_be_on(model.tags) else None
        champion, challenger = (_version(client, name, number) for number in (asked, beside))
        return Standing(champion, challenger, dict(model.tags))


def look_up(reference: str | int, settings: Settings) -> TaggedVersion:
    """`resolve` with the version's tags. Raises the same."""
    found = standing(settings, reference).champion
    if found is not None and found.sha256:
        return found
    resolve(reference, settings)  # raises, and says what is missing
    raise RegistryError(f"{reference!r} of {settings.model_name!r} changed while it was looked up: try again")


def move_champion(settings: Settings, move: promotion.Promotion, *, expected: int | None) -> None:
    """Make a version the champion and enter the move in the list of champions (tag `champions`).

    expected: the champion that the caller saw. Raises RegistryError when it is another by now, ConfigError when the
    list cannot be read.
    """
    name = settings.model_name
    with answers(settings, f"promoting version {move.version} of {name!r}") as client, exclusive(lock_file(settings)):
        model = client.get_registered_model(name)
        champion = model.aliases.get(CHAMPION)
        champion = None if champion is None else int(champion)
        if champion != expected:
            raise RegistryError(f"the champion of {name!r} was moved to version {champion} meanwhile: look, try again")
        entries = [*promotion.with_champion(promotion.champions(model.tags), champion), move]
        # The alias first: it is what counts, and a list that lacks the last move is completed at the next one.
        client.set_registered_model_alias(name, CHAMPION, str(move.version))
        client.set_registered_model_tag(name, promotion.CHAMPIONS, promotion.champions_tag(entries))


def set_tag(settings: Settings, key: str, value: str | None, *, version: int | None = None) -> None:
    """Set a tag of a version, or of the registered model; None removes it. Raises RegistryError."""
    name = settings.model_name
    with answers(settings, f"setting the tag {key!r} of {name!r}") as client:
        if value is None and version is None:
            client.delete_registered_model_tag(name, key)
        elif value is None:
            client.delete_model_version_tag(name, str(version), key)
        elif version is None:
            client.set_registered_model_tag(name, key, value)
        else:
            client.set_model_version_tag(name, str(version), key, value)


def resolve(reference: str | int, settings: Settings) -> Version:
    """Find a version by alias or number. Raises RegistryError (nothing found) or RegistryUnreachableError."""
    name, reference = settings.model_name, str(reference)
    with answers(settings, f"looking up {reference!r} of {name!r}") as client:
        from mlflow.exceptions import MlflowException

        try:
            found = (
                client.get_model_version(name, reference)
                if reference.isdecimal()
                else _by_alias(client, name, reference)
            )
        except MlflowException as error:
            if not is_missing(error):
                raise
            found = None
    if found is None:
        what = f"version {reference}" if reference.isdecimal() else f"alias {reference!r}"
        raise RegistryError(
            f"model {name!r} has no {what} in {shown(settings)}: train one with `python -m ray_jobs.train`, or set it"
        )
    if not found.tags.get(BUNDLE_SHA256):
        raise RegistryError(
            f"version {found.version} of {name!r} has no tag {BUNDLE_SHA256!r}: `python -m ray_jobs.train` sets it"
        )
    return Version(int(found.version), found.run_id, found.tags[BUNDLE_SHA256])


def fetch(reference: str | int, settings: Settings) -> Path:
    """Give a local folder with the bundle of an alias or version, checked against the SHA-256 the registry recorded.

    Folders are kept below `settings.models/<version>` and used again, so the folder's name is the version. When
    MLflow cannot be reached, the copy that `reference` last meant is given, with a warning.

    Raises RegistryError (no such alias or version; unreachable and no copy) or BundleError (the bundle was altered).
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
        folder = _kept(version, cache, settings)
        draft = note.with_suffix(".tmp")
        draft.write_text(json.dumps({"number": version.number, "run_id": version.run_id, "sha256": version.sha256}))
        draft.replace(note)
        return folder


def fetch_version(version: Version, settings: Settings) -> Path:
    """`fetch` of a version that was looked up already: a folder with its bundle, checked. Raises the same."""
    if not version.sha256:
        raise RegistryError(f"version {version.number} of {settings.model_name!r} has no tag {BUNDLE_SHA256!r}")
    cache = settings.models
    with exclusive(cache / ".lock"):
        return _kept(version, cache, settings)


def fetch_artifact(reference: str | int, name: str, target: Path, settings: Settings) -> None:
    """Copy the artifact `name` of a version's run to `target`, whole or not at all. Raises RegistryError."""
    version = resolve(reference, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as draft:
        with answers(settings, f"fetching {name} of version {version.number} of {settings.model_name!r}") as client:
            found = Path(client.download_artifacts(version.run_id, name, draft))
        found.replace(target)


def _kept(version: Version, cache: Path, settings: Settings) -> Path:
    """The version's folder in the cache, which the caller has locked; fetched where it is not there or damaged."""
    folder = cache / str(version.number)
    if not _holds(folder, version.sha256):
        _download(version, folder, settings)
    return folder


def _download(version: Version, folder: Path, settings: Settings) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as draft:
        with answers(settings, f"fetching version {version.number} of {settings.model_name!r}") as client:
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


def _version(client: MlflowClient, name: str, number: int | None) -> TaggedVersion | None:
    from mlflow.exceptions import MlflowException

    if number is None:
        return None
    try:
        found = client.get_model_version(name, str(number))
    except MlflowException as error:
        if is_missing(error):
            return None
        raise
    return TaggedVersion(number, found.run_id, found.tags.get(BUNDLE_SHA256, ""), tags=dict(found.tags))


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
