"""The thread of a replica that looks after its live histories: new labels every second, the stores every five.

FRAUD_LABELS         folder or URL of the labels (fraud.labels)
FRAUD_LABELS_POLL_S  seconds between two looks for new ones, 0 for never (default 1)
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from fraud.errors import ConfigError, FraudError
from fraud.history.definition import DAY
from fraud.history.label_feed import Applied, LabelFeed, LabelFollower
from fraud.labels import LabelStore
from serve_app.history import LiveHistory
from serve_app.transaction_index import TransactionIndex

logger = logging.getLogger(__name__)

POLL = "FRAUD_LABELS_POLL_S"
MAINTAIN_S = 5.0
_LEASE_S = 10.0


class LabelMetrics(Protocol):
    """What is counted of labels."""

    def observe_labels(self, applied: Applied) -> None:
        """Labels were looked at."""


def poll_seconds(environment: Mapping[str, str] | None = None) -> float:
    """FRAUD_LABELS_POLL_S. Raises ConfigError."""
    text = (os.environ if environment is None else environment).get(POLL) or "1"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds == 0 or 0.1 <= seconds <= 3600):
        raise ConfigError(f"{POLL}={text[:40]!r} is not a number of seconds, 0.1 to 3600, or 0 for never")
    return seconds


class HistoryKeeper:
    """Maintains the histories that `histories` names, and has them follow the labels of `labels`.

    One replica of those who share a store follows for all. poll_s: seconds between two looks at the labels.
    """

    def __init__(
        self,
        histories: Callable[[], Iterable[LiveHistory | None]],
        labels: LabelStore,
        *,
        poll_s: float = 1.0,
        metrics: LabelMetrics | None = None,
    ) -> None:
        self._histories, self._poll_s, self._metrics = histories, poll_s, metrics
        self._feed = LabelFeed(labels)
        self._following: dict[str, tuple[LabelFollower, TransactionIndex]] = {}
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

    def look(self) -> None:
        """Do now what is due. Never raises; what is wrong is logged once, and tried again."""
        histories = [history for history in self._histories() if history is not None and history.store is not None]
        if time.monotonic() - self._maintained >= MAINTAIN_S:
            self._maintained = time.monotonic()
            for history in histories:
                self._do("maintaining", history.maintain)
        if not self._poll_s:
            return
        names = [history.labels_name for history in histories]
        self._following = {name: kept for name, kept in self._following.items() if name in names}
        for history in {history.labels_name: history for history in histories}.values():
            self._do(history.labels_name, lambda history=history: self._follow(history))  # type: ignore[misc]

    def _run(self) -> None:
        while not self._has_ended.wait(self._poll_s or MAINTAIN_S):
            self.look()

    def _follow(self, history: LiveHistory) -> None:
        """Apply the labels that this history does not know yet, where this replica is the one to do so."""
        store, schema = history.store, history.schema
        assert store is not None
        if history.is_behind or schema.id is None or not any(plan.keeps_frauds for plan in history.plans):
            return
        if not store.lease(history.labels_name, _LEASE_S):
            self._following.pop(history.labels_name, None)  # if the lease comes here, what others applied is read anew
            return
        following = self._following.get(history.labels_name)
        if following is None or following[0].store is not store:
            index = TransactionIndex(history.around.settings, history.around.decisions, schema)
            following = LabelFollower(store, schema, self._feed, index.find), index
        follower, index = following
        self._feed.refresh(follower.oldest() - DAY)
        is_first = history.labels_name not in self._following
        arrived = index.refresh()
        applied = follower.follow(None if is_first else arrived)
        self._following[history.labels_name] = following
        if applied.newest is not None:
            history.newest_label = max(history.newest_label or 0, applied.newest)
        if self._metrics is not None:
            self._metrics.observe_labels(applied)

    def _do(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (FraudError, OSError) as error:
            if self._said.get(what) != str(error):
                self._said[what] = str(error)
                logger.warning("labels do not reach the live history now, they are tried again: %s", error)
        except Exception:  # a bug in here must not end the following
            if self._said.get(what) != "bug":
                self._said[what] = "bug"
                logger.exception("looking after the live history failed")
        else:
            if self._said.pop(what, None) is not None:
                logger.info("the live history is looked after again")
