"""Watches the registry from a thread of its own, and has a replica serve what it says: model, threshold, challenger.

A new model is fetched, checked, compiled and warmed while the old one answers; then one reference is assigned. What is
not sound never gets that far: the model that serves goes on. Why a thread of the replica and not Serve's user_config:
`reconfigure` takes a replica out of service while it loads.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from fraud.errors import ConfigError, FraudError
from fraud.registry import promotion
from fraud.registry.promotion import LiveThreshold
from fraud.registry.versions import RegistryState, TaggedVersion, fetch_version, registry_state
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.settings.serving import WatchSettings
from serve_app.history.begin import Surroundings
from serve_app.history.live import LiveHistory
from serve_app.model.source import LastGood
from serve_app.model.state import ServedModel, State

logger = logging.getLogger(__name__)

# A look that MLflow does not answer ends soon, because the next look asks again; else its client waits a minute.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class ModelMetrics(Protocol):
    """What is counted of a model's life."""

    def set_model(self, version: str, sha256: str, loaded_at: float) -> None:
        """Say which model answers from now on; loaded_at: seconds since 1970."""

    def count_model_failure(self) -> None:
        """Count what the registry said and could not be served."""


@dataclass(frozen=True)
class _Refusal:
    """A version that could not be loaded. wait_s: how long it is left alone, until_s: on the monotonic clock."""

    version: TaggedVersion
    wait_s: float
    until_s: float


class ModelWatcher:
    """Has `state` follow the registry. reference: alias or version that is the champion here.

    around: what live histories are begun from, where the serving model has none.
    """

    def __init__(
        self,
        state: State,
        settings: Settings,
        *,
        reference: str = "champion",
        config: WatchSettings | None = None,
        metrics: ModelMetrics | None = None,
        around: Surroundings | None = None,
    ) -> None:
        self._state, self._settings, self._reference = state, settings, reference
        self._config = config or WatchSettings()
        self._metrics, self._around = metrics, around
        self._last_good = LastGood(settings, reference)
        self._refused: dict[str, _Refusal] = {}  # by role
        self._said: dict[str, str] = {}
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look now, and then every `poll_s` seconds, in a daemon thread."""
        if self._config.poll_s and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="model-watcher", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread, which may be in the middle of a look: wait for it at most so long."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def poll(self) -> None:
        """Look once and do what the registry says. Never raises; what is wrong is logged once, not every time."""
        try:
            found = registry_state(self._settings, self._reference, with_idle_challenger=False)
            self._done_with("registry", "the registry answers again")
            self._follow_champion(found)
            self._follow_challenger(found)
        except FraudError as error:
            self._say("registry", type(error).__name__, f"{error}; version {self._state.model.version} goes on serving")
        except Exception as error:  # a bug in here must not end the watching  # noqa: BLE001
            self._say("watching", type(error).__name__, f"watching the registry failed: {type(error).__name__} {error}")

    def _run(self) -> None:
        while not self._has_ended.is_set():
            self.poll()
            # Replicas that started together need not ask together.
            self._has_ended.wait(self._config.poll_s * random.uniform(0.9, 1.1))

    def _follow_champion(self, found: RegistryState) -> None:
        wanted, serving = found.champion, self._state.model
        if wanted is None:
            what = f"{self._settings.model_name!r} has no {self._reference!r} any more"
            self._say("champion", "none", f"{what}; version {serving.version} goes on serving")
            return
        self._done_with("champion", f"there is a {self._reference!r} again")
        if _is(serving, wanted):
            self._refused.pop("champion", None)
            changed = self._with_its_threshold(serving, wanted)
            if changed is not serving:
                self._state.model = changed
                self._keep(changed)
            return
        model = self._warm_challenger(wanted) or self._load(wanted, "champion")
        if model is None:
            return
        self._state.model = model
        logger.info("version %s serves in place of %s", model.version, serving.version)
        if model.engine.schema.fingerprint != serving.engine.schema.fingerprint:
            logger.warning("version %s has another schema: requests must follow GET /docs now", model.version)
        if self._metrics is not None:
            self._metrics.set_model(model.version, model.sha256, model.loaded_at)
        self._keep(model)

    def _follow_challenger(self, found: RegistryState) -> None:
        state = self._state
        try:
            shadow, share = promotion.is_shadowed(found.tags), promotion.canary_share(found.tags)
        except ConfigError as error:
            self._refuse_tag("challenger's tags", str(error))
            return
        self._done_with("challenger's tags")
        wanted = found.challenger if shadow or share else None
        if (shadow or share) and (wanted is None or _is(state.model, wanted)):
            self._say("challenger", "none", "shadow or canary is on, but there is no challenger beside the champion")
            wanted = None
        elif wanted is not None:
            self._done_with("challenger")
        challenger = state.challenger
        if wanted is not None and challenger is not None and _is(challenger, wanted):
            state.challenger = self._with_its_threshold(challenger, wanted)
        elif wanted is not None:
            challenger = self._load(wanted, "challenger")
            if challenger is not None:
                state.challenger = challenger
                logger.info("version %s is ready as challenger", challenger.version)
            else:
                wanted = None
        if wanted is None:
            state.canary_share, state.shadow, state.challenger = 0.0, False, None
            return
        if (state.shadow, state.canary_share) != (shadow, share):
            logger.info("challenger %d: shadow %s, canary share %g", wanted.number, "on" if shadow else "off", share)
        state.shadow, state.canary_share = shadow, share

    def _load(self, version: TaggedVersion, role: str) -> ServedModel | None:
        """Fetch and build a version; None where it is not sound, or was not a moment ago."""
        refused = self._refused.get(role)
        if refused is not None and refused.version != version:
            refused = None
        if refused is not None and time.monotonic() < refused.until_s:
            return None
        serving = self._state.model
        try:
            loaded = bundle.load(fetch_version(version, self._settings), expected_sha256=version.sha256)
            history = (
                serving.history.successor(loaded.detector)
                if serving.history
                else LiveHistory(
                    loaded.detector, self._around or Surroundings.from_environment(self._settings, os.environ)
                )
            )
            model = ServedModel.from_bundle(
                loaded,
                name=self._settings.model_name,
                version=str(version.number),
                history=history,
                live_threshold=self._threshold(version, None),
            )
        except Exception as error:  # whatever a bundle does to its reader, the old one serves  # noqa: BLE001
            config = self._config
            wait = config.retry_s if refused is None else min(2 * refused.wait_s, config.longest_retry_s)
            self._refused[role] = _Refusal(version, wait, time.monotonic() + wait)
            if self._metrics is not None:
                self._metrics.count_model_failure()
            if refused is None:
                logger.error(
                    "version %d cannot be the %s (%s: %s); version %s goes on serving; it is tried again when the "
                    "alias moves, after %.0f s, and ever more rarely, every %.0f s in the end",
                    version.number, role, type(error).__name__, error, serving.version, wait, config.longest_retry_s,
                )  # fmt: skip
            return None
        self._refused.pop(role, None)
        return model

    def _warm_challenger(self, wanted: TaggedVersion) -> ServedModel | None:
        """The challenger, if it is what is promoted; its history has seen what the champion's has."""
        challenger = self._state.challenger
        if challenger is None or not _is(challenger, wanted):
            return None
        return self._with_its_threshold(challenger, wanted)

    def _with_its_threshold(self, model: ServedModel, version: TaggedVersion) -> ServedModel:
        """The model with the threshold that its version's tag sets now; the same object where nothing changed."""
        threshold = self._threshold(version, model.live_threshold)
        if threshold == model.live_threshold:
            return model
        changed = model.with_threshold(threshold)
        before, after = model.engine.threshold.value, changed.engine.threshold.value
        why = f"set by {threshold.by}: {threshold.reason}" if threshold else "the bundle's again"
        logger.info("version %s: threshold %g -> %g, %s", model.version, before, after, why)
        return changed

    def _threshold(self, version: TaggedVersion, current: LiveThreshold | None) -> LiveThreshold | None:
        try:
            threshold = promotion.live_threshold(version.tags)
        except ConfigError as error:
            self._refuse_tag(f"threshold of version {version.number}", str(error))
            return current
        self._done_with(f"threshold of version {version.number}")
        return threshold

    def _keep(self, model: ServedModel) -> None:
        self._last_good.keep(model.version, model.sha256, model.live_threshold)

    def _refuse_tag(self, topic: str, text: str) -> None:
        if self._say(topic, text, f"{text}; what was set before holds") and self._metrics is not None:
            self._metrics.count_model_failure()

    def _say(self, topic: str, what: str, text: str) -> bool:
        """Log a warning unless it is what was last said on the topic; return whether it was logged."""
        if self._said.get(topic) == what:
            return False
        self._said[topic] = what
        logger.warning("%s", text)
        return True

    def _done_with(self, topic: str, text: str | None = None) -> None:
        """Forget what was said on the topic, so that it is said again when it comes back."""
        if self._said.pop(topic, None) is not None and text:
            logger.info("%s", text)


def _is(model: ServedModel, version: TaggedVersion) -> bool:
    return (model.version, model.sha256) == (str(version.number), version.sha256)
