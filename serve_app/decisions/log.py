"""The decision log: writes every decision to Parquet without delaying a response.

    put      ->  queue in memory  ->  journal on the local disk  ->  Parquet (folder, s3://...)
    encodes      bounded              a writer thread                a publisher thread

What can be lost: a SIGKILL loses the queue, about 10 ms of decisions; a power failure also loses what was not yet
fsynced (`fsync_s`). While the journal cannot be written, the queue fills up; once full, new decisions are dropped and
counted. While Parquet cannot be written, journals stay on disk. The journals of a killed process are published by the
next process that starts on the same node.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from fraud.errors import ConfigError
from fraud.schema import Schema
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.journal import Journal, WriterFolder
from serve_app.decisions.publisher import Publisher
from serve_app.decisions.rows import Decision, DecisionBlock, Encoder
from serve_app.decisions.settings import check_columns

__all__ = ["Decision", "DecisionBlock", "DecisionLog"]

logger = logging.getLogger(__name__)

MOST_ROWS, MOST_SECONDS, MOST_BYTES = 50_000, 60.0, 32 << 20  # of one journal, and so of one Parquet file
_GATHER_S = 0.01  # the writer collects decisions this long and writes them at once
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0
_LONGEST_PAUSE_S = 1.0
_REPORT_EVERY_S = 10.0


class _Line(NamedTuple):
    """A queued line of the journal. n: decisions in it."""

    fingerprint: str
    line: bytes
    n: int
    is_block: bool


class DecisionLog:
    """Logs decisions. Thread-safe. Call `close` at the end, or the queue is lost.

    schema: of the first model served; `register` or `fingerprint_of` add later ones. metrics: an object with
    count_decisions(outcome, n) and set_queue(depth), called only from the threads of the log.
    Raises ConfigError if a column to hide is not in the schema. A folder that cannot be written does not prevent the
    start: the error is logged and writing is retried.
    """

    def __init__(
        self, settings: DecisionSettings, schema: Schema, *, metrics: Any = None, file_seconds: float = MOST_SECONDS
    ) -> None:
        check_columns(settings, schema)
        self._settings, self._metrics = settings, metrics
        self._file_seconds = file_seconds
        self._queue: deque[_Line] = deque()
        self._in_blocks, self._blocks_lock = 0, threading.Lock()  # decisions of blocks in the queue
        self._n_unwritten = 0  # decisions taken from the queue but not yet in the journal
        self._lines: dict[str, tuple[list[bytes], int]] = {}  # lines, and the decisions in them
        self._journals: dict[str, tuple[Journal, float]] = {}
        self._encoders: dict[str, Encoder] = {}
        self._fingerprints: dict[str, str] = {}
        self._folder: WriterFolder | None = None
        self._synced = 0.0
        self._lost, self._lost_lock = 0, threading.Lock()
        self._n_unreported, self._reported_at = 0, float("-inf")
        self._odd: set[type] = set()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self.register(schema)
        self._publisher: Publisher | None = None
        if settings.url is not None:
            self._publisher = Publisher(settings.url, settings.journal, self._count)
            self._writer = threading.Thread(target=self._write, name="decision-writer", daemon=True)
            self._writer.start()

    @property
    def is_on(self) -> bool:
        """Whether decisions are logged."""
        return self._publisher is not None

    def register(self, schema: Schema) -> str:
        """Register a schema and return its fingerprint."""
        fingerprint = schema.fingerprint
        if fingerprint not in self._encoders:
            s = self._settings
            try:
                check_columns(s, schema)
            except ConfigError as error:
                logger.warning("the decision log cannot hide all configured columns of the new schema: %s", error)
            self._encoders[fingerprint] = Encoder(schema, s.omitted, s.hashed, s.key)
        return fingerprint

    def fingerprint_of(self, sha256: str, schema: Schema) -> str:
        """The fingerprint of a bundle's schema, which is registered the first time. sha256: of the bundle."""
        fingerprint = self._fingerprints.get(sha256)
        if fingerprint is None:
            fingerprint = self._fingerprints[sha256] = self.register(schema)
        return fingerprint

    def put_block(self, block: DecisionBlock) -> None:
        """Log the decisions of a block. Like `put`, with a separate bound of the same size."""
        n = len(block)
        if self._publisher is None or not n:
            return
        with self._blocks_lock:
            has_room = not self._closing.is_set() and self._in_blocks + n <= self._settings.queue
            self._in_blocks += n if has_room else 0
        if not has_room:
            self._lose(n)
            return
        self._enter(block, n)

    def is_behind(self) -> bool:
        """Whether batches should wait, because the next block may be dropped."""
        return self._in_blocks > self._settings.queue // 2

    def put(self, decision: Decision) -> None:
        """Log a decision. Its inputs and reasons must not change afterwards. Never blocks, never raises."""
        if self._publisher is None:
            return
        if len(self._queue) + self._n_unwritten >= self._settings.queue or self._closing.is_set():
            self._lose(1)
            return
        self._enter(decision, 1)

    def close(self, timeout: float = 15.0) -> None:
        """Write everything, also to Parquet if that takes less than `timeout` seconds; else the next start does."""
        if self._publisher is None or self._closing.is_set():
            return
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._wake.set()
        self._writer.join(timeout + 1.0)
        self._publisher.finish(self._deadline)
        if self._folder is not None:
            self._folder.close()

    def _lose(self, n: int) -> None:
        with self._lost_lock:
            self._lost += n

    def _enter(self, entry: Decision | DecisionBlock, n: int) -> None:
        """Encode and queue an entry. Encoding in another thread would hold the GIL just as long, at a worse time."""
        fingerprint, is_block = entry.schema_fingerprint, isinstance(entry, DecisionBlock)
        try:
            encoder = self._encoders[fingerprint]
            line = encoder.block(entry) if isinstance(entry, DecisionBlock) else encoder.line(entry)
        except Exception as error:  # noqa: BLE001 - a bad decision must not block its reply; the text may be card data
            if type(error) not in self._odd:
                self._odd.add(type(error))
                logger.error("a decision cannot be logged: %s", type(error).__name__)
            self._lose(n)
            if is_block:
                self._leave(n)
            return
        self._queue.append(_Line(fingerprint, line, n, is_block))
        if not self._wake.is_set():
            self._wake.set()

    def _leave(self, n: int) -> None:
        with self._blocks_lock:
            self._in_blocks -= n

    # The writer thread: moves entries from the queue to the journal.

    def _write(self) -> None:
        failed_since, retry_s = 0.0, _FIRST_RETRY_S
        while True:
            is_last = self._closing.is_set()  # read before `_take`, so that everything put before `close` is taken
            self._take()
            try:
                self._append()
                self._sync()
                self._seal(at_once=is_last and not self._queue)
            except Exception as error:  # noqa: BLE001 - without this thread every decision would be lost
                if not failed_since:
                    failed_since = time.monotonic()
                    why = error if isinstance(error, OSError) else type(error).__name__
                    logger.error("decisions cannot be written (%s); they queue in memory, up to a limit", why)
                self._count("retried", self._n_unwritten)
                if isinstance(error, FileNotFoundError) and self._folder is not None:  # the folder was removed
                    self._folder.close()
                    self._folder = None
            else:
                if failed_since:
                    logger.info("decisions are written again, after %.1f s", time.monotonic() - failed_since)
                failed_since, retry_s = 0.0, _FIRST_RETRY_S
            self._report()
            if is_last and ((not failed_since and not self._queue) or time.monotonic() > self._deadline):
                break
            if failed_since:
                self._closing.wait(retry_s) if not is_last else time.sleep(_FIRST_RETRY_S)
                retry_s = min(retry_s * 2.0, _LAST_RETRY_S)
            elif not is_last:
                self._pause()
        self._lose(sum(entry.n for entry in self._queue) + self._n_unwritten)
        self._report()

    def _pause(self) -> None:
        """Wait for decisions until the next fsync is due, then collect more for _GATHER_S."""
        if not self._queue:
            self._wake.clear()
            if not self._queue and not self._closing.is_set():
                pause = _LONGEST_PAUSE_S
                if any(not journal.is_synced for journal, _ in self._journals.values()):
                    pause = min(pause, self._synced + self._settings.fsync_s - time.monotonic())
                self._wake.wait(max(0.001, pause))
        if self._queue and self._settings.fsync_s > 0:
            self._closing.wait(_GATHER_S)

    def _take(self) -> None:
        """Take entries from the queue, unless earlier ones are still unwritten."""
        if self._n_unwritten:
            return
        while self._queue:
            entry = self._queue.popleft()
            if entry.is_block:
                self._leave(entry.n)
            lines, rows = self._lines.get(entry.fingerprint, ([], 0))
            lines.append(entry.line)
            self._lines[entry.fingerprint] = lines, rows + entry.n
            self._n_unwritten += entry.n

    def _append(self) -> None:
        if self._folder is None:
            self._folder = WriterFolder(self._settings.journal)
        for fingerprint, (lines, rows) in list(self._lines.items()):
            entry = self._journals.get(fingerprint)
            if entry is None:
                journal = Journal(self._folder.next_path(), self._encoders[fingerprint].header)
                entry = self._journals[fingerprint] = (journal, time.monotonic())
            entry[0].append(lines, rows)
            del self._lines[fingerprint]
            self._n_unwritten -= rows
            self._count("written", rows)

    def _sync(self) -> None:
        now = time.monotonic()
        if now - self._synced >= self._settings.fsync_s:
            for journal, _ in self._journals.values():
                journal.sync()
            self._synced = now

    def _seal(self, at_once: bool) -> None:
        """Close the journals that are large or old enough and submit them to the publisher."""
        assert self._publisher is not None
        now = time.monotonic()
        for fingerprint, (journal, began) in list(self._journals.items()):
            is_full = journal.rows >= MOST_ROWS or journal.size >= MOST_BYTES
            if at_once or is_full or now - began >= self._file_seconds:
                if self._settings.fsync_s < float("inf"):
                    journal.sync()
                journal.close()
                del self._journals[fingerprint]
                self._publisher.submit(journal.path, journal.rows)

    def _report(self) -> None:
        with self._lost_lock:
            lost, self._lost = self._lost, 0
        self._count("lost", lost)
        self._n_unreported += lost
        if self._n_unreported and time.monotonic() - self._reported_at >= _REPORT_EVERY_S:
            logger.error("%d decisions are lost: the queue was full, or they could not be encoded", self._n_unreported)
            self._n_unreported, self._reported_at = 0, time.monotonic()
        self._update_metric("set_queue", len(self._queue) + self._n_unwritten)

    def _count(self, outcome: str, n: int) -> None:
        if n:
            self._update_metric("count_decisions", outcome, n)

    def _update_metric(self, method: str, *arguments: object) -> None:
        if self._metrics is None:
            return
        try:
            getattr(self._metrics, method)(*arguments)
        except Exception:
            logger.exception("a metric of the decision log cannot be counted")
