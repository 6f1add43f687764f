"""The live history of a replica: opens, fills, monitors, hands over and saves its store."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import logging
import threading
from pathlib import Path
from typing import Any

from fraud.errors import ConfigError, StoreError
from fraud.history.definition import plans
from fraud.history.label_feed import newest_applied
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.redis import RedisStore
from fraud.history.stores.shared import open_shared
from fraud.history.stores.store import LiveStore
from fraud.scoring.detector import Detector
from fraud.settings import Settings
from serve_app.history.bootstrap import SAVED, HistoryContext, HistoryOrigin, bootstrap, catch_up, own_frauds

logger = logging.getLogger(__name__)

BEHIND = "the live history is behind: it is being filled from snapshots and decisions, and may lack transactions"
_LEASE_S, _TRY_AGAIN_S = 120.0, 0.2
_MARGIN = 600_000_000  # microseconds before a noticed outage from which decisions are entered again


class LiveHistory:
    """A replica's store and its state. store: None if the schema has no history.

    warnings: added to every answer. Raises ConfigError for memory with several replicas, or a Redis that may
    evict.
    """

    def __init__(self, detector: Detector, context: HistoryContext) -> None:
        self.context, self.warnings = context, tuple[str, ...]()
        self._maintaining, self._has_ended = threading.Lock(), threading.Event()
        self._is_filled, self._saved = False, set[str]()
        self._path: Path | None = None
        self._away_since: int | None = None  # start of an outage, microseconds: later transactions may be missing
        self._origins: dict[str, HistoryOrigin] = {}
        self._notes: list[str] = []
        self._last_error = ""
        self.newest_event: int | None = None
        self.newest_label: int | None = None
        self.store: LiveStore | None = None
        self._set_model(detector)
        if self.plans:
            self.store = self._open_store(context.settings)
            self._bootstrap_within(context.wait_s)

    def _set_model(self, detector: Detector) -> None:
        self._detector = detector
        self.schema, self.plans = detector.schema, plans(detector.schema)
        self._fingerprints = [plan.fingerprint for plan in self.plans]
        self._knows_own_frauds = False

    @property
    def is_behind(self) -> bool:
        """Whether the history is still being filled."""
        return BEHIND in self.warnings

    def maintain(self) -> None:
        """Fill the store if its history is missing or lost; enter the frauds that only this model knows.

        Called every few seconds. An unreachable store is logged and retried at the next call.
        """
        if self.store is None or not self._maintaining.acquire(blocking=False):
            return
        try:
            self._maintain(self.store)
            self._last_error, self._away_since = "", None
        except StoreError as error:
            if self._last_error != str(error):
                logger.warning("the live history cannot be maintained: %s", error)
            self._last_error = str(error)
            if self._away_since is None and self.newest_event is not None:
                self._away_since = self.newest_event - _MARGIN
        finally:
            self._maintaining.release()

    def successor(self, detector: Detector) -> LiveHistory:
        """The live history for a model that replaces this one or runs beside it in the same replica.

        With equal plans it shares this store and adds the frauds that only the new model knows. Otherwise equal plans
        are shared, and the others are filled as at a start.
        """
        fingerprints = [plan.fingerprint for plan in plans(detector.schema)]
        if fingerprints == self._fingerprints:
            same = copy.copy(self)
            same._set_model(detector)
            same.maintain()
            return same
        if isinstance(self.store, MemoryStore):
            self._save()
        return LiveHistory(detector, self.context)

    def own_plans(self, other: LiveHistory | None) -> list[int]:
        """Positions of the plans that are not shared with `other`."""
        if other is None or other.store is None or self.store is None:
            return list(range(len(self.plans)))
        if self.store is other.store:
            return []
        if isinstance(self.store, MemoryStore) or type(self.store) is not type(other.store):
            return list(range(len(self.plans)))
        return [i for i, fingerprint in enumerate(self._fingerprints) if fingerprint not in other._fingerprints]

    def shares_with(self, other: LiveHistory) -> bool:
        """Whether the two share all plans."""
        return self.store is not None and not self.own_plans(other) and not other.own_plans(self)

    def describe(self) -> dict[str, Any] | None:
        """The content of models.HistoryStatus; None without history."""
        if self.store is None:
            return None
        described = [
            {"entity": plan.column, "plan": plan.fingerprint, **_describe_origin(self._origins.get(plan.fingerprint))}
            for plan in self.plans
        ]
        return {
            "store": self.context.settings.history_url.partition(":")[0],
            "is_behind": self.is_behind,
            "plans": described,
            "newest_event": _moment(self.newest_event),
            "newest_label": _moment(self.newest_label),
            "notes": self._notes,
        }

    def close(self) -> None:
        """Save a history in memory, and close the store."""
        self._has_ended.set()
        if isinstance(self.store, MemoryStore):
            self._save()
        if self.store is not None:
            self.store.close()

    def _open_store(self, settings: Settings) -> LiveStore:
        context, store = self.context, open_shared(settings, self.plans)
        if store is None:
            if context.replicas > 1:
                raise ConfigError(
                    f"FRAUD_HISTORY_URL=memory with {context.replicas} replicas: each would hold a part of the "
                    "history and answer differently; set FRAUD_HISTORY_URL=node (the default) or redis://..., or "
                    "deploy one replica"
                )
            self._path = settings.live / "memory.safetensors"
            return self._load_store(self._path)
        if isinstance(store, RedisStore):
            try:
                if warning := store.check_eviction():
                    self._note(warning)
            except StoreError as error:
                self._note(f"it is not known whether Redis may evict: {error}")
        elif context.nodes > 1:
            self._note(
                f"{context.nodes} nodes: replicas of different nodes do not share their history, so each sees a part "
                "of the transactions; set FRAUD_HISTORY_URL=redis://... to share it"
            )
        return store

    def _load_store(self, path: Path) -> MemoryStore:
        if path.exists():
            try:
                store = MemoryStore.load(path, self.plans)
                self._saved = set(store.loaded)
                logger.info("loaded the saved history of %d entities", store.n_entities)
                return store
            except StoreError as error:
                logger.error("the saved history cannot be loaded: %s", error)
        return MemoryStore(self.plans)

    def _bootstrap_within(self, seconds: float) -> None:
        """Start filling in a thread; wait at most `seconds`."""
        self.warnings = (BEHIND,)
        thread = threading.Thread(target=self._bootstrap_until_done, name="history-begin", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            logger.warning("the live history is not filled after %g s: answers carry a warning until it is", seconds)

    def _bootstrap_until_done(self) -> None:
        """Fill, or wait for the replica that does. Returns if the store fails; later `maintain` calls retry."""
        while not self._has_ended.is_set():
            self.maintain()
            if not self.is_behind or self._last_error:
                return
            self._has_ended.wait(_TRY_AGAIN_S)

    def _maintain(self, store: LiveStore) -> None:
        losses = store.maintain()
        for loss in losses:
            self._lose(store, loss)
        missing = self._missing(store)
        if missing and self._is_filled and not losses:
            self._lose(store, "was emptied")
        if missing:
            self.warnings = (BEHIND,)
            self._is_filled = False
            self._bootstrap(store)
            missing = self._missing(store)
        if not missing:
            self.warnings, self._is_filled = (), True
            self._enter_own_frauds(store)
            self._enter_missed(store)
        # Of the store, not of this replica: one replica applies the labels for all of them.
        self.newest_event, self.newest_label = store.newest, newest_applied(store, self.labels_name)
        if self.context.metrics is not None:
            self.context.metrics.set_history(is_behind=self.is_behind, newest_event=self.newest_event)

    def _lose(self, store: LiveStore, loss: str) -> None:
        logger.error("the live history %s: refilling it from snapshots and decisions", loss)
        if self.context.metrics is not None:
            self.context.metrics.count_history_loss()
        self._saved = set()
        for fingerprint in self._fingerprints:
            store.put(_mark(fingerprint), None)

    def _missing(self, store: LiveStore) -> list[int]:
        """Positions of the plans that are not filled yet."""
        missing = []
        for i, fingerprint in enumerate(self._fingerprints):
            text = store.get(_mark(fingerprint))
            if text is None:
                missing.append(i)
            else:
                self._origins[fingerprint] = HistoryOrigin.from_json(text)
        return missing

    def _bootstrap(self, store: LiveStore) -> None:
        if not store.lease("begin", _LEASE_S):
            return  # another replica does it
        try:
            missing = self._missing(store)
            saved = [i for i in missing if self._fingerprints[i] in self._saved]
            for only, is_saved in ((saved, True), ([i for i in missing if i not in saved], False)):
                if only:
                    origin = bootstrap(store, self._detector, self.context, only, is_saved)
                    for i in only:
                        store.put(_mark(self._fingerprints[i]), origin.to_json())
            store.put(self.labels_name, None)  # the source may be older than the labels, so apply all of them again
        finally:
            store.release("begin")

    @property
    def labels_name(self) -> str:
        """The store's key for the labels applied so far. Deleting its value applies all labels again."""
        return "labels " + " ".join(self._fingerprints)

    def _enter_own_frauds(self, store: LiveStore) -> None:
        """Enter the frauds of the training data that the store may not know. Runs once per model."""
        if self._knows_own_frauds:
            return
        states = own_frauds(self._detector, self.context)
        # Keyed by content, so that the frauds of different models are never confused.
        marks = [
            f"frauds {fingerprint} {hashlib.sha256(state.frauds.tobytes()).hexdigest()[:16]}"
            for state, fingerprint in zip(states, self._fingerprints, strict=False)
            if len(state.frauds)
        ]
        new = [mark for mark in marks if store.get(mark) is None]
        self._knows_own_frauds = True
        if not new:
            return
        entered = store.enter_frauds(states)
        logger.info("entered %d frauds of the training data into the live history", entered)
        if entered:
            store.put(self.labels_name, None)  # some may be retracted since: apply all labels again
        for mark in new:
            store.put(mark, dt.datetime.now(dt.UTC).isoformat(timespec="seconds").encode())

    def _enter_missed(self, store: LiveStore) -> None:
        """Enter the transactions that were scored while the store was unreachable."""
        if self._away_since is not None and store.lease("begin", _LEASE_S):
            try:
                everything = range(len(self.plans))
                entered, note = catch_up(store, self._detector.schema, self.context, self._away_since, everything)
                logger.info("entered %d decisions after the outage%s", entered, f": {note}" if note else "")
            finally:
                store.release("begin")

    def _save(self) -> None:
        assert isinstance(self.store, MemoryStore) and self._path is not None
        self.store.save(self._path)
        logger.info("saved the history of %d entities", self.store.n_entities)

    def _note(self, text: str) -> None:
        self._notes.append(text)
        logger.warning("%s", text)


def _mark(fingerprint: str) -> str:
    return f"begun {fingerprint}"


def _describe_origin(origin: HistoryOrigin | None) -> dict[str, Any]:
    if origin is None:
        return {"began_from": None}
    through = {"through": origin.through} if origin.source != SAVED else {}
    return {"began_from": origin.source, **through, "decisions": origin.decisions, "at": origin.at, "note": origin.note}


def _moment(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    seconds = min(max(microseconds / 1e6, 0.0), 32_503_680_000.0)
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
