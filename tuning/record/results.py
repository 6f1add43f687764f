"""The results of a sweep so far, read from its journal: trials, candidates, the winner, epochs saved, attempts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from tuning.record.journal import WINNER, Journal, Trial, fold

DETECTORS = ("forest", "autoencoder")
_LEVEL_ONE_STEP = {"autoencoder": "autoencoder.epochs", "forest": "forest.n_estimators"}


@dataclass(frozen=True)
class Candidate:
    """One judged variant of a trial's fit. settings: the trial's and the variant's own, dotted.

    scoring_cost: multiply-adds and node visits per row. is_best: the trial's result is this candidate's.
    """

    trial: int
    detector: str
    settings: dict[str, Any]
    objective: float
    scoring_cost: float | None
    is_best: bool


@dataclass(frozen=True)
class Attempt:
    """One run of a trial on a worker. start, end: seconds since 1970. outcome: a trial's status, or "lost" (killed)."""

    trial: int
    detector: str
    worker: str
    start: float
    end: float
    outcome: str


@dataclass(frozen=True)
class Results:
    """The journal at one instant. request: sweep.json. winner: winner.json, None before the sweep's end."""

    sweep_id: str
    request: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]
    winner: Mapping[str, Any] | None

    @classmethod
    def read(cls, journal: Journal) -> Results:
        """Read the journal; its sweep may be running. Raises ConfigError when sweep.json is missing or damaged."""
        request = journal.read_request()
        try:
            winner = json.loads((journal.path / WINNER).read_text())
        except (OSError, ValueError):  # missing, or half written
            winner = None
        return cls(journal.sweep_id, request, tuple(journal.events()), winner)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial that was started, by number."""
        return tuple(fold([dict(event) for event in self.events]).values())

    @cached_property
    def objective(self) -> str:
        """The objective's name in words."""
        return str(self.request["objective_name"]).replace("_", " ")

    @property
    def has_labels(self) -> bool:
        """Whether real labels judge the trials."""
        return self.request["objective_name"] == "average_precision"

    @cached_property
    def state(self) -> str:
        """ "finished" (a winner is chosen), "closed" (its driver ended before that) or "open"."""
        if self.winner is not None:
            return "finished"
        drivers = [event["event"] for event in self.events if event["event"] in ("opened", "closed")]
        return "closed" if drivers and drivers[-1] == "closed" else "open"

    @cached_property
    def judged(self) -> tuple[Trial, ...]:
        """Trials that ended with an objective, in the order in which they ended."""
        judged = [trial for trial in self.trials if trial.result and trial.result.get("objective") is not None]
        return tuple(sorted(judged, key=lambda trial: trial.ended or 0.0))

    @cached_property
    def detectors(self) -> tuple[str, ...]:
        """The detectors of the started trials, in the order of the pictures."""
        present = {trial.detector for trial in self.trials}
        return (*(d for d in DETECTORS if d in present), *sorted(present - set(DETECTORS)))

    def sampled(self, detector: str) -> tuple[Trial, ...]:
        """Judged trials of a detector with sampled settings: its first trial, the base configuration, has none."""
        return tuple(trial for trial in self.judged if trial.detector == detector and trial.params)

    def best(self, detector: str | None = None) -> Trial | None:
        """The trial with the highest objective, of all or of one detector."""
        trials = [trial for trial in self.judged if detector in (None, trial.detector)]
        return max(trials, key=objective_of, default=None)

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every judged variant of every fit."""
        return tuple(candidate for trial in self.judged for candidate in _candidates(trial))

    def most(self, detector: str) -> int | None:
        """Epochs, or trees, of a trial that runs to its end; None if unknown."""
        section, key = _LEVEL_ONE_STEP[detector].split(".")
        try:
            space = yaml.safe_load(self.request["space"] or "")
        except yaml.YAMLError:
            space = None
        for raw in (space, self.request["config"]):
            part = raw.get(section) if isinstance(raw, Mapping) else None
            value = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(value, Mapping):
                value = max((v for v in value.get("choice") or () if isinstance(v, int)), default=None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    def saved(self, detector: str) -> tuple[int, int]:
        """(run, saved): epochs or trees that all ended trials ran, and that early stopping saved.

        Failed trials are not counted. `saved` is an upper bound: a network might have ended early by itself.
        """
        key = "epochs" if detector == "autoencoder" else "trees"
        run = saved = 0
        for trial in self.trials:
            done = (trial.result or {}).get(key)
            if trial.detector == detector and done is not None:
                run += done
                if trial.status == "stopped":
                    saved += max((self.most(detector) or done) - done, 0)
        return run, saved

    @cached_property
    def fits(self) -> int:
        """Fits of the trials that ended with a result."""
        return sum((trial.result or {}).get("fits", 0) for trial in self.trials)

    @cached_property
    def combinations(self) -> int:
        """Settings that those fits covered: candidates, each with every threshold combination."""
        return sum((trial.result or {}).get("combinations", 0) for trial in self.trials)

    @cached_property
    def now(self) -> float:
        """The time of the last event, seconds since 1970."""
        return max((event["time"] for event in self.events if "time" in event), default=self.request["created"])

    @cached_property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts by start; a trial has a further one after each kill."""
        return tuple(sorted(_attempts(self.events, self.now), key=lambda attempt: attempt.start))

    @cached_property
    def clock(self) -> Clock:
        """The sweep's working time."""
        return Clock.of(float(self.request["created"]), self.attempts)


@dataclass(frozen=True)
class Clock:
    """The time in which the sweep ran, without long pauses between drivers.

    pieces: (start, end), seconds since 1970, in order.
    """

    pieces: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, created: float, attempts: tuple[Attempt, ...]) -> Clock:
        """Count from `created`. A pause is longer than a minute and than a tenth of the work, with no trial running."""
        pause = max(60.0, 0.1 * sum(attempt.end - attempt.start for attempt in attempts))
        pieces = [(created, created)]
        for attempt in attempts:
            start, end = pieces[-1]
            if attempt.start - end <= pause:
                pieces[-1] = (start, max(end, attempt.end))
            else:
                pieces.append((attempt.start, attempt.end))
        return cls(tuple(pieces))

    def seconds(self, instant: float) -> float:
        """Seconds of work before an instant."""
        return sum(min(max(instant - start, 0.0), end - start) for start, end in self.pieces)

    @property
    def total(self) -> float:
        """Seconds of work in all."""
        return sum(end - start for start, end in self.pieces)

    @property
    def pauses(self) -> tuple[float, ...]:
        """Seconds of work at which a pause was cut out."""
        return tuple(self.seconds(start) for start, _ in self.pieces[1:])


def running_at_once(attempts: tuple[Attempt, ...], clock: Clock) -> list[tuple[float, int]]:
    """(second of work, trials that run from then on), in order."""
    changes: dict[float, int] = {}
    for attempt in attempts:
        start, end = clock.seconds(attempt.start), clock.seconds(attempt.end)
        if end > start:
            changes[start] = changes.get(start, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    steps, level = [(0.0, 0)], 0
    for second, change in sorted(changes.items()):
        level += change
        steps.append((second, level))
    return steps


def objective_of(trial: Trial) -> float:
    """A judged trial's objective."""
    assert trial.result is not None
    return float(trial.result["objective"])


def best_settings(trial: Trial) -> dict[str, Any]:
    """A judged trial's settings with those of its best candidate."""
    return next((c.settings for c in _candidates(trial) if c.is_best), dict(trial.params))


def _candidates(trial: Trial) -> Iterator[Candidate]:
    result = trial.result or {}
    for index, candidate in enumerate(result.get("candidates") or ()):
        if candidate.get("objective") is not None:
            yield Candidate(
                trial.number, trial.detector, {**trial.params, **candidate["settings"]}, float(candidate["objective"]),
                candidate.get("scoring_cost"), index == result.get("best"),
            )  # fmt: skip


def _attempts(events: tuple[Mapping[str, Any], ...], now: float) -> Iterator[Attempt]:
    running: dict[int, dict[str, Any]] = {}

    def ended(number: int, at: float, outcome: str) -> Attempt:
        one = running.pop(number)
        return Attempt(
            number, one["detector"], one["worker"] or "unknown", one["start"], max(at, one["start"]), outcome
        )

    last = 0.0
    for event in events:
        number, kind = event.get("number", 0), event["event"]
        if kind == "opened":  # trials of an earlier driver ran at least until its last event
            for lost in list(running):
                yield ended(lost, last, "lost")
        elif kind == "started":
            if number in running:  # a worker died, the driver did not
                yield ended(number, running[number]["seen"], "lost")
            worker = event.get("worker") or ""
            running[number] = {
                "detector": event["detector"], "worker": worker, "start": event["time"], "seen": event["time"],
            }  # fmt: skip
        elif kind in ("rung", "ended") and number in running:
            running[number] |= {"seen": event["time"], "worker": event.get("worker") or running[number]["worker"]}
            if kind == "ended":
                yield ended(number, event["time"], event["status"])
        last = max(last, event.get("time", 0.0))
    for number in list(running):
        yield ended(number, now, "running")
