"""The sweep's page: what won and by how much on the first screen, then how it was found and what every trial did."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fraud.judging import page as tag
from tuning.record.journal import Trial
from tuning.record.results import Results, best_settings, objective_of
from tuning.report.importance import Importances
from tuning.report.plots import front
from tuning.report.verdict import STATUS, count, duration, headline, named, verdict, what

Drawn = Mapping[str, Path | str]  # a picture's PNG, or why there is none
_MOST_ROWS = 60
_MOST_ON_FRONT = 10
_TITLES = {
    "winner": "What won",
    "search": "How the search went",
    "settings": "Which settings mattered",
    "cost": "What a better score costs",
    "thresholds": "Where to cut",
    "run": "How it ran",
    "trials": "Every trial",
    "method": "How the figures are made",
}


def page(results: Results, drawn: Drawn, found: Mapping[str, Importances], note: str, best_yaml: Path) -> str:
    """The whole page. drawn: by picture name; found: importances by detector.

    note: why a detector has none; best_yaml: where the winner is kept.
    """
    parts = [
        verdict(results),
        "<nav>" + " ".join(f'<a href="#{name}">{title}</a>' for name, title in _TITLES.items()) + "</nav>",
        tag.section("winner", _TITLES["winner"], _winner(results), _use(results, best_yaml)),
        tag.section("search", _TITLES["search"], _picture(drawn, "best_so_far"), _picture(drawn, "learning_curves")),
        tag.section("settings", _TITLES["settings"], _settings(results, drawn, found, note)),
        tag.section("cost", _TITLES["cost"], _picture(drawn, "pareto"), _front(results)),
        tag.section("thresholds", _TITLES["thresholds"], _thresholds(results, drawn)),
        tag.section("run", _TITLES["run"], _picture(drawn, "timeline"), _memory(results), _failures(results)),
        tag.section("trials", _TITLES["trials"], _trials(results)),
        tag.section("method", _TITLES["method"], _method(results)),
    ]
    title = f"Sweep {results.sweep_id}: {headline(results)}"
    # JSON can hold half a surrogate pair, and a file cannot.
    return tag.document(title, "".join(parts)).encode("utf-8", "replace").decode()


def _winner(results: Results) -> str:
    found = results.winner or {}
    winner = found.get("winner") or {}
    rows = []
    for place, pair in enumerate((found.get("pairs") or ())[:5]):
        rows.append([tag.text(named(pair)), tag.fixed(pair.get("objective")), tag.number(pair.get("weight"), ".2f")])
        rows[-1][0] += " " + tag.badge("ok", "best") if place == 0 else ""
    for detector in results.detectors:
        if best := results.best(detector):
            rows.append([tag.text(f"{detector} {best.number} alone"), tag.fixed(objective_of(best)), "–"])
    if (baseline := found.get("baseline") or {}).get("objective") is not None:
        rows.append([tag.text(what(baseline)), tag.fixed(baseline["objective"]), "–"])
    if not rows:
        return tag.missing({"missing": "no trial has ended with an objective"})
    compared = tag.table(["", results.objective, "forest's weight"], rows)
    chosen = winner.get("settings")
    if not chosen:
        return compared + tag.missing({"missing": "the winner is chosen at the sweep's end"})
    cells = [
        [tag.text(name), tag.text(f"{value:.6g}" if isinstance(value, float) else said(value))]
        for name, value in sorted(chosen.items())
    ]
    return f"{compared}<h3>Its settings</h3>{tag.table(['setting', 'value'], cells, names=2)}"


def _use(results: Results, best_yaml: Path) -> str:
    order = results.order
    if not best_yaml.exists():
        text = f"{best_yaml.name} is written when the sweep ends; go on with"
        command = f"python -m tuning.sweep --resume {shlex.quote(results.sweep_id)}"
    else:
        text = "Train it, on all rows before the test window, and judge it on that window for the first time:"
        parts = ["--data", order["data"], "--schema", order["schema"], "--config", best_yaml]
        command = shlex.join(["python", "-m", "ray_jobs.train", *(str(part) for part in parts)])
    return f'<h3>How to use it</h3><p>{tag.words(text)}</p><div class="wide"><code>{tag.words(command)}</code></div>'


def _settings(results: Results, drawn: Drawn, found: Mapping[str, Importances], note: str) -> str:
    names = [name for name in drawn if name.startswith("parallel_coordinates_")]
    left_out = sorted({name for one in found.values() for name in one.left_out})
    notes = [f"Not compared, as only some trials have them: {', '.join(left_out)}."] if left_out else []
    if found and note:
        notes.append(f"No importance for {note}.")
    shares = "".join(f'<p class="quiet">{tag.words(one)}</p>' for one in notes)
    parallel = "".join(_picture(drawn, name) for name in names)
    return _picture(drawn, "importance") + shares + parallel + _from_the_same_fits(results)


def _from_the_same_fits(results: Results) -> str:
    """What level two's settings are worth, each compared within the fits that have several values of it."""
    rows = []
    keys = dict.fromkeys(key for c in results.candidates for key in c.settings if key != "autoencoder.epochs")
    params = {trial.number: trial.params for trial in results.judged}
    for key in keys:
        best: dict[int, dict[str, float]] = {}
        for one in results.candidates:
            if key in one.settings and key not in params[one.trial]:
                at = best.setdefault(one.trial, {})
                text = said(one.settings[key])
                at[text] = max(at.get(text, one.objective), one.objective)
        compared = [values for values in best.values() if len(values) > 1]
        wins = Counter(max(values, key=lambda text: values[text]) for values in compared)
        for text in dict.fromkeys(text for values in compared for text in values):
            behind = [max(values.values()) - values[text] for values in compared if text in values]
            rows.append(
                [
                    tag.text(key), tag.text(text), f"{wins[text]} of {len(behind)}",
                    tag.fixed(sum(behind) / len(behind)),
                ]
            )  # fmt: skip
    if not rows:
        return ""
    heads = ["setting", "value", "best in", f"{results.objective} behind the best, mean"]
    return (
        "<h3>Settings compared within each fit</h3>"
        '<p class="quiet">These need no fit of their own: every fit was judged with each value.</p>'
        f"{tag.table(heads, rows, names=2)}"
    )


def _front(results: Results) -> str:
    """The candidates that nothing beats, best first."""
    found = front(results.candidates)[::-1][:_MOST_ON_FRONT]
    if not found:
        return ""
    dearest = found[0].scoring_cost or 1.0
    rows = [
        [
            _whole(f"{one.detector} {one.trial}"), _roomy(_short(one.detector, one.settings)), tag.fixed(one.objective),
            tag.number(one.scoring_cost), f"{(one.scoring_cost or 0.0) / dearest:.0%}",
        ]
        for one in found
    ]  # fmt: skip
    heads = ["on the front", "settings", results.objective, "scoring cost", "of the best one's"]
    return tag.table(heads, rows, names=2)


def _thresholds(results: Results, drawn: Drawn) -> str:
    grid = (results.winner or {}).get("grid") or {}
    picture = _picture(drawn, "threshold_heatmap")
    points = grid.get("points") or []
    if not points:
        return picture
    ranked = sorted(points, key=lambda point: _rank(point.get("judged")), reverse=True)
    order: list[Mapping[str, Any]] = []
    for point in ranked:
        if point["policy"] not in {other["policy"] for other in order}:
            order.append(point)
    rows = [
        [
            tag.text(_rule(point)), _judged(point.get("judged")),
            *(tag.percent(point.get(key)) for key in ("alert_rate", "precision", "recall")),
            tag.number(point.get("value"), ".4f"),
        ]
        for point in order
    ]  # fmt: skip
    heads = ["best rule of each policy", "judged", "alerts", "precision", "recall", "threshold"]
    facts = f"{len(points):,} rules judged in {grid.get('seconds') or 0.0:.2f} s, by {grid.get('judge')}."
    if all(point.get("judged") is None for point in points):
        return f'<p class="quiet">{len(points):,} rules; none can be judged without known frauds.</p>{picture}'
    return f'<p class="quiet">{tag.words(facts)}</p>{picture}{tag.table(heads, rows)}'


def _memory(results: Results) -> str:
    peaks = [(trial.result or {}).get("memory_mib") for trial in results.trials]
    known = [peak for peak in peaks if peak]
    return f'<p class="quiet">Most memory that a trial took: {max(known):,.0f} MiB.</p>' if known else ""


def _failures(results: Results) -> str:
    failed = [trial for trial in results.trials if trial.status == "failed"]
    if not failed:
        return ""
    rows = [
        [_whole(f"{trial.detector} {trial.number}"), _roomy(trial.reason), _roomy(_short_settings(trial))]
        for trial in failed
    ]
    return f"<h3>Failures</h3>{tag.table(['trial', 'reason', 'settings'], rows, names=3)}"


def _trials(results: Results) -> str:
    judged = {trial.number for trial in results.judged}
    ranked = sorted(results.judged, key=lambda trial: -objective_of(trial))
    ranked += [trial for trial in results.trials if trial.number not in judged]
    if not ranked:
        return tag.missing({"missing": "no trial has started"})
    winner = (results.winner or {}).get("winner") or {}
    chosen = {winner.get("forest"), winner.get("autoencoder")}
    heads = ["trial", "settings", "outcome", results.objective, "scoring cost", "took", "length", "combinations"]
    rows, classes = [], []
    for trial in ranked:
        result = trial.result or {}
        level, word = STATUS[trial.status]
        steps = result.get("epochs") or result.get("trees")
        length = _whole(count(steps, "epoch" if result.get("epochs") else "tree")) if steps else "–"
        took = None if trial.ended is None else trial.ended - trial.started
        rows.append(
            [
                _whole(f"{trial.detector} {trial.number}"), _roomy(_short_settings(trial)),
                tag.badge(level, word) + f"<br>{tag.words(trial.reason)}", tag.fixed(result.get("objective")),
                tag.number(result.get("scoring_cost")), "–" if took is None else _whole(duration(took)), length,
                tag.number(result.get("combinations")),
            ]
        )  # fmt: skip
        classes.append("total" if trial.number in chosen else "weak" if trial.status == "failed" else "")
    shown = tag.table(heads, rows[:_MOST_ROWS], names=3, classes=classes)
    text = "Best first; bold is the winner. Settings: as sampled, then those of the fit's best candidate."
    rest = ""
    if len(rows) > _MOST_ROWS:
        more = tag.table(heads, rows[_MOST_ROWS:], names=3, classes=classes[_MOST_ROWS:])
        rest = f"<details><summary>{len(rows) - _MOST_ROWS} more</summary>{more}</details>"
    return f'<p class="quiet">{text}</p>{shown}{rest}'


def _method(results: Results) -> str:
    order = results.order
    said_all = [
        f"A trial fits one detector once on the training window and is judged by its {results.objective} on the "
        "validation window. What needs no fit of its own (sizes of the forest, epochs, kinds of score, weights of the "
        "join, thresholds) is judged on the scores of that fit; combinations counts all of these.",
        "The winner is the best of many on the window that chose it, so its figure flatters it a little. The test "
        "window has not been read: train with best.yaml to see what is left there.",
    ]
    if any(trial.status == "stopped" for trial in results.trials):
        text = "Epochs saved: those that stopped trials did not run of the most they were allowed."
        said_all.append(f"{text} The network's own patience might have spared some of them too.")
    if order.get("time_budget_s"):
        said_all.append(f"The sweep was given {duration(order['time_budget_s'])}.")
    shown = "".join(f"<p>{tag.words(text)}</p>" for text in said_all)
    space = (
        f"<details><summary>The search space</summary><pre>{_block(order['space'] or 'the default')}</pre></details>"
    )
    config = f"<details><summary>The configuration given</summary><pre>{_block(json.dumps(order['config'], indent=1))}"
    return f"{shown}{space}{config}</pre></details>"


def _picture(drawn: Drawn, name: str) -> str:
    found = drawn[name]
    if isinstance(found, str):
        return tag.missing({"missing": found})
    kind = "whole"
    return tag.pictures(tag.picture(lambda path: shutil.copyfile(found, path), name.replace("_", " "), kind))


def _whole(value: str) -> str:
    """A short cell on one line."""
    return f'<span style="white-space: nowrap">{tag.text(value)}</span>'


def _roomy(value: str) -> str:
    """A long cell that is not squeezed to a word a line."""
    return f'<div style="min-width: 300px">{tag.words(value)}</div>'


def said(value: object) -> str:
    """A setting's value as text."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def _short_settings(trial: Trial) -> str:
    given = "" if trial.params else "the configuration given: "
    return given + _short(trial.detector, best_settings(trial))


def _short(detector: str, settings: Mapping[str, Any]) -> str:
    shown = {
        name.removeprefix(f"{detector}.").removeprefix("features."): said(value) for name, value in settings.items()
    }
    return ", ".join(f"{_cut(name)} {_cut(value)}" for name, value in shown.items()) or "–"


def _cut(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:39]}…"


def _rank(value: float | None) -> float:
    return float("-inf") if value is None else value


def _judged(value: float | None) -> str:
    return tag.fixed(value) if value is None or abs(value) < 10 else tag.number(value, ",.1f")


def _rule(point: Mapping[str, Any]) -> str:
    setting = ", ".join(f"{name} {said(value)}" for name, value in point["setting"].items())
    share = point.get("contamination")
    return " ".join(filter(None, [point["policy"], setting, f"at most {share:.2%} of rows" if share else ""]))


def _block(text: str) -> str:
    """Several lines as text that means nothing to HTML."""
    return "\n".join(tag.words(line) for line in text.splitlines())
