"""Shadow scoring: the challenger scores what the champion decided, after the reply, and harms nothing.

One thread asks the challenger, at most half of its time, so that requests find the processor free; another sees to it
that no decision waits for it longer than a bound. What cannot be scored in time is shed, and the decision kept without.
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

_STALE_SHARE = 0.4  # of the timeout: what has waited longer is shed, because the process or the challenger is behind


class Models(Protocol):
    """What is read of `serve_app.model.state.State`."""

    model: ServedModel
    challenger: ServedModel | None
    shadow: bool


class _Waiting:
    """A decision that waits for its shadow score. Whoever gets `claim` first, and nobody else, completes it."""

    __slots__ = ("_lock", "decision", "since", "transaction")

    def __init__(self, transaction: Mapping[str, object], decision: Decision) -> None:
        self.transaction, self.decision, self.since = transaction, decision, time.monotonic()
        self._lock = threading.Lock()

    def claim(self) -> bool:
        """Whether the caller is the first."""
        return self._lock.acquire(blocking=False)


@dataclass
class _Worker:
    """One thread that asks challengers. since: when its call began, 0 between calls."""

    model: ServedModel | None = None
    since: float = 0.0


class Shadow:
    """Has `models.challenger` score what `submit` brings while `models.shadow` is on, then puts the decision.

    put: DecisionLog.put. metrics: an object with count_shadow(outcome). A challenger that hangs keeps its thread, which
    cannot be ended; no further one is started until another challenger takes its place.
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
        self._queue: deque[_Waiting] = deque()  # to be scored
        self._open: deque[_Waiting] = deque()  # to be completed in time, oldest first
        self._wake, self._closing = threading.Event(), threading.Event()
        self._worker: _Worker | None = None
        self._keeper: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._told_of: object = None
        self._told: set[str] = set()
        self._fits: tuple[object, object, bool] = (None, None, False)

    @property
    def is_wanted(self) -> bool:
        """Whether the challenger is to score what the champion decides."""
        models = self._models
        return models.shadow and models.challenger is not None and not self._closing.is_set()

    def submit(self, transaction: Mapping[str, object], decision: Decision) -> None:
        """Keep a decision, with the challenger's score where there is one in time. Never waits, never raises.

        What the challenger itself decided (canary), and a fallback, is kept as it is.
        """
        if not self.is_wanted or decision.role != "champion" or decision.fallback is not None:
            self._put(decision)
            return
        if (self._keeper is None and not self._start()) or self._hangs() or len(self._queue) >= self._settings.queue:
            self._complete(decision, "shed")
            return
        waiting = _Waiting(transaction, decision)
        self._open.append(waiting)
        self._queue.append(waiting)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float = 1.0) -> None:
        """Give the challenger `timeout` seconds more, then put every decision that still waits."""
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
        """Start both threads; False where the system has none left."""
        with self._start_lock:
            if self._keeper is None:
                keeper = threading.Thread(target=self._keep, name="shadow-keeper", daemon=True)
                try:
                    self._start_worker()
                    keeper.start()
                except RuntimeError:
                    return False
                self._keeper = keeper
        return True

    def _start_worker(self) -> None:
        before, worker = self._worker, _Worker(self._models.challenger)
        self._worker = worker  # before the thread starts, which ends where it is not the one
        try:
            threading.Thread(target=self._work, args=(worker,), name="shadow", daemon=True).start()
        except RuntimeError:
            self._worker = before
            raise

    def _hangs(self) -> bool:
        """Whether a call of the challenger takes longer than any decision may wait for it."""
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
                logger.exception("the metric of the shadow cannot be counted")

    # The thread that asks the challenger.

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
            # Half of the time for the requests. Where they keep the processor busy, the call has waited for it, so the
            # rest is longer: the shadow gives way by itself.
            time.sleep(min(time.monotonic() - began, 0.05))

    def _score(self, worker: _Worker, waiting: _Waiting, began: float) -> None:
        champion, challenger = self._models.model, self._models.challenger
        found = None
        if challenger is not None:
            worker.model, worker.since = challenger, began
            try:
                if self._can_score(champion, challenger):
                    # The replica has entered the transaction into every history that there is.
                    found = challenger.engine.score_row(waiting.transaction, learn=False)
            except Exception as error:  # noqa: BLE001 - whatever a challenger raises; its text may hold card data
                self._tell(challenger, f"raises {type(error).__name__}")
            finally:
                worker.since = 0.0
        if not waiting.claim():
            return  # too late: the keeper has put it
        decision = waiting.decision
        if challenger is None:
            self._put(decision)
            return
        decision.shadow_version = challenger.version
        if found is None or found.score != found.score:
            self._complete(decision, "failed")
            return
        decision.shadow_score, decision.shadow_is_fraud = found.score, bool(found.is_fraud)
        self._complete(decision, "scored")

    def _can_score(self, champion: ServedModel, challenger: ServedModel) -> bool:
        """Whether the champion's transactions have what the challenger's schema asks for."""
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
                self._tell(
                    challenger, f"wants columns of which the requests have none or other ones: {', '.join(lacking)}"
                )
            self._fits = (champion, challenger, fits)
        return fits

    def _tell(self, challenger: ServedModel, what: str) -> None:
        """Log a trouble once a challenger."""
        if self._told_of is not challenger:
            self._told_of, self._told = challenger, set()
        if what not in self._told:
            self._told.add(what)
            logger.error("challenger %s %s; its shadow scores are missing", challenger.version, what)

    # The thread that keeps the bound.

    def _keep(self) -> None:
        timeout = self._settings.timeout_s
        while not self._closing.wait(min(0.05, timeout / 4.0)):
            self._expire(time.monotonic() - timeout)
            worker = self._worker
            if self._hangs() and worker is not None and worker.model is not self._models.challenger:
                if self._models.challenger is not None:
                    with suppress(RuntimeError):  # the system has no thread left; tried again
                        self._start_worker()
                        logger.warning("left the thread of a challenger that hangs, started one for the next")
            elif self._hangs() and worker is not None and worker.model is not None:
                self._tell(worker.model, f"has not answered for {timeout:g} s")

    def _expire(self, before: float) -> None:
        """Put the decisions that began to wait before a time, and have no shadow score yet."""
        while self._open and self._open[0].since <= before:
            waiting = self._open.popleft()
            if waiting.claim():
                challenger = self._models.challenger
                waiting.decision.shadow_version = None if challenger is None else challenger.version
                self._complete(waiting.decision, "late")
