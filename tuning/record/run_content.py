"""The MLflow content of a sweep and its trials: names, tags, parameters, points. Computed from the journal; no calls.

Every point has the time of its event, and a metric has one point per step. So the same journal always gives the same
list, which only grows at its end: the number of copied points determines what is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from fraud.registry.runs import Point
from tuning.record.journal import Trial, fold

SWEEP, CREATED, TRIAL = "sweep", "sweep_created", "trial"  # tags that identify runs
SPACE = "space"  # this text of the request becomes an artifact, not a parameter
_OUTCOME = ("objective", "scoring_cost", "seconds", "fits", "epochs", "trees", "combinations", "memory_mib")
_MAX_NAME = 250


class SweepContent:
    """The MLflow content of a sweep after the events added so far."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._points: dict[int, list[Point]] = {}
        self._known: dict[int, set[tuple[str, int]]] = {}
        self._detectors: dict[int, str] = {}
        self._best: dict[str, float] = {}
        self._ended = 0
        self.parent_points: list[Point] = []

    @property
    def n_events(self) -> int:
        """Events added so far."""
        return len(self._events)

    def add(self, events: Sequence[dict[str, Any]]) -> None:
        """Add the journal's next events."""
        for event in events:
            if event["event"] == "started":
                self._points.setdefault(event["number"], [])
                self._known.setdefault(event["number"], set())
                self._detectors[event["number"]] = event["detector"]
            elif event["event"] == "rung":
                self._add_once(event["number"], _rung_points(event))
            elif event["event"] == "ended" and event.get("result"):
                self._add_once(event["number"], _outcome_points(event))
            if event["event"] == "ended":
                self._follow_best(event)
        self._events += events

    def trials(self) -> list[Trial]:
        """Every trial, by number."""
        return list(fold(self._events).values())

    def points(self, number: int) -> list[Point]:
        """A trial's points, in the order of the journal."""
        return self._points[number]

    def _add_once(self, number: int, points: Iterator[Point]) -> None:
        # After a kill a trial may repeat reports that are in the journal already.
        for point in points:
            if (point.key, point.step) not in self._known[number]:
                self._known[number].add((point.key, point.step))
                self._points[number].append(point)

    def _follow_best(self, event: Mapping[str, Any]) -> None:
        self._ended += 1
        objective = (event.get("result") or {}).get("objective")
        name = f"best_{self._detectors[event['number']]}_objective"
        if _is_number(objective) and objective > self._best.get(name, -math.inf):
            self._best[name] = objective
            self.parent_points.append(Point(name, objective, self._ended, milliseconds(event["time"])))


def parent_name(request: Mapping[str, Any]) -> str:
    """The parent run's name."""
    return f"sweep {request['schema']}"


def description(sweep_id: str, request: Mapping[str, Any], winner: Mapping[str, Any] | None = None) -> str:
    """The parent's description, Markdown. winner: winner.json, once the sweep has ended."""
    objective = request.get("objective_name") or "objective"
    best, baseline = ((winner or {}).get(key) or {} for key in ("winner", "baseline"))
    if not _is_number(best.get("objective")):
        result = f"Searches settings for the best {objective} on the validation window."
    else:
        trials = ", ".join(f"{name} {best[name]}" for name in ("forest", "autoencoder") if best.get(name) is not None)
        result = f"**{objective} {best['objective']:.3f}** on validation, by {trials or 'the configuration chosen'}"
        known = _is_number(baseline.get("objective"))
        result += f"; before the sweep {baseline['objective']:.3f}." if known else "."
    settings = ", ".join(f"`{name}={value}`" for name, value in sorted((best.get("settings") or {}).items()))
    lines = [
        result,
        "",
        f"- **Data** `{request.get('data')}`, schema {request.get('schema')}, seed {request.get('seed')}.",
        f"- **Trials** {request.get('trials')}, each a child of this run.",
        *([f"- **Settings** {settings}."] if settings else []),
        "",
        f"Next: `python -m tuning.report --sweep {sweep_id} --outdir FOLDER` writes the page; best.yaml among the "
        "artifacts is the configuration for `python -m ray_jobs.train --config`.",
    ]
    return "\n".join(lines)


def identity(sweep_id: str, request: Mapping[str, Any]) -> dict[str, str]:
    """Tags that every run of this sweep carries and no other run does."""
    return {SWEEP: sweep_id, CREATED: repr(request["created"])}


def parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings on one level with dotted names that MLflow takes; the text of the space is left out."""
    return {
        re.sub(r"[^\w\-. :]", "_", name)[:_MAX_NAME]: str(value)
        for name, value in _flat({key: value for key, value in settings.items() if key != SPACE})
    }


def status(trial: Trial, *, is_closing: bool) -> str:
    """MLflow's status of a trial's run. is_closing: the sweep ends, so a running trial was interrupted."""
    if trial.status == "running":
        return "KILLED" if is_closing else "RUNNING"
    return "FAILED" if trial.status == "failed" else "FINISHED"


def tags(trial: Trial, run_status: str) -> dict[str, str]:
    """How the run ended, or that it runs: `outcome` in one word, `end` in a sentence."""
    if run_status == "RUNNING":
        return {"outcome": "running"}
    if run_status == "KILLED":
        return {"outcome": "interrupted", "end": "the sweep was interrupted; resuming it continues this trial"}
    named = {"outcome": trial.status, "end": trial.reason, "worker": trial.worker}
    if trial.result and trial.result.get("candidates"):
        chosen = trial.result["candidates"][trial.result["best"]]["settings"]
        named["settings"] = ", ".join(f"{name}={value}" for name, value in chosen.items())
    thresholds = (trial.result or {}).get("thresholds") or {}
    if best := thresholds.get("best"):
        named["threshold"] = f"{best.get('policy')} {best.get('settings')}, judged {best.get('judged')}"
    return named


def winner_points(winner: Mapping[str, Any], time_ms: int) -> list[Point]:
    """The parent's last points: the objectives of winner and baseline (winner.json)."""
    values = {name: (winner.get(name) or {}).get("objective") for name in ("winner", "baseline")}
    return [Point(f"{name}_objective", value, 0, time_ms) for name, value in values.items() if _is_number(value)]


def milliseconds(seconds: float) -> int:
    """Seconds since 1970 as milliseconds, MLflow's unit."""
    return int(seconds * 1000)


def _rung_points(event: Mapping[str, Any]) -> Iterator[Point]:
    for epoch in event["epochs"]:
        for key in ("train_error", "validation_error"):
            if _is_number(epoch.get(key)):
                yield Point(key, epoch[key], epoch["epoch"], milliseconds(epoch["time"]))
    if _is_number(event["objective"]):
        yield Point("rung_objective", event["objective"], event["step"], milliseconds(event["time"]))


def _outcome_points(event: Mapping[str, Any]) -> Iterator[Point]:
    for key in _OUTCOME:
        value = event["result"].get(key)
        if _is_number(value):
            yield Point(key, value, 0, milliseconds(event["time"]))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
