"""The live history that a replica reads and enters: opened as the settings say with the model, saved at the end."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from fraud.detector import Detector
from fraud.errors import StoreError
from fraud.history.definition import plans
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.redis import RedisStore
from fraud.settings import Settings

logger = logging.getLogger(__name__)


class LiveHistory:
    """A replica's store, and where it is kept between runs. store is None where the schema has no history.

    rank, replicas: which of how many replicas this is.
    """

    def __init__(self, detector: Detector, settings: Settings, *, rank: int = 0, replicas: int = 1) -> None:
        self._detector = detector
        self._settings, self._rank = settings, rank
        self._path: Path | None = None
        self._is_seeded = True
        self.store: MemoryStore | RedisStore | None = None
        found = plans(detector.schema)
        self._plans = [plan.fingerprint for plan in found]
        if not found:
            return
        if settings.history_url != "memory":
            self.store = RedisStore(
                settings.history_url, found, namespace=settings.model_name, timeout_ms=settings.history_timeout_ms
            )
            self._is_seeded = False
            self.maintain()
            return
        if replicas > 1:
            logger.warning(
                "%d replicas each keep their own history in memory, so each sees a part of the transactions: "
                "set FRAUD_HISTORY_URL=redis://... to share it, or deploy one replica",
                replicas,
            )
        self._path = settings.state / "history" / f"{settings.model_name}.{rank}.safetensors"
        self.store = self._opened(self._path)

    def maintain(self) -> None:
        """Enter the model's own history into a shared store that has none yet; tried again until Redis answers."""
        if self._is_seeded or not isinstance(self.store, RedisStore):
            return
        try:
            entered = self.store.seed(self._detector.history)
        except StoreError as error:
            logger.warning("the history does not begin with the model's own yet: %s", error)
            return
        self._is_seeded = True
        logger.info("the live history is in Redis; %d entities entered from the model", entered)

    def successor(self, detector: Detector) -> LiveHistory:
        """The live history for a model that follows this one or stands beside it in the same replica.

        Where it remembers the same it is the same store, so nothing is forgotten. Otherwise the entity columns that
        both remember alike go on with what is known now, and the others begin with the new model's own history.
        """
        wanted = {plan.fingerprint: plan.column for plan in plans(detector.schema)}
        if list(wanted) == self._plans:
            same = copy.copy(self)
            same._detector = detector
            return same
        if isinstance(self.store, MemoryStore) and self._path is not None:
            self.store.save(self._path)
        anew = [column for fingerprint, column in wanted.items() if fingerprint not in self._plans]
        if anew:
            logger.warning("another history: that of %s begins with the new model's own", ", ".join(anew))
        return LiveHistory(detector, self._settings, rank=self._rank)

    def shares_with(self, other: LiveHistory) -> bool:
        """Whether what enters one is seen by the other, so that a transaction must enter one of them only."""
        if isinstance(self.store, RedisStore) and isinstance(other.store, RedisStore):
            return bool(set(self._plans) & set(other._plans))
        return self.store is not None and self.store is other.store

    def close(self) -> None:
        """Save a history that this process keeps; leave one that is elsewhere."""
        if isinstance(self.store, MemoryStore) and self._path is not None:
            self.store.save(self._path)
            logger.info("saved the history of %d entities", self.store.n_entities)
        elif isinstance(self.store, RedisStore):
            self.store.close()

    def _opened(self, path: Path) -> MemoryStore:
        found = plans(self._detector.schema)
        if path.exists():
            try:
                store = MemoryStore.load(path, found, self._detector.history)
                logger.info("went on with the saved history of %d entities", store.n_entities)
                return store
            except StoreError as error:
                logger.error("the history begins with the model's own: %s", error)
        return MemoryStore(found, self._detector.history)
