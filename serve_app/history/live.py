"""The live history that a replica reads and enters: opened as the settings say, begun, watched, handed over, saved."""

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
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.redis import RedisStore
from fraud.history.stores.shared import open_shared
from fraud.history.stores.store import LiveStore
from fraud.scoring.detector import Detector
from fraud.settings import Settings
from serve_app.history.begin import SAVED, Begun, Surroundings, begin, catch_up, own_frauds

logger = logging.getLogger(__name__)

BEHIND = "the live history is behind: it is being filled from snapshots and decisions, and may lack transactions"
_LEASE_S, _TRY_AGAIN_S = 120.0, 0.2
_MARGIN = 600_000_000  # microseconds before an outage was noticed from which decisions are entered again


class LiveHistory:
    """A replica's store, and how it stands. store is None where the schema has no history.

    warnings: what every answer has to say about the history now. Raises ConfigError where it cannot be kept as it is
    set: memory with several replicas, a Redis that may evict.
    """

    def __init__(self, detector: Detector, around: Surroundings) -> None:
        self.around, self.warnings = around, tuple[str, ...]()
        self._maintaining, self._has_ended = threading.Lock(), threading.Event()
        self._has_begun, self._saved = False, set[str]()
        self._path: Path | None = None
        self._away_since: int | None = None  # what came later, in microseconds, may not have been remembered
        self._begun: dict[str, Begun] = {}
        self._notes: list[str] = []
        self._said = ""
        self.newest_event: int | None = None
        self.newest_label: int | None = None
        self.store: LiveStore | None = None
        self._take(detector)
        if self.plans:
            self.store = self._opened(around.settings)
            self._begin_within(around.wait_s)

    def _take(self, detector: Detector) -> None:
        self._detector = detector
        self.schema, self.plans = detector.schema, plans(detector.schema)
        self._prints = [plan.fingerprint for plan in self.plans]
        self._knows_own_frauds = False

    @property
    def is_behind(self) -> bool:
        """Whether the history is not yet what it should be."""
        return BEHIND in self.warnings

    def maintain(self) -> None:
        """Watch the store: begin it where it has no history (any more), enter frauds that this model alone knows.

        Called every few seconds. A store that does not answer is logged, and asked again next time.
        """
        if self.store is None or not self._maintaining.acquire(blocking=False):
            return
        try:
            self._maintain(self.store)
            self._said, self._away_since = "", None
        except StoreError as error:
            if self._said != str(error):
                logger.warning("the live history cannot be looked after: %s", error)
            self._said = str(error)
            if self._away_since is None and self.newest_event is not None:
                self._away_since = self.newest_event - _MARGIN
        finally:
            self._maintaining.release()

    def successor(self, detector: Detector) -> LiveHistory:
        """The live history for a model that follows this one or stands beside it in the same replica.

        Where it remembers the same it is the same store, into which the frauds go that only the new model knows.
        Otherwise the entity columns that both remember alike go on, and the others begin as at a start.
        """
        wanted = [plan.fingerprint for plan in plans(detector.schema)]
        if wanted == self._prints:
            same = copy.copy(self)
            same._take(detector)
            same.maintain()
            return same
        if isinstance(self.store, MemoryStore):
            self._save()
        return LiveHistory(detector, self.around)

    def own_plans(self, other: LiveHistory | None) -> list[int]:
        """Positions of the plans into which nothing goes that enters `other`."""
        if other is None or other.store is None or self.store is None:
            return list(range(len(self.plans)))
        if self.store is other.store:
            return []
        if isinstance(self.store, MemoryStore) or type(self.store) is not type(other.store):
            return list(range(len(self.plans)))
        return [i for i, fingerprint in enumerate(self._prints) if fingerprint not in other._prints]

    def shares_with(self, other: LiveHistory) -> bool:
        """Whether everything that enters one is seen by the other."""
        return self.store is not None and not self.own_plans(other) and not other.own_plans(self)

    def describe(self) -> dict[str, Any] | None:
        """The content of models.HistoryStatus; None without history."""
        if self.store is None:
            return None
        began = [
            {"entity": plan.column, "plan": plan.fingerprint, **_began(self._begun.get(plan.fingerprint))}
            for plan in self.plans
        ]
        return {
            "store": self.around.settings.history_url.partition(":")[0],
            "is_behind": self.is_behind,
            "plans": began,
            "newest_event": _moment(self.newest_event),
            "newest_label": _moment(self.newest_label),
            "notes": self._notes,
        }

    def close(self) -> None:
        """Save a history that this process keeps; leave one that is elsewhere."""
        self._has_ended.set()
        if isinstance(self.store, MemoryStore):
            self._save()
        if self.store is not None:
            self.store.close()

    def _opened(self, settings: Settings) -> LiveStore:
        around, store = self.around, open_shared(settings, self.plans)
        if store is None:
            if around.replicas > 1:
                raise ConfigError(
                    f"FRAUD_HISTORY_URL=memory with {around.replicas} replicas: each would keep a part of the history, "
                    "and answer differently; set FRAUD_HISTORY_URL=node (the default) or redis://..., or deploy one "
                    "replica"
                )
            self._path = settings.live / "memory.safetensors"
            return self._loaded(self._path)
        if isinstance(store, RedisStore):
            try:
                if warning := store.check_eviction():
                    self._note(warning)
            except StoreError as error:
                self._note(f"it is not known whether Redis may evict: {error}")
        elif around.nodes > 1:
            self._note(
                f"{around.nodes} nodes: replicas of different nodes do not share their history, so each sees a part of "
                "the transactions; set FRAUD_HISTORY_URL=redis://... to share it"
            )
        return store

    def _loaded(self, path: Path) -> MemoryStore:
        if path.exists():
            try:
                store = MemoryStore.load(path, self.plans)
                self._saved = set(store.loaded)
                logger.info("went on with the saved history of %d entities", store.n_entities)
                return store
            except StoreError as error:
                logger.error("the saved history is not gone on with: %s", error)
        return MemoryStore(self.plans)

    def _begin_within(self, seconds: float) -> None:
        """Begin in a thread, and wait for it a while."""
        self.warnings = (BEHIND,)
        thread = threading.Thread(target=self._begin_until_done, name="history-begin", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            logger.warning("the live history has not begun after %g s: answers say so until it has", seconds)

    def _begin_until_done(self) -> None:
        """Begin, or wait for the replica that does. Ends where the store does not answer: `maintain` goes on then."""
        while not self._has_ended.is_set():
            self.maintain()
            if not self.is_behind or self._said:
                return
            self._has_ended.wait(_TRY_AGAIN_S)

    def _maintain(self, store: LiveStore) -> None:
        losses = store.maintain()
        for loss in losses:
            self._lose(store, loss)
        missing = self._missing(store)
        if missing and self._has_begun and not losses:
            self._lose(store, "was emptied")
        if missing:
            self.warnings = (BEHIND,)
            self._has_begun = False
            self._begin(store)
            missing = self._missing(store)
        if not missing:
            self.warnings, self._has_begun = (), True
            self._enter_own_frauds(store)
            self._enter_missed(store)
        self.newest_event = store.newest
        if self.around.metrics is not None:
            self.around.metrics.set_history(is_behind=self.is_behind, newest_event=self.newest_event)

    def _lose(self, store: LiveStore, loss: str) -> None:
        logger.error("the live history %s: it is filled again from snapshots and decisions", loss)
        if self.around.metrics is not None:
            self.around.metrics.count_history_loss()
        self._saved = set()
        for fingerprint in self._prints:
            store.put(_mark(fingerprint), None)

    def _missing(self, store: LiveStore) -> list[int]:
        """Positions of the plans that have not begun."""
        missing = []
        for i, fingerprint in enumerate(self._prints):
            text = store.get(_mark(fingerprint))
            if text is None:
                missing.append(i)
            else:
                self._begun[fingerprint] = Begun.from_json(text)
        return missing

    def _begin(self, store: LiveStore) -> None:
        if not store.lease("begin", _LEASE_S):
            return  # another replica does it
        try:
            missing = self._missing(store)
            saved = [i for i in missing if self._prints[i] in self._saved]
            for only, is_saved in ((saved, True), ([i for i in missing if i not in saved], False)):
                if only:
                    begun = begin(store, self._detector, self.around, only, is_saved)
                    for i in only:
                        store.put(_mark(self._prints[i]), begun.to_json())
            store.put(self.labels_name, None)  # what was begun with may be older than the labels
        finally:
            store.release("begin")

    @property
    def labels_name(self) -> str:
        """The named value by which the store knows which labels were applied; without it all are applied again."""
        return "labels " + " ".join(self._prints)

    def _enter_own_frauds(self, store: LiveStore) -> None:
        """Enter the frauds that this model was trained on and the store may not know. Once for each model."""
        if self._knows_own_frauds:
            return
        states = own_frauds(self._detector, self.around)
        # By what is in them, so that the frauds of another model are never taken for these.
        marks = [
            f"frauds {fingerprint} {hashlib.sha256(state.frauds.tobytes()).hexdigest()[:16]}"
            for state, fingerprint in zip(states, self._prints, strict=False)
            if len(state.frauds)
        ]
        new = [mark for mark in marks if store.get(mark) is None]
        self._knows_own_frauds = True
        if not new:
            return
        entered = store.enter_frauds(states)
        logger.info("the live history knows %d frauds more, from the training", entered)
        if entered:
            store.put(self.labels_name, None)  # some may have been taken back since: the labels say which
        for mark in new:
            store.put(mark, dt.datetime.now(dt.UTC).isoformat(timespec="seconds").encode())

    def _enter_missed(self, store: LiveStore) -> None:
        """Enter what was scored while the store did not answer."""
        if self._away_since is not None and store.lease("begin", _LEASE_S):
            try:
                everything = range(len(self.plans))
                entered, note = catch_up(store, self._detector.schema, self.around, self._away_since, everything)
                logger.info("after the outage, %d decisions are entered%s", entered, f": {note}" if note else "")
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


def _began(begun: Begun | None) -> dict[str, Any]:
    if begun is None:
        return {"began_from": None}
    through = {"through": begun.through} if begun.source != SAVED else {}
    return {"began_from": begun.source, **through, "decisions": begun.decisions, "at": begun.at, "note": begun.note}


def _moment(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    seconds = min(max(microseconds / 1e6, 0.0), 32_503_680_000.0)
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
