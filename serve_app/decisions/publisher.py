"""The thread that publishes finished journals as Parquet and recovers those of dead processes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from serve_app.decisions.files import UnreadableJournalError, publish
from serve_app.decisions.journal import dead_writer, writer_folders

logger = logging.getLogger(__name__)

_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 60.0
Count = Callable[[str, int], None]


class Publisher:
    """Publishes journals under `url` in the order of submission. Retries each until it succeeds.

    root: the parent of the writers' folders. count: called with ("retried" or "lost", number of decisions).
    """

    def __init__(self, url: str, root: Path, count: Count) -> None:
        self._url, self._root, self._count = url, root, count
        self._waiting: deque[tuple[Path, int]] = deque()
        self._submitted: queue.SimpleQueue[tuple[Path, int] | None] = queue.SimpleQueue()
        self._deadline = float("inf")
        self._is_last = self._has_recovered = False
        self._thread = threading.Thread(target=self._run, name="decision-publisher", daemon=True)
        self._thread.start()

    def submit(self, journal: Path, rows: int) -> None:
        """Queue a closed journal. Never blocks."""
        self._submitted.put((journal, rows))

    def finish(self, deadline: float) -> None:
        """Publish what was submitted, until `deadline` (time.monotonic, seconds)."""
        self._deadline = deadline
        self._submitted.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()) + 1.0)

    def _run(self) -> None:
        has_failed, retry_s = False, _FIRST_RETRY_S
        while True:
            try:
                self._publish_all()
            except Exception as error:  # noqa: BLE001 - whatever the store's client raises, the journal stays and is retried
                if not has_failed:
                    logger.error("decisions cannot be written as Parquet (%s); the journals stay until they can", error)
                self._count("retried", sum(rows for _, rows in self._waiting))
                has_failed, retry_s = True, min(retry_s * 2.0, 0.5 if self._is_last else _LAST_RETRY_S)
            else:
                if has_failed:
                    logger.info("decisions are written as Parquet again")
                has_failed, retry_s = False, _FIRST_RETRY_S
            if self._is_last and (not self._waiting or time.monotonic() > self._deadline):
                return
            try:
                submitted = self._submitted.get(timeout=retry_s if has_failed else None)
            except queue.Empty:
                continue
            if submitted is None:
                self._is_last = True
            else:
                self._waiting.append(submitted)

    def _publish_all(self) -> None:
        while self._waiting:
            self._publish_one(*self._waiting[0])
            self._waiting.popleft()
        if not self._has_recovered and not self._is_last:
            self._recover()
            self._has_recovered = True

    def _publish_one(self, journal: Path, rows: int) -> int:
        """Publish and remove one journal; return its number of decisions. An unreadable journal is set aside."""
        name = f"{journal.parent.name}-{journal.stem}"
        try:
            published, skipped = publish(journal, self._url, name)
        except FileNotFoundError:
            logger.error("%s is gone, and %d decisions with it", journal, rows)
            self._count("lost", rows)
            return 0
        except UnreadableJournalError as error:
            aside = self._root / f"unreadable-{name}"
            logger.error("%s; it is renamed to %s", error, aside.name)
            journal.rename(aside)
            self._count("lost", rows)
            return 0
        if skipped:
            logger.warning("%s: skipped %d truncated lines", journal.name, skipped)
            self._count("lost", skipped)
        journal.unlink()
        return published

    def _recover(self) -> None:
        """Publish the journals of dead writers."""
        for folder in writer_folders(self._root):
            with dead_writer(folder) as journals:
                published = sum(self._publish_one(journal, 0) for journal in journals)
            if journals:
                logger.info("published %d decisions that a stopped process left", published)
