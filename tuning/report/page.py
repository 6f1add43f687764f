"""The sweep's page: the winner on the first screen, then the search and every trial."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fraud.judging.page import data_uri, fixed, number, percent, render, short
from tuning.record.journal import Trial
from tuning.record.results import Results, best_settings, objective_of
from tuning.report.importance import Importances
from tuning.report.plots import front
from tuning.report.verdict import OUTCOMES, baseline_name, count, duration, headline, verdict, winner_name
from tuning.request import resume_command, training_command

_MOST_ROWS = 60
_MOST_ON_FRONT = 10
_MOST_PAIRS = 5
_LONGEST_SETTING = 40


def page(
    results: Results,
    drawn: Mapping[str, Path | str],
    importances: Mapping[str, Importances],
    note: str,
    best_yaml: Path,
) -> str:
    """The page as HTML. drawn: by picture name, its PNG, or why there is none. importances: by detector.

    note: why a detector has none; best_yaml: where the winner's configuration is written.
    """
    made = f"begun {dt.datetime.fromtimestamp(results.request['created'], dt.UTC):%Y-%m-%d %H:%M} UTC"
    return render(
        "tuning", "sweep.html",
        results=results, made=made, headline=headline(results), verdict=verdict(results), outcomes=OUTCOMES,
        duration=duration,
        pictures={name: data_uri(path) for name, path in drawn.items() if isinstance(path, Path)},
        not_drawn={name: reason for name, reason in drawn.items() if isinstance(reason, str)},
        winner=_winner(results), next_step=_next_step(results, best_yaml), notes=_notes(importances, note),
        variants=_variants(results), front=_front(results), thresholds=_thresholds(results),
        peak_mib=max(((trial.result or {}).get("memory_mib") or 0 for trial in results.trials), default=0),
        trials=_trials(results), most_rows=_MOST_ROWS, config=json.dumps(results.request["config"], indent=1),
    )  # fmt: skip


def _winner(results: Results) -> dict[str, Any]:
    """rows: (name, objective, weight) of the best pairs, the best single trials and the baseline."""
    record = results.winner or {}
    pairs = (record.get("pairs") or ())[:_MOST_PAIRS]
    rows = [(winner_name(pair), pair.get("objective"), pair.get("weight")) for pair in pairs]
    for detector in results.detectors:
        if best := results.best(detector):
            rows.append((f"{detector} {best.number} alone", objective_of(best), None))
    if (baseline := record.get("baseline") or {}).get("objective") is not None:
        rows.append((baseline_name(baseline), baseline["objective"], None))
    settings = (record.get("winner") or {}).get("settings") or {}
    cells = [
        (short(name), short(f"{value:.6g}" if isinstance(value, float) else setting_text(value)))
        for name, value in sorted(settings.items())
    ]
    return {"rows": rows, "is_pair": bool(pairs), "settings": cells}


def _next_step(results: Results, best_yaml: Path) -> dict[str, str]:
    if not best_yaml.exists():
        return {
            "text": f"{best_yaml.name} is written when the sweep ends. To continue the sweep:",
            "command": resume_command(results.sweep_id),
        }
    return {
        "text": "Train it on all rows before the test window, and judge it on that window for the first time:",
        "command": training_command(results.request, best_yaml),
    }


def _notes(importances: Mapping[str, Importances], note: str) -> list[str]:
    left_out = sorted({name for one in importances.values() for name in one.left_out})
    notes = [f"Not compared, because only some trials have them: {', '.join(left_out)}."] if left_out else []
    return [*notes, f"No importance for {note}."] if importances and note else notes


def _variants(results: Results) -> list[tuple[str, str, str, str]]:
    """Rows for settings that need no fit: each value against the others of the same fit."""
    rows = []
    keys = dict.fromkeys(key for c in results.candidates for key in c.settings if key != "autoencoder.epochs")
    params = {trial.number: trial.params for trial in results.judged}
    for key in keys:
        best: dict[int, dict[str, float]] = {}
        for candidate in results.candidates:
            if key in candidate.settings and key not in params[candidate.trial]:
                by_value = best.setdefault(candidate.trial, {})
                text = setting_text(candidate.settings[key])
                by_value[text] = max(by_value.get(text, candidate.objective), candidate.objective)
        compared = [values for values in best.values() if len(values) > 1]
        wins = Counter(max(values, key=lambda text: values[text]) for values in compared)
        for text in dict.fromkeys(text for values in compared for text in values):
            behind = [max(values.values()) - values[text] for values in compared if text in values]
            mean = fixed(sum(behind) / len(behind))
            rows.append((short(key), short(text), f"{wins[text]} of {len(behind)}", mean))
    return rows


def _front(results: Results) -> list[dict[str, Any]]:
    """The candidates that no other beats in objective at the same or lower cost, best first."""
    best = front(results.candidates)[::-1][:_MOST_ON_FRONT]
    return [
        {
            "name": f"{one.detector} {one.trial}", "settings": _settings(one.detector, one.settings),
            "objective": one.objective, "cost": one.scoring_cost,
            "relative_cost": (one.scoring_cost or 0.0) / (best[0].scoring_cost or 1.0),
        }
        for one in best
    ]  # fmt: skip


def _thresholds(results: Results) -> dict[str, Any]:
    """The best rule of each policy, best first."""
    grid = (results.winner or {}).get("grid") or {}
    points: Sequence[Mapping[str, Any]] = grid.get("points") or []
    if not points:
        return {"facts": "", "rows": []}
    if all(point.get("judged") is None for point in points):
        return {"facts": f"{len(points):,} rules; none can be judged without known frauds.", "rows": []}
    best: dict[str, Mapping[str, Any]] = {}
    for point in sorted(points, key=lambda point: _or_lowest(point.get("judged")), reverse=True):
        best.setdefault(point["policy"], point)
    rows = [
        (
            short(_rule(point)), _judged(point.get("judged")),
            *(percent(point.get(key)) for key in ("alert_rate", "precision", "recall")),
            number(point.get("value"), ".4f"),
        )
        for point in best.values()
    ]  # fmt: skip
    facts = f"{len(points):,} rules judged in {grid.get('seconds') or 0.0:.2f} s, by {grid.get('judge')}."
    return {"facts": facts, "rows": rows}


def _trials(results: Results) -> list[dict[str, Any]]:
    """Every trial, the best first, those without an objective last."""
    judged = {trial.number for trial in results.judged}
    ranked = sorted(results.judged, key=lambda trial: -objective_of(trial))
    ranked += [trial for trial in results.trials if trial.number not in judged]
    winner = (results.winner or {}).get("winner") or {}
    chosen = {winner.get("forest"), winner.get("autoencoder")}
    return [_trial(trial, is_chosen=trial.number in chosen) for trial in ranked]


def _trial(trial: Trial, *, is_chosen: bool) -> dict[str, Any]:
    result = trial.result or {}
    steps, unit = result.get("epochs") or result.get("trees"), "epoch" if result.get("epochs") else "tree"
    base = "" if trial.params else "base configuration: "
    return {
        "name": f"{trial.detector} {trial.number}", "status": trial.status, "reason": trial.reason,
        "is_chosen": is_chosen, "settings": base + _settings(trial.detector, best_settings(trial)),
        "objective": result.get("objective"), "cost": result.get("scoring_cost"),
        "combinations": result.get("combinations"), "length": count(steps, unit) if steps else "–",
        "took": "–" if trial.ended is None else duration(trial.ended - trial.started),
    }  # fmt: skip


def setting_text(value: object) -> str:
    """A setting's value as text."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def _settings(detector: str, settings: Mapping[str, Any]) -> str:
    names = {name: name.removeprefix(f"{detector}.").removeprefix("features.") for name in settings}
    pairs = (f"{_cut(names[name])} {_cut(setting_text(value))}" for name, value in settings.items())
    return ", ".join(pairs) or "–"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SETTING else f"{text[: _LONGEST_SETTING - 1]}…"


def _or_lowest(value: float | None) -> float:
    return float("-inf") if value is None else value


def _judged(value: float | None) -> str:
    return fixed(value) if value is None or abs(value) < 10 else number(value, ",.1f")


def _rule(point: Mapping[str, Any]) -> str:
    setting = ", ".join(f"{name} {setting_text(value)}" for name, value in point["setting"].items())
    share = point.get("contamination")
    return " ".join(filter(None, [point["policy"], setting, f"at most {share:.2%} of rows" if share else ""]))
