"""The thread of a replica that looks after its live histories: new labels every second, the stores every five."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from fraud.errors import FraudError
from fraud.history.label_feed import Applied
from fraud.history.stores.memory import MemoryStore
from serve_app.history.label_process import Following, LabelProcess
from serve_app.history.live import LiveHistory

logger = logging.getLogger(__name__)

MAINTAIN_S = 5.0
_LEASE_S = 10.0


class LabelMetrics(Protocol):
    """What is counted of labels."""

    def observe_labels(self, applied: Applied) -> None:
        """Labels were looked at."""


class HistoryKeeper:
    """Maintains the histories that `histories` names, and has them follow the labels.

    One replica of those who share a store follows for all, in a process of its own; a history in memory is followed in
    this thread. poll_s: seconds between two looks at the labels.
    """

    def __init__(
        self,
        histories: Callable[[], Iterable[LiveHistory | None]],
        *,
        poll_s: float = 1.0,
        metrics: LabelMetrics | None = None,
    ) -> None:
        self._histories, self._poll_s, self._metrics = histories, poll_s, metrics
        self._following: dict[str, Following | LabelProcess] = {}
        self._said: dict[str, str] = {}
        self._maintained = -math.inf
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look after them in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="history-keeper", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread, which may be in the middle of its work: wait for it at most so long."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        for name in list(self._following):
            self._leave(name)

    def look(self) -> None:
        """Do now what is due. Never raises; what is wrong is logged once, and tried again."""
        histories = [history for history in self._histories() if history is not None and history.store is not None]
        if time.monotonic() - self._maintained >= MAINTAIN_S:
            self._maintained = time.monotonic()
            for history in histories:
                self._do("maintaining", history.maintain)
        if not self._poll_s:
            return
        by_name = {history.labels_name: history for history in histories}
        for name in set(self._following) - set(by_name):
            self._leave(name)
        for name, history in by_name.items():
            self._do(name, lambda history=history: self._follow(history))  # type: ignore[misc]

    def _run(self) -> None:
        while not self._has_ended.wait(self._poll_s or MAINTAIN_S):
            self.look()

    def _follow(self, history: LiveHistory) -> None:
        """Have the labels applied that this history does not know yet, where this replica is the one to do so."""
        store, schema, name = history.store, history.schema, history.labels_name
        assert store is not None
        if history.is_behind or schema.id is None or not any(plan.keeps_frauds for plan in history.plans):
            return
        if not store.lease(name, _LEASE_S):
            self._leave(name)
            return
        following = self._following.get(name)
        if isinstance(store, MemoryStore):
            if not isinstance(following, Following) or following.store is not store:
                following = self._following[name] = Following(store, schema, history.around)
            self._tell(history, following.look())
            return
        if not isinstance(following, LabelProcess):
            following = LabelProcess(schema, history.around, self._poll_s, lambda done: self._tell(history, done))
            self._following[name] = following
        following.keep_alive()

    def _leave(self, name: str) -> None:
        following = self._following.pop(name, None)
        if isinstance(following, LabelProcess):
            following.stop()

    def _tell(self, history: LiveHistory, done: Applied | str) -> None:
        """Count what was done; an error is logged once."""
        if isinstance(done, str):
            if self._said.get(history.labels_name) != done:
                logger.warning("labels do not reach the live history now, they are tried again: %s", done)
            self._said[history.labels_name] = done
            return
        self._said.pop(history.labels_name, None)
        if done.newest is not None:
            history.newest_label = max(history.newest_label or 0, done.newest)
        if self._metrics is not None:
            self._metrics.observe_labels(done)

    def _do(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (FraudError, OSError) as error:
            if self._said.get(what) != str(error):
                self._said[what] = str(error)
                logger.warning("%s: the live history is not looked after, it is tried again: %s", what, error)
        except Exception:  # a bug in here must not end the following
            if self._said.get(what) != "bug":
                self._said[what] = "bug"
                logger.exception("looking after the live history failed")
