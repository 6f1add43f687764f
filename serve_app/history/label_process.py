"""Applies labels to a shared live history in a separate process, so that requests do not wait for the GIL.

The replica that holds the lease starts the process and reads one JSON object per line from its output. Closing its
input ends it, so it also ends when the replica dies. It runs at nice 5.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from fraud.errors import FraudError
from fraud.history.definition import DAY, plans
from fraud.history.label_feed import Applied, LabelFeed, LabelFollower
from fraud.history.stores.node import NodeStore
from fraud.history.stores.shared import open_shared
from fraud.history.stores.store import LiveStore
from fraud.labels.store import LabelStore
from fraud.schema import Schema
from fraud.settings import Settings
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.transaction_index import TransactionIndex
from serve_app.history.bootstrap import HistoryContext

logger = logging.getLogger(__name__)

_RESTART_S = 5.0
_ROOT = Path(__file__).resolve().parents[2]


class Following:
    """A live history and its label feed. `poll` applies new labels. Not thread-safe."""

    def __init__(self, store: LiveStore, schema: Schema, context: HistoryContext) -> None:
        self.store = store
        self._feed = LabelFeed(context.labels)
        self._index = TransactionIndex(context.settings, context.decisions, schema)
        self._follower = LabelFollower(store, schema, self._feed, self._index.find)
        self._is_first = True

    def poll(self) -> Applied:
        """Apply the labels that the history does not know yet. Raises FraudError; the next poll retries."""
        if isinstance(self.store, NodeStore):
            self.store.recover()
        self._feed.refresh(self._follower.oldest() - DAY)
        arrived = self._index.refresh()
        applied = self._follower.follow(None if self._is_first else arrived)
        self._is_first = False
        return applied


class LabelProcess:
    """Runs a `Following` in another process and restarts it if it ends.

    on_result: called from a thread with each result or error text.
    """

    def __init__(
        self, schema: Schema, context: HistoryContext, poll_s: float, on_result: Callable[[Applied | str], None]
    ) -> None:
        self._task = json.dumps(_described(schema, context, poll_s))
        self._on_result = on_result
        self._process: subprocess.Popen[str] | None = None
        self._next_start = 0.0

    def keep_alive(self) -> None:
        """Start the process if it is not running."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() < self._next_start:
            return
        if self._process is not None:
            self._on_result(f"the label process ended with status {self._process.returncode}; restarting it")
        self._next_start = time.monotonic() + _RESTART_S
        path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "serve_app.history.label_process"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, cwd=_ROOT
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(self._task + "\n")
            process.stdin.flush()
        self._process = process
        threading.Thread(target=self._read, args=(process.stdout,), name="label-process", daemon=True).start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _read(self, output: TextIO) -> None:
        for line in output:
            content = json.loads(line)
            self._on_result(content["error"] if "error" in content else Applied(**content))


def _described(schema: Schema, context: HistoryContext, poll_s: float) -> dict[str, Any]:
    """All that the process needs, through a pipe: it may hold a password."""
    settings, decisions = dataclasses.asdict(context.settings), context.decisions
    return {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()},
        "decisions": {
            "url": decisions.url, "journal": str(decisions.journal), "omitted": decisions.omitted,
            "hashed": decisions.hashed,
        },
        "labels": context.labels.url, "schema": schema.to_dict(), "poll_s": poll_s,
    }  # fmt: skip


def _context_of(task: dict[str, Any]) -> HistoryContext:
    settings, decisions = task["settings"], task["decisions"]
    paths = {name: Path(settings[name]) for name in ("root", "state", "shared_data")}
    return HistoryContext(
        settings=Settings(**{**settings, **paths}),
        decisions=DecisionSettings(
            url=decisions["url"], journal=Path(decisions["journal"]), omitted=tuple(decisions["omitted"]),
            hashed=tuple(decisions["hashed"]),
        ),
        labels=LabelStore(task["labels"]),
    )  # fmt: skip


def _end_with_the_replica() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> int:
    """Apply labels until the input ends."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_replica, name="replica-watcher", daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(5)
    context, schema = _context_of(task), Schema.from_dict(task["schema"])
    store = open_shared(context.settings, plans(schema))
    assert store is not None, "the replica itself applies labels to a history in memory"
    following = Following(store, schema, context)
    while True:
        began = time.monotonic()
        try:
            content = dataclasses.asdict(following.poll())
        except (FraudError, OSError) as error:
            content = {"error": str(error)}
        sys.stdout.write(json.dumps(content) + "\n")
        sys.stdout.flush()
        time.sleep(max(0.05, began + task["poll_s"] - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
