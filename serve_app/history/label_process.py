"""Follows labels for a shared live history in a process of its own, so that requests do not wait for Python's lock.

The replica that leads starts it, reads what it did from its output, a JSON object a line, and ends it by closing its
input; it ends by itself when the replica dies. It gives way to the replicas (nice 5).
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
from serve_app.history.begin import Surroundings

logger = logging.getLogger(__name__)

_RESTART_S = 5.0
_ROOT = Path(__file__).resolve().parents[2]


class Following:
    """A live history that follows labels: `look` applies what is new. Not to be shared by threads."""

    def __init__(self, store: LiveStore, schema: Schema, around: Surroundings) -> None:
        self.store = store
        self._feed = LabelFeed(around.labels)
        self._index = TransactionIndex(around.settings, around.decisions, schema)
        self._follower = LabelFollower(store, schema, self._feed, self._index.find)
        self._is_first = True

    def look(self) -> Applied:
        """Apply the labels that the history does not know yet. Raises FraudError; it is tried again next time then."""
        if isinstance(self.store, NodeStore):
            self.store.recover()
        self._feed.refresh(self._follower.oldest() - DAY)
        arrived = self._index.refresh()
        applied = self._follower.follow(None if self._is_first else arrived)
        self._is_first = False
        return applied


class LabelProcess:
    """Runs a `Following` in another process, and starts it again where it ends.

    told: called, in a thread, with what was done, or with the text of an error.
    """

    def __init__(
        self, schema: Schema, around: Surroundings, poll_s: float, told: Callable[[Applied | str], None]
    ) -> None:
        self._task = json.dumps(_described(schema, around, poll_s))
        self._told = told
        self._process: subprocess.Popen[str] | None = None
        self._next_start = 0.0

    def keep_alive(self) -> None:
        """Start the process where it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() < self._next_start:
            return
        if self._process is not None:
            self._told(f"the process that follows labels ended ({self._process.returncode}); it is started again")
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
        """End it."""
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
            self._told(content["error"] if "error" in content else Applied(**content))


def _described(schema: Schema, around: Surroundings, poll_s: float) -> dict[str, Any]:
    """All that the process needs, through a pipe: it may hold a password."""
    settings, decisions = dataclasses.asdict(around.settings), around.decisions
    return {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()},
        "decisions": {
            "url": decisions.url, "journal": str(decisions.journal), "omitted": decisions.omitted,
            "hashed": decisions.hashed,
        },
        "labels": around.labels.url, "schema": schema.to_dict(), "poll_s": poll_s,
    }  # fmt: skip


def _surroundings(task: dict[str, Any]) -> Surroundings:
    settings, decisions = task["settings"], task["decisions"]
    paths = {name: Path(settings[name]) for name in ("root", "state", "shared_data")}
    return Surroundings(
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
    """Follow until the input ends."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_replica, name="replica-watcher", daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(5)
    around, schema = _surroundings(task), Schema.from_dict(task["schema"])
    store = open_shared(around.settings, plans(schema))
    assert store is not None, "a history in memory is followed in its own process"
    following = Following(store, schema, around)
    while True:
        began = time.monotonic()
        try:
            content = dataclasses.asdict(following.look())
        except (FraudError, OSError) as error:
            content = {"error": str(error)}
        sys.stdout.write(json.dumps(content) + "\n")
        sys.stdout.flush()
        time.sleep(max(0.05, began + task["poll_s"] - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
