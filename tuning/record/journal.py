"""A sweep's folder on disk: enough to resume after a kill, to write the report, and to fill MLflow later.

<state>/sweeps/<id>.lock            locked by the driver that runs the sweep
<state>/sweeps/<id>/sweep.json      the request: data and its fingerprint, schema, configuration, space, options
<state>/sweeps/<id>/trials.jsonl    every trial's events, one line each, flushed before the next step
<state>/sweeps/<id>/trials/0007/    checkpoints of trial 7: its state after each rung, the scores of its best

Only the driver writes sweep.json and trials.jsonl; each trial writes its own folder. No file is a pickle.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fraud.data.locks import HeldElsewhereError, exclusive
from fraud.errors import ConfigError, DataError

REQUEST, EVENTS, TRIALS, WINNER = "sweep.json", "trials.jsonl", "trials", "winner.json"
Detector = Literal["forest", "autoencoder"]
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Trial:
    """One trial, read from the events.

    number: 1, 2, ...; params: dotted settings, named as in the space; worker: "node/pid" of its last process;
    started, ended: seconds since 1970, of its last attempt; status: "running" also after its driver was killed,
    "stopped" means early, by the scheduler; reason: why it ended, as text.
    rungs: one report per rung, without repeats: {"step", "time", "objective", "epochs": [...]}.
    result: see DetectorTrial._result.
    """

    number: int
    detector: Detector
    params: dict[str, Any]
    started: float
    worker: str = ""
    status: Status = "running"
    reason: str = ""
    ended: float | None = None
    rungs: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it finished, failed or was stopped."""
        return self.status != "running"


@dataclass(frozen=True)
class Journal:
    """A sweep's folder."""

    path: Path

    @property
    def sweep_id(self) -> str:
        """The name that `--resume` takes."""
        return self.path.name

    def trial_folder(self, number: int) -> Path:
        """The folder of a trial's own files, created if missing."""
        folder = self.path / TRIALS / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_request(self, request: Mapping[str, Any]) -> None:
        """Write the request atomically."""
        draft = self.path / f".{REQUEST}"
        draft.write_text(json.dumps(request, indent=1))
        draft.replace(self.path / REQUEST)

    def read_request(self) -> dict[str, Any]:
        """The saved request. Raises ConfigError when it is missing or damaged."""
        try:
            request: dict[str, Any] = json.loads((self.path / REQUEST).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"sweep {self.sweep_id!r} cannot be resumed: {self.path / REQUEST} is missing or damaged ({error}); "
                "start a new sweep"
            ) from None
        return request

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event and flush it to disk. Raises DataError when that fails."""
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        try:
            with (self.path / EVENTS).open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(
                f"the journal of sweep {self.sweep_id!r} cannot be written ({error}): free some space in "
                f"{self.path.parent}, then resume with --resume {self.sweep_id}"
            ) from error

    def mend(self) -> None:
        """Cut off an incomplete last line that a killed driver left."""
        file = self.path / EVENTS
        if file.exists():
            content = file.read_bytes()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                with file.open("r+b") as opened:
                    opened.truncate(end)

    def events(self, start: int = 0) -> list[dict[str, Any]]:
        """Events from the `start`-th; an incomplete last line is skipped."""
        file = self.path / EVENTS
        if not file.exists():
            return []
        text = file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()[start:]]

    def trials(self) -> dict[int, Trial]:
        """Every trial by number, in order."""
        return fold(self.events())


def fold(events: list[dict[str, Any]]) -> dict[int, Trial]:
    """Read events in order into trials by number.

    started {number, detector, params, time}: begins a trial, or begins it again after a kill. rung {number, step, time,
    objective, epochs, worker}. ended {number, status, reason, time, result, worker}. Other events (opened and closed,
    by a driver) concern no trial.
    """
    trials: dict[int, Trial] = {}
    for event in events:
        if event["event"] == "started":
            known = trials.get(event["number"])
            if known is None:
                trials[event["number"]] = Trial(
                    event["number"], event["detector"], event["params"], event["time"], event.get("worker", "")
                )
            else:
                known.started, known.status, known.ended = event["time"], "running", None
        elif event["event"] in ("rung", "ended"):
            trial = trials[event["number"]]
            trial.worker = event.get("worker") or trial.worker
            if event["event"] == "rung":
                rungs = [rung for rung in trial.rungs if rung["step"] < event["step"]]
                trial.rungs = [*rungs, {k: event[k] for k in ("step", "time", "objective", "epochs")}]
            else:
                trial.status, trial.reason = event["status"], event["reason"]
                trial.ended, trial.result = event["time"], event["result"]
    return dict(sorted(trials.items()))


def folder_of(root: Path, sweep_id: str) -> Path:
    """A sweep's folder below `root`. Raises ConfigError for a malformed id."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", sweep_id):
        raise ConfigError(f"sweep {sweep_id!r} is not a valid name: use letters, digits, '-', '_' and '.'")
    return root / sweep_id


@contextmanager
def locked_journal(root: Path, sweep_id: str, *, must_exist: bool) -> Iterator[Journal]:
    """Open a sweep's journal under its lock. Raises ConfigError: unknown or malformed id, or another driver runs it."""
    folder = folder_of(root, sweep_id)
    if must_exist and not (folder / REQUEST).exists():
        known = sorted(path.parent.name for path in root.glob(f"*/{REQUEST}"))[-5:]
        raise ConfigError(
            f"no sweep {sweep_id!r} in {root}: " + (f"the newest are {', '.join(known)}" if known else "there is none")
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(root / f"{sweep_id}.lock", wait=False))
            folder.mkdir(exist_ok=True)
            journal = Journal(folder)
            journal.mend()
        except HeldElsewhereError as error:
            raise ConfigError(f"sweep {sweep_id!r} is running already ({error}): wait for it or stop it") from None
        except OSError as error:
            raise ConfigError(
                f"cannot keep a sweep in {root} ({error}): set FRAUD_STATE to a writable folder"
            ) from error
        yield journal
