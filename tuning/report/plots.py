"""Plots of a sweep's results: best so far, parallel coordinates, importance, Pareto front.

Each writes one PNG with the finding as its title and returns its path. Raises DataError when there is nothing to draw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fraud.errors import DataError
from fraud.judging import plot_style as style
from tuning.record.results import Candidate, Results, best_settings, objective_of
from tuning.report.importance import Importances, is_log, is_scale

WITHIN = 0.01  # a smaller difference between two objectives may be chance on the validation window
_MOST_AXES = 16
_MOST_BARS = 14


def plain(value: object, most: int = 32) -> str:
    """A setting's value or name for a picture: short, printable, without matplotlib formulas."""
    if isinstance(value, float):
        text = f"{value:.3g}"
    elif isinstance(value, list | tuple) and all(isinstance(part, int) for part in value):
        text = "-".join(str(part) for part in value)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")


def time_unit(total: float) -> tuple[float, str]:
    """(seconds in it, name) of the unit that suits a span of `total` seconds."""
    return (3600.0, "hours") if total > 7200 else (60.0, "minutes") if total > 180 else (1.0, "seconds")


def tail(name: str, most: int = 32) -> str:
    """The last part of a dotted setting name."""
    return plain(name.rpartition(".")[2] or name, most)


def best_so_far(results: Results, path: str | Path) -> Path:
    """Best objective by trials ended and by time, one line per detector, with the winner and the baseline."""
    if not results.judged:
        raise DataError("no trial has ended with an objective yet")
    figure, panels = style.new_figure(2, height=4.4, sharey=True)
    clock, last = results.clock, len(results.judged)
    divisor, unit = time_unit(clock.total)
    ends = (last, clock.total / divisor)
    for detector in results.detectors:
        own = [(n, trial) for n, trial in enumerate(results.judged, 1) if trial.detector == detector]
        if not own:
            continue
        values = np.array([objective_of(trial) for _, trial in own])
        colour, best = style.colour_of(detector, results.detectors), np.maximum.accumulate(values)
        spent = [clock.seconds(trial.ended or results.now) / divisor for _, trial in own]
        positions = [float(n) for n, _ in own]
        for axes, x, end in zip(panels, (positions, spent), ends, strict=True):
            axes.plot(x, values, "o", color=colour, alpha=0.35, markersize=4.5, markeredgewidth=0)
            label = f"{detector}  {best[-1]:.3f}"
            axes.step([*x, max(end, x[-1])], [*best, best[-1]], where="post", color=colour, linewidth=2, label=label)
    record = results.winner or {}
    winner, baseline = record.get("winner") or {}, record.get("baseline") or {}
    for axes, end in zip(panels, ends, strict=True):
        if winner.get("objective") is not None:
            kind = "joined" if is_pair(winner) else "winner"
            axes.plot(
                [end], [winner["objective"]], "D", color=style.COLOURS["joined"], markersize=9, markeredgecolor="white",
                zorder=6, clip_on=False, label=f"{kind}  {winner['objective']:.3f}",
            )  # fmt: skip
        if baseline.get("objective") is not None:
            style.horizontal_line(
                axes,
                baseline["objective"],
                f"{plain(baseline.get('what') or 'before', 40)}: {baseline['objective']:.3f}",
            )
    panels[0].set(xlabel="trials ended", ylabel=f"{results.objective}, validation")
    panels[1].set_xlabel(f"{unit} of work")
    _integers(panels[0].xaxis)
    panels[0].set_xlim(left=min(0.5, last - 0.5))
    panels[1].set_xlim(left=0)
    style.header_legend(figure, panels[0])
    top = max(results.judged, key=objective_of)
    at = next(n for n, trial in enumerate(results.judged, 1) if trial.number == top.number)
    title = f"Best single detector: {top.detector} {top.number}, {at}{_ordinal(at)} of {last} trials to end"
    if is_pair(winner) and winner.get("objective") is not None:
        title += f"; the pair gains {winner['objective'] - objective_of(top):+.3f}"
    return style.save(figure, path, title, "dots: trials; lines: best so far")


def parallel_coordinates(results: Results, detector: str, path: str | Path, important: Sequence[str] = ()) -> Path:
    """One line per sampled trial through its settings and its best candidate's, coloured by the objective.

    important: settings that come first in the title, and that are drawn when there are too many for all.
    """
    from matplotlib import colormaps

    own = sorted(results.sampled(detector), key=lambda trial: (objective_of(trial), -(trial.ended or 0.0)))
    if not own:
        raise DataError(f"no sampled {detector} has ended with an objective yet")
    rows = [best_settings(trial) for trial in own]
    varying = _varying(rows)
    ranked = [name for name in important if name in varying]
    chosen = [*ranked, *(name for name in varying if name not in ranked)][: _MOST_AXES - 1]
    names = [name for name in varying if name in chosen]
    objective = np.array([objective_of(trial) for trial in own])
    span = float(np.ptp(objective))
    figure, (axes,) = style.new_figure(height=4.6)
    figure.set_size_inches(11, 4.6)
    axes.grid(False)
    columns = [_axis([row.get(name) for row in rows]) for name in names] + [_axis(objective.tolist())]
    colours = colormaps["cividis_r"](0.05 + 0.9 * ((objective - objective.min()) / span if span else objective * 0 + 1))
    x = np.arange(len(columns))
    for index in range(len(own)):
        is_best = index == len(own) - 1
        heights = [heights[index] for heights, _ in columns]
        line: dict[str, Any] = {"color": colours[index], "linewidth": 1.5, "alpha": 0.75}
        if is_best:
            line = {"color": style.FRAUD, "linewidth": 3.2, "zorder": 4}
        axes.plot(x, heights, "-", solid_capstyle="round", **line)
        if len(columns) == 1:
            axes.plot(x, heights, "o", color=style.FRAUD if is_best else colours[index])
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
    for position, (_, ticks) in enumerate(columns):
        axes.axvline(position, color="#9AA5B1", linewidth=1, zorder=3)
        for height, text in ticks:
            axes.annotate(
                text, (position, height), (4, 0), textcoords="offset points", fontsize=8, color=style.INK, va="center",
                bbox=box, zorder=5,
            )  # fmt: skip
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(x, [*(tail(name, 16) for name in names), results.objective.replace(" ", "\n")])
    axes.tick_params(axis="x", labelsize=9, colors=style.INK, labelrotation=25 if len(names) > 7 else 0)
    axes.set(xlim=(-0.15, len(columns) - 1 + 0.75), ylim=(-0.06, 1.06))
    best = ", ".join(f"{tail(name, 16)} {plain(rows[-1].get(name), 14)}" for name in chosen[:4])
    title = f"Best {detector}: trial {own[-1].number}, {objective[-1]:.3f}" + (f" ({best})" if best else "")
    subtitle = f"{len(own)} sampled trials: darker is better, red is best; settings that vary" + (
        f", {len(names)} of {len(varying)}" if len(varying) > len(names) else ""
    )
    return style.save(figure, path, title, subtitle)


def importance(importances: Mapping[str, Importances], path: str | Path) -> Path:
    """Bars of each detector's importances, one panel per detector."""
    if not importances:
        raise DataError("no detector has enough judged trials")
    longest = min(_MOST_BARS, max(len(one.shares) for one in importances.values()))
    figure, panels = style.new_figure(len(importances), height=1.7 + 0.3 * max(longest, 3))
    figure.set_size_inches(8.4, figure.get_figheight())
    for axes, (detector, one) in zip(panels, importances.items(), strict=True):
        shown = list(one.shares.items())[:_MOST_BARS]
        axes.barh(range(len(shown)), [v for _, v in shown], color=style.colour_of(detector, importances), height=0.66)
        for row, (_, value) in enumerate(shown):
            axes.annotate(
                f"{value:.0%}", (value, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5,
                color=style.INK,
            )  # fmt: skip
        axes.set_yticks(range(len(shown)), [_without(name, detector) for name, _ in shown])
        axes.set(xlim=(0, 1.15 * max(one.shares.values())), ylim=(max(longest, 3) - 0.4, -0.6))
        axes.set_xlabel(f"{detector}: share of the variation")
        style.percent(axes.xaxis)
        axes.grid(False, axis="y")
    first = "; ".join(
        f"{detector} by {_without(name, detector)}"
        for detector, one in importances.items()
        for name in list(one.shares)[:1]
    )  # fmt: skip
    methods = "; ".join(f"{detector}: {one.method} on {one.trials} trials" for detector, one in importances.items())
    few = min(one.trials for one in importances.values()) < 40
    title = f"Most important setting: {first}"
    return style.save(figure, path, title, methods + (" (few trials: a rough guide)" if few else ""))


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front of objective and scoring cost, cheapest first."""
    best: list[Candidate] = []
    for one in sorted((c for c in candidates if c.scoring_cost is not None), key=_cheapest_first):
        if not best or one.objective > best[-1].objective:
            best.append(one)
    return best


def _cheapest_first(candidate: Candidate) -> tuple[float, float]:
    return (candidate.scoring_cost or 0.0, -candidate.objective)


def pareto(results: Results, path: str | Path) -> Path:
    """Objective against scoring cost of every candidate, the front marked."""
    from matplotlib.ticker import LogLocator, NullFormatter

    best = front(results.candidates)
    if not best:
        raise DataError("no candidate has both an objective and a scoring cost yet")
    figure, (axes,) = style.new_figure(height=4.8)
    figure.set_size_inches(9.5, 4.8)
    for detector in results.detectors:
        own = [c for c in results.candidates if c.detector == detector and c.scoring_cost is not None]
        colour = style.colour_of(detector, results.detectors)
        for is_best, size, alpha in ((False, 3.5, 0.3), (True, 6.5, 0.9)):
            shown = [c for c in own if c.is_best is is_best]
            label = f"{detector}: best of a fit" if is_best else f"{detector}: other sizes and kinds of score"
            if shown:
                axes.plot(
                    [c.scoring_cost or 0.0 for c in shown], [c.objective for c in shown], "o", color=colour,
                    markersize=size, alpha=alpha, markeredgewidth=0, label=label,
                )  # fmt: skip
    x, y = np.array([(c.scoring_cost, c.objective) for c in best], dtype=float).T
    axes.step(x, y, where="post", color=style.INK, linewidth=1.3, label="front", zorder=5)
    axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=style.INK, zorder=6)
    costs = [c.scoring_cost for c in results.candidates if c.scoring_cost]
    if costs and max(costs) > 4 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    style.thousands(axes.xaxis)
    axes.set(xlabel="scoring cost: multiply-adds and node visits per row", ylabel=f"{results.objective}, validation")
    style.legend(axes, None, "best")
    top, cheap = best[-1], next(c for c in best if c.objective >= best[-1].objective - WITHIN)
    ratio = (top.scoring_cost or 0.0) / (cheap.scoring_cost or 1.0)
    title = (
        f"{cheap.detector} {cheap.trial} is {ratio:.1f} times cheaper to score than {top.detector} {top.trial}, "
        f"for {top.objective - cheap.objective:.3f} less"
        if ratio >= 1.1
        else f"No cheaper candidate is as good as {top.detector} {top.trial}, {top.objective:.3f}"
    )
    return style.save(figure, path, title, f"{len(results.candidates):,} candidates of {len(results.judged)} fits")


def is_pair(winner: Mapping[str, Any]) -> bool:
    """Whether the winner combines two detectors."""
    return winner.get("forest") is not None and winner.get("autoencoder") is not None


def _varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if len({json.dumps(row.get(name), sort_keys=True) for row in rows}) > 1]


def _axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of the values on their own axis, and its ticks (height, text)."""
    known = [value for value in values if value is not None]
    if known and is_scale(known) and len(known) < len(values):  # trials without the setting are drawn below the scale
        heights, ticks = _axis(known)
        rest = iter(heights)
        lifted = [0.0 if value is None else 0.15 + 0.85 * next(rest) for value in values]
        return lifted, [(0.0, "none"), *((0.15 + 0.85 * height, text) for height, text in ticks)]
    if known and is_scale(known):
        array = np.array(known, dtype=float)
        low, high = float(array.min()), float(array.max())
        log = is_log(low, high)
        at = np.log(array) if log else array
        first, span = float(at.min()), float(np.ptp(at)) or 1.0
        distinct = sorted(set(known))
        if len(distinct) > 6:
            steps = np.linspace(first, first + span, 5)
            distinct = [float(np.exp(step)) if log else float(step) for step in steps]
            if all(isinstance(value, int) for value in known):
                distinct = sorted({round(value) for value in distinct})
        ticks = [(((np.log(v) if log else v) - first) / span, plain(v)) for v in distinct]
        heights = ((at - first) / span).tolist() if high > low else [0.5] * len(values)
        return heights, ticks if high > low else [(0.5, plain(low))]
    texts = [json.dumps(value, sort_keys=True) for value in values]
    request = sorted(set(texts), key=lambda text: (weight(text), text))
    step = 1 / max(len(request) - 1, 1)
    room = min(0.3 * step, 0.08)  # spread the lines of a category, so that each can be followed
    heights = []
    for index, text in enumerate(texts):
        same = [i for i, other in enumerate(texts) if other == text]
        heights.append(request.index(text) * step + room * ((same.index(index) + 0.5) / len(same) - 0.5))
    labels = [(i * step, "none" if text == "null" else plain(json.loads(text), 14)) for i, text in enumerate(request)]
    return heights, labels[:: max(1, -(-len(labels) // 14))]


def weight(text: str) -> float:
    """The sort key of a setting's value, as JSON: its size, or the sum of its layer sizes."""
    value = json.loads(text)
    if isinstance(value, list) and value and all(isinstance(part, int) for part in value):
        return float(sum(value))
    return float(value) if isinstance(value, int | float) else 0.0


def _without(name: str, section: str) -> str:
    return plain(name.removeprefix(f"{section}."), 26)


def _integers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def _ordinal(number: int) -> str:
    return "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
