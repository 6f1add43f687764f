"""The Prometheus metrics of a replica. Counting updates a dictionary under a lock: about 1 us per request.

Once a second a thread writes the counts to the folder of all replicas (serve_app.metrics.files), where the replica that
answers GET /metrics reads them. A killed replica loses the counts of its last second.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from fraud.history.label_feed import Applied
from serve_app.metrics.files import Key, MetricsFolder, Totals
from serve_app.metrics.page import LAGS_S, LATENCY_S, SCORES, page
from serve_app.paths import name_of

logger = logging.getLogger(__name__)

MOST_SERIES = 2_000
_INFO, _LOADED = "fraud_model_info", "fraud_model_loaded_timestamp_seconds"
# Exported as zero from the start: an alert on a missing series never fires.
_FROM_ZERO: dict[str, tuple[str, ...]] = {
    "fraud_shadow": ("scored", "shed", "failed", "late"),
    "fraud_decision_records": ("written", "lost", "retried"),
    "fraud_fallbacks": ("approve", "review", "decline"),
}
_COUNTS_OF_HISTORY = ("fraud_history_losses", "fraud_history_caught_up", "fraud_labels_applied", "fraud_labels_too_old")


class Metrics:
    """The counts of one replica. All methods are thread-safe, take microseconds and never raise.

    folder: shared by the replicas of this node; without it, or if it cannot be written, /metrics covers this replica
    only. flush_s: seconds between writes.
    """

    def __init__(self, folder: Path | None = None, *, flush_s: float = 1.0) -> None:
        self._lock = threading.Lock()
        self._totals = Totals()
        self._totals.gauges["fraud_replicas", ()] = 1
        self._totals.counters["fraud_model_load_failures", ()] = 0
        self._totals.gauges["fraud_history_behind", ()] = 0
        self._totals.histograms["fraud_label_lag_seconds", ()] = [0] * (len(LAGS_S) + 1) + [0.0]
        for name in _COUNTS_OF_HISTORY:
            self._totals.counters[name, ()] = 0
        for name, labels in _FROM_ZERO.items():
            self._totals.counters.update({(name, (label,)): 0 for label in labels})
        self.in_progress = 0  # open requests; only the event loop changes it, so it needs no lock
        self._has_changed = True
        self._is_failing = False
        self._end = threading.Event()
        self._reader = ThreadPoolExecutor(1, "metrics-reader")  # starts its thread on first use
        self._folder: MetricsFolder | None = None
        self._writer: threading.Thread | None = None
        if folder is None:
            return
        try:
            self._folder = MetricsFolder(folder)
        except OSError as error:
            logger.error("GET /metrics covers this replica only: %s cannot be written (%s)", folder, error.strerror)
            return
        self.flush()
        self._writer = threading.Thread(target=self._flush_every, args=(flush_s,), name="metrics", daemon=True)
        self._writer.start()

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request. seconds: from its arrival to the last byte of the response."""
        label = name_of(path)
        with self._lock:
            self._count(("fraud_requests", (label, str(status))))
            self._observe(("fraud_request_seconds", (label,)), LATENCY_S, seconds)

    def observe_decision(self, score: float, is_fraud: bool, version: str) -> None:
        """Count a transaction scored by model `version`."""
        with self._lock:
            self._count(("fraud_decisions", (version, "true" if is_fraud else "false")))
            self._observe(("fraud_score", (version,)), SCORES, score)

    def observe_decisions(self, scores: np.ndarray, is_fraud: np.ndarray, version: str) -> None:
        """Count n transactions scored by model `version`. scores: float64 (n,); is_fraud: bool (n,)."""
        n_flagged = int(is_fraud.sum())
        bucket_counts = np.bincount(np.searchsorted(SCORES, scores), minlength=len(SCORES) + 1).tolist()
        with self._lock:
            for label, n in (("true", n_flagged), ("false", len(scores) - n_flagged)):
                if n:
                    self._count(("fraud_decisions", (version, label)), n)
            histogram = self._histogram(("fraud_score", (version,)), SCORES)
            if histogram is not None:
                for bucket, n in enumerate(bucket_counts):
                    histogram[bucket] += n
                histogram[-1] += float(scores.sum())

    def count_error(self, kind: str) -> None:
        """Count a problem in a response. kind: Problem.type."""
        with self._lock:
            self._count(("fraud_errors", (kind,)))

    def count_fallback(self, decision: str) -> None:
        """Count a fallback answer. decision: "approve", "review" or "decline"."""
        with self._lock:
            self._count(("fraud_fallbacks", (decision,)))

    def count_model_failure(self) -> None:
        """Count a new model that could not be served."""
        with self._lock:
            self._count(("fraud_model_load_failures", ()))

    def count_shadow(self, outcome: str) -> None:
        """Count a shadow request. outcome: "scored", "shed", "failed" or "late"."""
        with self._lock:
            self._count(("fraud_shadow", (outcome,)))

    def count_decisions(self, outcome: str, n: int = 1) -> None:
        """Count `n` records of the decision log. outcome: "written", "lost" or "retried"."""
        with self._lock:
            self._count(("fraud_decision_records", (outcome,)), n)

    def set_queue(self, depth: int, queue: str = "decisions") -> None:
        """Set the number of entries in a queue."""
        with self._lock:
            self._set(("fraud_queue_depth", (queue,)), depth)

    def set_history(self, *, is_behind: bool, newest_event: int | None) -> None:
        """Set the state of the live history. newest_event: microseconds since 1970."""
        with self._lock:
            self._set(("fraud_history_behind", ()), int(is_behind))
            if newest_event is not None:
                self._set(("fraud_history_newest_event_timestamp_seconds", ()), newest_event / 1e6)

    def count_history_loss(self) -> None:
        """Count a live history that was emptied, removed or evicted from, or that went back in time."""
        with self._lock:
            self._count(("fraud_history_losses", ()))

    def count_caught_up(self, n: int) -> None:
        """Count `n` decisions that entered the live history from the decision log."""
        with self._lock:
            self._count(("fraud_history_caught_up", ()), n)

    def observe_labels(self, applied: Applied) -> None:
        """Count labels that were applied to the live history."""
        with self._lock:
            self._count(("fraud_labels_applied", ()), applied.applied)
            self._count(("fraud_labels_too_old", ()), applied.too_old)
            self._set(("fraud_labels_unmatched", ()), applied.unmatched)
            for lag in applied.lags:
                self._observe(("fraud_label_lag_seconds", ()), LAGS_S, lag)
            if applied.newest is not None:
                key = ("fraud_label_newest_applied_timestamp_seconds", ())
                self._set(key, max(applied.newest / 1e6, self._totals.gauges.get(key, 0.0)))

    def set_model(self, version: str, sha256: str, loaded_at: float) -> None:
        """Set the model that this replica serves. loaded_at: seconds since 1970."""
        with self._lock:
            gauges = self._totals.gauges
            for key in [key for key in gauges if key[0] in (_INFO, _LOADED)]:
                del gauges[key]
            self._set((_INFO, (version, sha256)), 1)
            self._set((_LOADED, (version,)), loaded_at)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page for all replicas and its content type. accept: the Accept header."""
        with self._lock:
            totals = self._copy()
        if self._folder is not None:
            try:
                totals.add(self._folder.others())
            except OSError as error:
                self._log_failure("read", error)
        return page(totals, accept)

    async def respond(self, request: Request) -> Response:
        """Answer GET /metrics. A thread reads the files, one scrape at a time, so that requests do not wait."""
        loop = asyncio.get_running_loop()
        body, content_type = await loop.run_in_executor(self._reader, self.render, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    def flush(self) -> None:
        """Write the counts to the shared folder if they have changed."""
        with self._lock:
            if self._folder is None or not self._has_changed:
                return
            self._has_changed = False
            totals = self._copy()
        try:
            self._folder.write(totals)
            self._is_failing = False
        except OSError as error:
            self._has_changed = True
            self._log_failure("written", error)

    def close(self) -> None:
        """Write the last counts and end the threads."""
        self._end.set()
        if self._writer is not None:
            self._writer.join(5)
        self._reader.shutdown(wait=False, cancel_futures=True)
        self.flush()
        if self._folder is not None:
            self._folder.close()

    def _flush_every(self, seconds: float) -> None:
        while not self._end.wait(seconds):
            self.flush()

    def _log_failure(self, done: str, error: OSError) -> None:
        if not self._is_failing:
            logger.error("the metrics of all replicas cannot be %s (%s); retrying", done, error.strerror)
        self._is_failing = True

    def _copy(self) -> Totals:
        totals = self._totals.copy()
        totals.gauges["fraud_requests_in_progress", ()] = self.in_progress
        return totals

    def _count(self, key: Key, n: float = 1) -> None:
        counters = self._totals.counters
        if key in counters or len(counters) < MOST_SERIES:
            counters[key] = counters.get(key, 0) + n
            self._has_changed = True

    def _set(self, key: Key, value: float) -> None:
        self._totals.gauges[key] = value
        self._has_changed = True

    def _observe(self, key: Key, bounds: Sequence[float], value: float) -> None:
        histogram = self._histogram(key, bounds)
        if histogram is not None:
            histogram[bisect_left(bounds, value)] += 1
            histogram[-1] += value

    def _histogram(self, key: Key, bounds: Sequence[float]) -> list[float] | None:
        """The counts per bucket, then the sum; None if there are too many series."""
        histogram = self._totals.histograms.get(key)
        if histogram is None and len(self._totals.histograms) < MOST_SERIES:
            histogram = self._totals.histograms[key] = [0] * (len(bounds) + 1) + [0.0]
        return histogram
