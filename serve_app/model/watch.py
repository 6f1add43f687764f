"""A thread that polls the registry and updates a replica: model, threshold, challenger.

It fetches, verifies, compiles and warms up a new model while the old one answers, then swaps one reference. If a step
fails, the old model goes on serving. Serve's user_config does not fit: `reconfigure` takes a replica out of service
while it loads.
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
from serve_app.history.bootstrap import HistoryContext
from serve_app.history.live import LiveHistory
from serve_app.model.source import LastGood
from serve_app.model.state import ServedModel, State

logger = logging.getLogger(__name__)

# Fail fast if MLflow is down, because the next poll retries. The client's default is a minute.
MLFLOW_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class ModelMetrics(Protocol):
    """The metrics of model changes."""

    def set_model(self, version: str, sha256: str, loaded_at: float) -> None:
        """Set the model that answers. loaded_at: seconds since 1970."""

    def count_model_failure(self) -> None:
        """Count a model or setting of the registry that could not be applied."""


@dataclass(frozen=True)
class _Refusal:
    """A version that could not be loaded. wait_s: pause before the next try; until_s: its end, time.monotonic."""

    version: TaggedVersion
    wait_s: float
    until_s: float


class ModelWatcher:
    """Keeps `state` in line with the registry. reference: alias or version of the champion.

    context: of live histories, if the serving model has none.
    """

    def __init__(
        self,
        state: State,
        settings: Settings,
        *,
        reference: str = "champion",
        config: WatchSettings | None = None,
        metrics: ModelMetrics | None = None,
        context: HistoryContext | None = None,
    ) -> None:
        self._state, self._settings, self._reference = state, settings, reference
        self._config = config or WatchSettings()
        self._metrics, self._context = metrics, context
        self._last_good = LastGood(settings, reference)
        self._refused: dict[str, _Refusal] = {}  # by role
        self._warned: dict[str, str] = {}
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Poll now and then every `poll_s` seconds, in a daemon thread."""
        if self._config.poll_s and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="model-watcher", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; wait for it at most `timeout_s`."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def poll(self) -> None:
        """Apply the current state of the registry. Never raises; a repeated error is logged once."""
        try:
            current = registry_state(self._settings, self._reference, with_idle_challenger=False)
            self._resolve("registry", "the registry answers again")
            self._follow_champion(current)
            self._follow_challenger(current)
        except FraudError as error:
            self._warn_once(
                "registry", type(error).__name__, f"{error}; version {self._state.model.version} goes on serving"
            )
        except Exception as error:  # a bug must not end the thread  # noqa: BLE001
            self._warn_once(
                "watching", type(error).__name__, f"watching the registry failed: {type(error).__name__} {error}"
            )

    def _run(self) -> None:
        while not self._has_ended.is_set():
            self.poll()
            # Jitter: replicas that started together must not poll together.
            self._has_ended.wait(self._config.poll_s * random.uniform(0.9, 1.1))

    def _follow_champion(self, current: RegistryState) -> None:
        version, serving = current.champion, self._state.model
        if version is None:
            what = f"{self._settings.model_name!r} has no {self._reference!r} any more"
            self._warn_once("champion", "none", f"{what}; version {serving.version} goes on serving")
            return
        self._resolve("champion", f"there is a {self._reference!r} again")
        if _is(serving, version):
            self._refused.pop("champion", None)
            changed = self._with_current_threshold(serving, version)
            if changed is not serving:
                self._state.model = changed
                self._save_last_good(changed)
            return
        model = self._warm_challenger(version) or self._load(version, "champion")
        if model is None:
            return
        self._state.model = model
        logger.info("version %s replaces version %s", model.version, serving.version)
        if model.engine.schema.fingerprint != serving.engine.schema.fingerprint:
            logger.warning("version %s has another schema: requests must now follow GET /docs", model.version)
        if self._metrics is not None:
            self._metrics.set_model(model.version, model.sha256, model.loaded_at)
        self._save_last_good(model)

    def _follow_challenger(self, current: RegistryState) -> None:
        state = self._state
        try:
            shadow, share = promotion.is_shadowed(current.tags), promotion.canary_share(current.tags)
        except ConfigError as error:
            self._refuse_tag("challenger's tags", str(error))
            return
        self._resolve("challenger's tags")
        version = current.challenger if shadow or share else None
        if (shadow or share) and (version is None or _is(state.model, version)):
            self._warn_once(
                "challenger", "none", "shadow or canary is on, but there is no challenger beside the champion"
            )
            version = None
        elif version is not None:
            self._resolve("challenger")
        challenger = state.challenger
        if version is not None and challenger is not None and _is(challenger, version):
            state.challenger = self._with_current_threshold(challenger, version)
        elif version is not None:
            challenger = self._load(version, "challenger")
            if challenger is not None:
                state.challenger = challenger
                logger.info("version %s is ready as challenger", challenger.version)
            else:
                version = None
        if version is None:
            state.canary_share, state.shadow, state.challenger = 0.0, False, None
            return
        if (state.shadow, state.canary_share) != (shadow, share):
            logger.info("challenger %d: shadow %s, canary share %g", version.number, "on" if shadow else "off", share)
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
                    loaded.detector, self._context or HistoryContext.from_environment(self._settings, os.environ)
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

    def _warm_challenger(self, version: TaggedVersion) -> ServedModel | None:
        """The challenger, if `version` is the challenger; its history is as complete as the champion's."""
        challenger = self._state.challenger
        if challenger is None or not _is(challenger, version):
            return None
        return self._with_current_threshold(challenger, version)

    def _with_current_threshold(self, model: ServedModel, version: TaggedVersion) -> ServedModel:
        """The model with the threshold of its version's tag; the same object if nothing changed."""
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
        self._resolve(f"threshold of version {version.number}")
        return threshold

    def _save_last_good(self, model: ServedModel) -> None:
        self._last_good.save(model.version, model.sha256, model.live_threshold)

    def _refuse_tag(self, topic: str, text: str) -> None:
        if self._warn_once(topic, text, f"{text}; the previous setting stays") and self._metrics is not None:
            self._metrics.count_model_failure()

    def _warn_once(self, topic: str, what: str, text: str) -> bool:
        """Log a warning unless it repeats the last one on the topic; return whether it was logged."""
        if self._warned.get(topic) == what:
            return False
        self._warned[topic] = what
        logger.warning("%s", text)
        return True

    def _resolve(self, topic: str, text: str | None = None) -> None:
        """Mark the topic as resolved, so that a new error on it is logged again."""
        if self._warned.pop(topic, None) is not None and text:
            logger.info("%s", text)


def _is(model: ServedModel, version: TaggedVersion) -> bool:
    return (model.version, model.sha256) == (str(version.number), version.sha256)
