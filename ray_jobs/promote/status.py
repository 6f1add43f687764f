"""What serves now, and the history of how it came about: for people and as JSON."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from fraud.errors import BundleError, ConfigError, FraudError, RegistryError
from fraud.registry import changes, promotion, runs, versions
from fraud.registry.changes import Change
from fraud.registry.promotion import LiveThreshold
from fraud.registry.versions import RegistryState, TaggedVersion
from fraud.scoring import bundle
from fraud.scoring.bundle import Bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from ray_jobs.gate.judge import refusal

logger = logging.getLogger(__name__)

_NEWEST = 10  # changes that the status shows


def read(settings: Settings) -> dict[str, Any]:
    """What serves now, as a JSON-ready document; `history` has every change, oldest first.

    Raises RegistryError if the model has no champion.
    """
    registry = versions.registry_state(settings)
    if registry.champion is None:
        raise RegistryError(f"model {settings.model_name!r} has no champion: train one with `python -m ray_jobs.train`")
    entries = history(registry)
    return {
        "model": settings.model_name,
        "registry": runs.shown(settings),
        "champion": _about(settings, registry.champion),
        "challenger": None if registry.challenger is None else _about(settings, registry.challenger),
        "shadow": promotion.is_shadowed(registry.tags),
        "canary": promotion.canary_share(registry.tags),
        "rollback_to": rollback_target(settings, entries),
        "history": [dataclasses.asdict(entry) for entry in entries],
    }


def text(document: dict[str, Any]) -> str:
    """The status with its newest changes, as text."""
    challenger = document["challenger"]
    if challenger is None:
        rival = "none"
    elif challenger["version"] == document["champion"]["version"]:
        rival = f"version {challenger['version']}, the champion itself"
    else:
        rival = _about_text(challenger)
    lines = [
        f"champion    {_about_text(document['champion'])}",
        f"challenger  {rival}",
        f"shadow      {'on' if document['shadow'] else 'off'}",
        f"canary      {document['canary']:g} of the entities",
    ]
    newest = document["history"][-_NEWEST:]
    for title, entry in zip(["history", *[""] * len(newest)], reversed(newest), strict=False):
        lines.append(f"{title:<12}{Change(**entry).text()}")
    if older := len(document["history"]) - len(newest):
        lines.append(f"{'':<12}{older:,} earlier: --history")
    if document["rollback_to"] is not None:
        lines.append(f"rollback    goes to version {document['rollback_to']}")
    return "\n".join(lines) + "\n"


def history(registry: RegistryState) -> list[Change]:
    """Every change, oldest first."""
    return changes.history(registry.tags, None if registry.champion is None else registry.champion.number)


def rollback_target(settings: Settings, entries: list[Change]) -> int | None:
    """The version that --rollback restores; None if there is none, or if it was deleted."""
    line = changes.lineage(entries)
    if len(line) < 2 or versions.registry_state(settings, line[-2]).champion is None:
        return None
    return line[-2]


def load(settings: Settings, version: TaggedVersion) -> Bundle:
    """The version's bundle, after a test score of a typical transaction. Raises BundleError or RegistryError."""
    loaded = bundle.load(versions.fetch_version(version, settings), expected_sha256=version.sha256)
    typical = loaded.detector.features.typical[None]
    if not np.isfinite(Engine(loaded.detector).score_raw(typical)).all():
        raise BundleError(f"version {version.number} gives a typical transaction a NaN score: train it again")
    return loaded


def live_threshold(version: TaggedVersion) -> LiveThreshold | None:
    """The version's live threshold; a malformed tag, which no replica follows, counts as none."""
    try:
        return promotion.live_threshold(version.tags)
    except ConfigError as error:
        logger.warning("%s", error)
        return None


def threshold_text(loaded: Bundle, version: TaggedVersion) -> str:
    """The threshold in force and where it comes from."""
    live = live_threshold(version)
    if live is None:
        return f"{loaded.detector.threshold.value:g} (the bundle's)"
    return f"{live.value:g} (set {live.time} by {live.by}: {live.reason})"


def _about(settings: Settings, version: TaggedVersion) -> dict[str, Any]:
    about: dict[str, Any] = {"version": version.number, "refused": refusal(version)}
    try:
        loaded = load(settings, version)
    except FraudError as error:
        return {**about, "damaged": str(error)}
    return {**about, "created": loaded.manifest.get("created"), "threshold": threshold_text(loaded, version)}


def _about_text(about: dict[str, Any]) -> str:
    if "damaged" in about:
        line = f"version {about['version']}, damaged: {about['damaged']}"
    else:
        line = f"version {about['version']}, made {about['created']}, threshold {about['threshold']}"
    return f"{line}; {about['refused']}" if about["refused"] else line
