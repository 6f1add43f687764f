"""The decision log: every decision becomes a row of Parquet, and no reply ever waits for it.

    put      ->  queue in memory  ->  journal on the local disk  ->  Parquet (folder, s3://...)
    encodes      bounded              a writer thread                a publisher thread

At risk: a SIGKILL of the process takes what is in the queue, some 10 ms of decisions; a power failure also what was not
forced to disk, `fsync_s`. Where the journal cannot be written, the queue fills, and beyond its bound the newest
decisions are lost and counted. Where the Parquet files cannot be written, journals stay on the disk until they can.
Journals of a process that was killed become Parquet when the next one starts on the same node.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fraud.detectors import registry
from fraud.errors import ConfigError
from fraud.schema import Schema
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.journal import Journal, WriterFolder
from serve_app.decisions.publisher import Publisher
from serve_app.decisions.rows import Decision, DecisionBlock, Encoder, Role
from serve_app.decisions.settings import check_columns

if TYPE_CHECKING:
    from serve_app.model.part import ScoredPart
    from serve_app.model.state import ServedModel

__all__ = ["Decision", "DecisionBlock", "DecisionLog"]

logger = logging.getLogger(__name__)

MOST_ROWS, MOST_SECONDS, MOST_BYTES = 50_000, 60.0, 32 << 20  # of one journal, and so of one Parquet file
_GATHER_S = 0.01  # the writer lets decisions gather this long: one write for all of them, one wake-up of a thread
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0
_LONGEST_PAUSE_S = 1.0
_TELL_AGAIN_S = 10.0


class _Line(NamedTuple):
    """What waits in the queue: a line of the journal that has so many decisions in it."""

    fingerprint: str
    line: bytes
    n: int
    is_block: bool


class DecisionLog:
    """Keeps decisions. Safe to share between threads; `close` at the end, or what is in the queue is lost.

    schema: of the model served at first; later ones are made known by `register` or `decision_of`. metrics: an object
    with count_decisions(outcome, n) and set_queue(depth), called by the threads of the log alone.
    Raises ConfigError where a column to hide is none of the schema's. A folder that cannot be written is no reason not
    to start: it is logged, and tried again.
    """

    def __init__(
        self, settings: DecisionSettings, schema: Schema, *, metrics: Any = None, file_seconds: float = MOST_SECONDS
    ) -> None:
        check_columns(settings, schema)
        self._settings, self._metrics = settings, metrics
        self._file_seconds = file_seconds
        self._queue: deque[_Line] = deque()
        self._in_blocks, self._blocks_lock = 0, threading.Lock()  # decisions in the queue that are part of a block
        self._held = 0  # taken from the queue, not in the journal yet
        self._lines: dict[str, tuple[list[bytes], int]] = {}  # lines, and the decisions in them
        self._journals: dict[str, tuple[Journal, float]] = {}
        self._encoders: dict[str, Encoder] = {}
        self._fingerprints: dict[str, str] = {}
        self._folder: WriterFolder | None = None
        self._synced = 0.0
        self._lost, self._lost_lock = 0, threading.Lock()
        self._untold, self._told = 0, float("-inf")
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
        """Whether decisions are kept at all."""
        return self._publisher is not None

    def register(self, schema: Schema) -> str:
        """Make a schema known, and return its fingerprint."""
        fingerprint = schema.fingerprint
        if fingerprint not in self._encoders:
            s = self._settings
            try:
                check_columns(s, schema)
            except ConfigError as error:
                logger.warning("the decision log of a new schema hides less than it was told to: %s", error)
            self._encoders[fingerprint] = Encoder(schema, s.omitted, s.hashed, s.key)
        return fingerprint

    def decision_of(
        self,
        model: ServedModel,
        transaction: Mapping[str, object],
        answer: Mapping[str, Any],
        *,
        request_id: str = "",
        key_name: str = "",
        role: Role = "champion",
        fallback: str | None = None,
    ) -> Decision:
        """The decision that a model's answer (`ServedModel.answer`) to a canonical transaction is, made now."""
        fingerprint = self._fingerprint(model)
        get = answer.get
        return Decision(
            request_id=request_id,
            time_us=time.time_ns() // 1000,
            model_name=model.name,
            version=model.version,
            sha256=model.sha256,
            schema_fingerprint=fingerprint,
            threshold=model.engine.threshold.value,
            score=get("score"),
            is_fraud=get("is_fraud"),
            scores={name: answer[name] for name in registry.score_columns() if name in answer},
            reasons=get("reasons") or (),
            warnings=get("warnings") or (),
            inputs=transaction,
            role=role,
            fallback=fallback,
            key_name=key_name,
        )

    def block_of(self, scored: ScoredPart, *, request_id: str = "", key_name: str = "") -> DecisionBlock:
        """The decisions that the answers to a part of a batch are, made now."""
        model = scored.model
        return DecisionBlock(
            request_id=request_id,
            time_us=time.time_ns() // 1000,
            model_name=model.name,
            version=model.version,
            sha256=model.sha256,
            schema_fingerprint=self._fingerprint(model),
            threshold=model.engine.threshold.value,
            columns={**scored.values, "is_fraud": scored.is_fraud},
            inputs=scored.part.columns,
            warnings=scored.warnings,
            reasons=None if scored.reasons is None else [[vars(reason) for reason in row] for row in scored.reasons],
            key_name=key_name,
        )

    def put_block(self, block: DecisionBlock) -> None:
        """Keep the decisions of a block: as `put`, with a bound of its own of as many decisions."""
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
        """Whether so many decisions of batches wait that a further block may be lost: batches can wait, and should."""
        return self._in_blocks > self._settings.queue // 2

    def put(self, decision: Decision) -> None:
        """Keep a decision, whose inputs and reasons nobody may change afterwards. Never waits, never raises."""
        if self._publisher is None:
            return
        if len(self._queue) + self._held >= self._settings.queue or self._closing.is_set():
            self._lose(1)
            return
        self._enter(decision, 1)

    def close(self, timeout: float = 15.0) -> None:
        """Write everything, as Parquet too if that works within `timeout` seconds; else the next start does it."""
        if self._publisher is None or self._closing.is_set():
            return
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._wake.set()
        self._writer.join(timeout + 1.0)
        self._publisher.finish(self._deadline)
        if self._folder is not None:
            self._folder.close()

    def _fingerprint(self, model: ServedModel) -> str:
        found = self._fingerprints.get(model.sha256)
        if found is None:
            found = self._fingerprints[model.sha256] = self.register(model.engine.schema)
        return found

    def _lose(self, n: int) -> None:
        with self._lost_lock:
            self._lost += n

    def _enter(self, entry: Decision | DecisionBlock, n: int) -> None:
        """Encode it here and now: a thread of its own would take Python's lock for as long, and at a worse moment."""
        fingerprint, is_block = entry.schema_fingerprint, isinstance(entry, DecisionBlock)
        try:
            encoder = self._encoders[fingerprint]
            line = encoder.block(entry) if isinstance(entry, DecisionBlock) else encoder.line(entry)
        except Exception as error:  # noqa: BLE001 - one odd decision must not stop its reply; the text may be card data
            if type(error) not in self._odd:
                self._odd.add(type(error))
                logger.error("a decision cannot be kept: %s", type(error).__name__)
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

    # The writer thread: from the queue to the journal.

    def _write(self) -> None:
        failed_since, retry_s = 0.0, _FIRST_RETRY_S
        while True:
            is_last = self._closing.is_set()  # asked before taking: what was put before `close` is then taken
            self._take()
            try:
                self._append()
                self._sync()
                self._seal(at_once=is_last and not self._queue)
            except Exception as error:  # noqa: BLE001 - without this thread every decision would be lost
                if not failed_since:
                    failed_since = time.monotonic()
                    why = error if isinstance(error, OSError) else type(error).__name__
                    logger.error("decisions cannot be written (%s); they wait in memory, up to a bound", why)
                self._count("retried", self._held)
                if isinstance(error, FileNotFoundError) and self._folder is not None:  # somebody removed it
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
        self._lose(sum(entry.n for entry in self._queue) + self._held)
        self._report()

    def _pause(self) -> None:
        """Wait for decisions, but no longer than until the next fsync is due; then let some more gather."""
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
        """Take decisions from the queue, unless others still wait to be written."""
        if self._held:
            return
        while self._queue:
            entry = self._queue.popleft()
            if entry.is_block:
                self._leave(entry.n)
            lines, rows = self._lines.get(entry.fingerprint, ([], 0))
            lines.append(entry.line)
            self._lines[entry.fingerprint] = lines, rows + entry.n
            self._held += entry.n

    def _append(self) -> None:
        if self._folder is None:
            self._folder = WriterFolder(self._settings.journal)
        for fingerprint, (lines, rows) in list(self._lines.items()):
            found = self._journals.get(fingerprint)
            if found is None:
                journal = Journal(self._folder.next_path(), self._encoders[fingerprint].header)
                found = self._journals[fingerprint] = (journal, time.monotonic())
            found[0].append(lines, rows)
            del self._lines[fingerprint]
            self._held -= rows
            self._count("written", rows)

    def _sync(self) -> None:
        now = time.monotonic()
        if now - self._synced >= self._settings.fsync_s:
            for journal, _ in self._journals.values():
                journal.sync()
            self._synced = now

    def _seal(self, at_once: bool) -> None:
        """Hand the journals that are large or old enough to the publisher."""
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
        self._untold += lost
        if self._untold and time.monotonic() - self._told >= _TELL_AGAIN_S:
            logger.error("%d decisions are lost: more came than could be written, or odd ones", self._untold)
            self._untold, self._told = 0, time.monotonic()
        self._tell("set_queue", len(self._queue) + self._held)

    def _count(self, outcome: str, n: int) -> None:
        if n:
            self._tell("count_decisions", outcome, n)

    def _tell(self, method: str, *arguments: object) -> None:
        if self._metrics is None:
            return
        try:
            getattr(self._metrics, method)(*arguments)
        except Exception:
            logger.exception("a metric of the decision log cannot be counted")
