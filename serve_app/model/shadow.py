"""Shadow scoring: the challenger scores what the champion decided, after the response.

One thread calls the challenger, at most half of the time, to leave the CPU to requests. Another bounds how long a
decision waits for it. A decision that cannot be scored in time is logged without a shadow score.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fraud.settings.serving import ShadowSettings
from serve_app.decisions.rows import Decision

if TYPE_CHECKING:
    from serve_app.model.state import ServedModel

logger = logging.getLogger(__name__)

_STALE_SHARE = 0.4  # of the timeout: decisions that have waited longer are shed


class Models(Protocol):
    """The part of `serve_app.model.state.State` that is used here."""

    model: ServedModel
    challenger: ServedModel | None
    shadow: bool


class _Pending:
    """A decision that waits for its shadow score. Only the first caller of `claim` completes it."""

    __slots__ = ("_lock", "decision", "since", "transaction")

    def __init__(self, transaction: Mapping[str, object], decision: Decision) -> None:
        self.transaction, self.decision, self.since = transaction, decision, time.monotonic()
        self._lock = threading.Lock()

    def claim(self) -> bool:
        """Whether the caller is the first."""
        return self._lock.acquire(blocking=False)


@dataclass
class _Worker:
    """A thread that calls challengers. since: start of the current call, 0 between calls."""

    model: ServedModel | None = None
    since: float = 0.0


class Shadow:
    """Scores submitted decisions with `models.challenger` while `models.shadow` is on, then logs them.

    put: DecisionLog.put. metrics: an object with count_shadow(outcome). A challenger that hangs blocks its thread,
    which cannot be ended; a new thread starts only for a new challenger.
    """

    def __init__(
        self,
        models: Models,
        put: Callable[[Decision], None],
        settings: ShadowSettings | None = None,
        *,
        metrics: Any = None,
    ) -> None:
        self._models, self._put, self._metrics = models, put, metrics
        self._settings = settings or ShadowSettings()
        self._queue: deque[_Pending] = deque()  # to score
        self._open: deque[_Pending] = deque()  # not completed yet, oldest first
        self._wake, self._closing = threading.Event(), threading.Event()
        self._worker: _Worker | None = None
        self._keeper: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._logged_challenger: object = None
        self._logged: set[str] = set()
        self._fits: tuple[object, object, bool] = (None, None, False)

    @property
    def is_active(self) -> bool:
        """Whether the challenger scores the champion's decisions."""
        models = self._models
        return models.shadow and models.challenger is not None and not self._closing.is_set()

    def submit(self, transaction: Mapping[str, object], decision: Decision) -> None:
        """Log a decision, with the challenger's score if it comes in time. Never blocks, never raises.

        Logs fallbacks and the challenger's own decisions (canary) without a shadow score.
        """
        if not self.is_active or decision.role != "champion" or decision.fallback is not None:
            self._put(decision)
            return
        if (self._keeper is None and not self._start()) or self._hangs() or len(self._queue) >= self._settings.queue:
            self._complete(decision, "shed")
            return
        waiting = _Pending(transaction, decision)
        self._open.append(waiting)
        self._queue.append(waiting)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float = 1.0) -> None:
        """Give the challenger `timeout` more seconds, then log every pending decision."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        ends = time.monotonic() + timeout
        while self._queue and time.monotonic() < ends:
            time.sleep(0.005)
        if self._keeper is not None:
            self._keeper.join(1.0)
        self._expire(float("inf"))

    def _start(self) -> bool:
        """Start both threads; False if the system has no thread left."""
        with self._start_lock:
            if self._keeper is None:
                keeper = threading.Thread(target=self._enforce_timeout, name="shadow-keeper", daemon=True)
                try:
                    self._start_worker()
                    keeper.start()
                except RuntimeError:
                    return False
                self._keeper = keeper
        return True

    def _start_worker(self) -> None:
        before, worker = self._worker, _Worker(self._models.challenger)
        self._worker = worker  # set before the start: a thread ends if it is not the current worker
        try:
            threading.Thread(target=self._work, args=(worker,), name="shadow", daemon=True).start()
        except RuntimeError:
            self._worker = before
            raise

    def _hangs(self) -> bool:
        """Whether a call of the challenger exceeds the timeout."""
        worker = self._worker
        since = 0.0 if worker is None else worker.since
        return since > 0.0 and time.monotonic() - since > self._settings.timeout_s

    def _complete(self, decision: Decision, outcome: str) -> None:
        decision.shadow_outcome = outcome
        self._put(decision)
        if self._metrics is not None:
            try:
                self._metrics.count_shadow(outcome)
            except Exception:
                logger.exception("cannot update the shadow metric")

    # The thread that calls the challenger.

    def _work(self, worker: _Worker) -> None:
        stale_s = self._settings.timeout_s * _STALE_SHARE
        while self._worker is worker:
            try:
                waiting = self._queue.popleft()
            except IndexError:
                self._wake.clear()
                if not self._queue:
                    if self._closing.is_set():
                        return
                    self._wake.wait(1.0)
                continue
            began = time.monotonic()
            if began - waiting.since > stale_s:
                if waiting.claim():
                    self._complete(waiting.decision, "shed")
                continue
            self._score(worker, waiting, began)
            # Leave half of the time to requests. Under load the call takes longer, and so does this pause.
            time.sleep(min(time.monotonic() - began, 0.05))

    def _score(self, worker: _Worker, waiting: _Pending, began: float) -> None:
        champion, challenger = self._models.model, self._models.challenger
        row_score = None
        if challenger is not None:
            worker.model, worker.since = challenger, began
            try:
                if self._can_score(champion, challenger):
                    # The replica has already entered the transaction into all histories.
                    row_score = challenger.engine.score_row(waiting.transaction, learn=False)
            except Exception as error:  # noqa: BLE001 - a challenger may raise anything; the text may hold card data
                self._log_once(challenger, f"raises {type(error).__name__}")
            finally:
                worker.since = 0.0
        if not waiting.claim():
            return  # too late: already logged
        decision = waiting.decision
        if challenger is None:
            self._put(decision)
            return
        decision.shadow_version = challenger.version
        if row_score is None or row_score.score != row_score.score:
            self._complete(decision, "failed")
            return
        decision.shadow_score, decision.shadow_is_fraud = row_score.score, bool(row_score.is_fraud)
        self._complete(decision, "scored")

    def _can_score(self, champion: ServedModel, challenger: ServedModel) -> bool:
        """Whether the champion's transactions have all inputs of the challenger."""
        known_champion, known_challenger, fits = self._fits
        if known_champion is not champion or known_challenger is not challenger:
            kinds = {column.name: (column.kind, column.unit) for column in champion.engine.schema.inputs}
            lacking = [
                column.name
                for column in challenger.engine.schema.inputs
                if kinds.get(column.name, column.nullable) not in (True, (column.kind, column.unit))
            ]
            fits = not lacking
            if lacking:
                self._log_once(
                    challenger, f"needs columns that the requests lack or have with another kind: {', '.join(lacking)}"
                )
            self._fits = (champion, challenger, fits)
        return fits

    def _log_once(self, challenger: ServedModel, what: str) -> None:
        """Log a problem once per challenger."""
        if self._logged_challenger is not challenger:
            self._logged_challenger, self._logged = challenger, set()
        if what not in self._logged:
            self._logged.add(what)
            logger.error("challenger %s %s; its shadow scores are missing", challenger.version, what)

    # The thread that enforces the timeout.

    def _enforce_timeout(self) -> None:
        timeout = self._settings.timeout_s
        while not self._closing.wait(min(0.05, timeout / 4.0)):
            self._expire(time.monotonic() - timeout)
            worker = self._worker
            if self._hangs() and worker is not None and worker.model is not self._models.challenger:
                if self._models.challenger is not None:
                    with suppress(RuntimeError):  # no thread left; retried
                        self._start_worker()
                        logger.warning(
                            "abandoned the thread of a challenger that hangs; started one for the next challenger"
                        )
            elif self._hangs() and worker is not None and worker.model is not None:
                self._log_once(worker.model, f"has not answered for {timeout:g} s")

    def _expire(self, before: float) -> None:
        """Log the decisions that have been pending since before a time."""
        while self._open and self._open[0].since <= before:
            waiting = self._open.popleft()
            if waiting.claim():
                challenger = self._models.challenger
                waiting.decision.shadow_version = None if challenger is None else challenger.version
                self._complete(waiting.decision, "late")
