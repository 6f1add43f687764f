"""Loads a replica's model from the registry, or from the local copy of the last good one."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from fraud.data.locks import exclusive
from fraud.errors import ConfigError, FraudError
from fraud.registry.promotion import LiveThreshold, live_threshold, now
from fraud.scoring import bundle
from fraud.scoring.bundle import Bundle
from fraud.settings import Settings

logger = logging.getLogger(__name__)

_NOTE = "note.json"


@dataclass(frozen=True)
class LoadedBundle:
    """A verified bundle. version: in the registry, None for a folder; live_threshold: overrides the bundle's."""

    bundle: Bundle
    version: str | None = None
    live_threshold: LiveThreshold | None = None


def from_registry(settings: Settings, reference: str) -> LoadedBundle:
    """Load an alias or a version. Raises RegistryError or BundleError."""
    from fraud.registry import versions  # imports MLflow, which a bundle folder does not need

    version = versions.look_up(reference, settings)
    loaded = bundle.load(versions.fetch_version(version, settings), expected_sha256=version.sha256)
    try:
        threshold = live_threshold(version.tags)
    except ConfigError as error:
        logger.error("version %d: %s; using the bundle's threshold", version.number, error)
        threshold = None
    return LoadedBundle(loaded, str(version.number), threshold)


def from_cache(settings: Settings, reference: str) -> LoadedBundle:
    """Load the `reference` that any program of this machine fetched last. Raises RegistryError or BundleError."""
    from fraud.registry import versions

    path = versions.fetch(reference, settings)
    return LoadedBundle(bundle.load(path), path.name)


class LastGood:
    """The last served bundle of `reference` and its threshold, in `settings.state/serving`.

    Shared by the replicas of a machine.
    """

    def __init__(self, settings: Settings, reference: str) -> None:
        self._settings = settings
        self._verified = ""  # SHA-256 of the copy that this process has verified
        self._folder = settings.state / "serving" / "last_good" / settings.model_name / reference

    def save(self, version: str, sha256: str, threshold: LiveThreshold | None) -> None:
        """Copy the bundle that was fetched as `version`. Logs write errors instead of raising."""
        note = {
            "version": version,
            "sha256": sha256,
            "threshold": threshold.to_dict() if threshold else None,
            "kept": now(),
        }
        target = self._folder / sha256
        draft = self._folder / f".{uuid.uuid4().hex}"
        try:
            with exclusive(self._folder / ".lock"):
                if self._verified != sha256 and not _is_intact(target, sha256):
                    shutil.copytree(self._settings.models / version, draft)
                    bundle.load(draft, expected_sha256=sha256)
                    shutil.rmtree(target, ignore_errors=True)
                    draft.replace(target)
                self._verified = sha256
                written = draft.with_suffix(".json")
                written.write_text(json.dumps(note, indent=2))
                written.replace(self._folder / _NOTE)
                for other in self._folder.iterdir():
                    if other.is_dir() and other != target:
                        shutil.rmtree(other, ignore_errors=True)
        except (OSError, FraudError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            logger.warning("cannot save version %s for a start without the registry: %s", version, error)

    def load(self) -> LoadedBundle | None:
        """Load and verify the saved bundle; None if it is missing or damaged."""
        try:
            with exclusive(self._folder / ".lock"):
                note = json.loads((self._folder / _NOTE).read_text())
                loaded = bundle.load(self._folder / note["sha256"], expected_sha256=note["sha256"])
            threshold = LiveThreshold(**note["threshold"]) if note["threshold"] else None
            return LoadedBundle(loaded, str(note["version"]), threshold)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, FraudError) as error:
            logger.error("the last good model in %s cannot be read: %s", self._folder, error)
            return None


def _is_intact(folder: Path, sha256: str) -> bool:
    try:
        bundle.load(folder, expected_sha256=sha256)
    except FraudError:
        return False
    return True
