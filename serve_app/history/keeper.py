"""The thread that maintains the live histories of a replica: labels every second, stores every five seconds."""

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
    """The metrics of labels."""

    def observe_labels(self, applied: Applied) -> None:
        """Report one poll for labels."""


class HistoryKeeper:
    """Maintains the histories that `histories` returns and applies new labels to them.

    For a shared store, one replica applies labels for all, in a separate process; for a history in memory, this thread
    does. poll_s: seconds between two polls for labels; 0: never.
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
        self._logged: dict[str, str] = {}
        self._maintained = -math.inf
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the daemon thread."""
        self._thread = threading.Thread(target=self._run, name="history-keeper", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; wait for it at most `timeout_s`."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        for name in list(self._following):
            self._leave(name)

    def poll(self) -> None:
        """Do what is due. Never raises; an error is logged once and the work retried."""
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
            self.poll()

    def _follow(self, history: LiveHistory) -> None:
        """Apply new labels to this history, if this replica holds the lease."""
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
                following = self._following[name] = Following(store, schema, history.context)
            self._record(history, following.poll())
            return
        if not isinstance(following, LabelProcess):
            following = LabelProcess(schema, history.context, self._poll_s, lambda done: self._record(history, done))
            self._following[name] = following
        following.keep_alive()

    def _leave(self, name: str) -> None:
        following = self._following.pop(name, None)
        if isinstance(following, LabelProcess):
            following.stop()

    def _record(self, history: LiveHistory, done: Applied | str) -> None:
        """Update the metrics with a result; log an error once."""
        if isinstance(done, str):
            if self._logged.get(history.labels_name) != done:
                logger.warning("labels do not reach the live history (retrying): %s", done)
            self._logged[history.labels_name] = done
            return
        self._logged.pop(history.labels_name, None)
        if self._metrics is not None:
            self._metrics.observe_labels(done)

    def _do(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (FraudError, OSError) as error:
            if self._logged.get(what) != str(error):
                self._logged[what] = str(error)
                logger.warning("%s: the live history is not maintained (retrying): %s", what, error)
        except Exception:  # a bug must not end the thread
            if self._logged.get(what) != "bug":
                self._logged[what] = "bug"
                logger.exception("maintaining the live history failed")
