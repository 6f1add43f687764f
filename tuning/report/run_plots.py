"""Plots of a sweep's run: the timeline of its workers, and each trial's learning curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fraud.errors import DataError
from fraud.judging import plot_style as style
from tuning.record.journal import Trial
from tuning.record.results import Attempt, Clock, Results, running_at_once
from tuning.report.plots import time_unit

_MOST_WORKERS = 14
_OUTCOMES = {
    "stopped": "stopped early",
    "failed": "failed",
    "lost": "cut short by a kill",
    "running": "still running",
}


def timeline(results: Results, path: str | Path) -> Path:
    """Above, one bar per trial on the row of its worker; below, how many trials ran at once."""
    from matplotlib.patches import Patch

    if not results.attempts:
        raise DataError("no trial has started yet")
    clock = results.clock
    names, rows = lanes(results.attempts)
    divisor, unit = time_unit(clock.total)
    upper = 0.42 * len(names) + 0.3
    figure, (bars, counts) = style.new_figure(1, 2, height=2.6 + upper, sharex=True, height_ratios=[upper, 1.1])
    figure.set_size_inches(11, figure.get_figheight())
    total = clock.total / divisor or 1.0
    for attempt, row in zip(results.attempts, rows, strict=True):
        start, end = clock.seconds(attempt.start) / divisor, clock.seconds(attempt.end) / divisor
        colour = style.colour_of(attempt.detector, results.detectors)
        _bar(bars, attempt, row, start, max(end - start, 0.002 * total), colour, total)
    steps = running_at_once(results.attempts, clock)
    at, level = [second / divisor for second, _ in steps], [count for _, count in steps]
    counts.fill_between([*at, total], [*level, level[-1]], step="post", color=style.COLOURS["joined"], alpha=0.35)
    counts.step([*at, total], [*level, level[-1]], where="post", color=style.COLOURS["joined"], linewidth=1.3)
    for axes in (bars, counts):
        for pause in clock.pauses:
            axes.axvline(pause / divisor, color=style.FRAUD, linewidth=1.4, linestyle=style.DASHED)
    if clock.pauses:
        bars.annotate(
            "resumed", (clock.pauses[0] / divisor, 1), (4, -2), xycoords=bars.get_xaxis_transform(),
            textcoords="offset points", fontsize=8.5, color=style.FRAUD, va="bottom",
        )  # fmt: skip
    bars.set_yticks(range(len(names)), names)
    bars.set_ylim(len(names) - 0.4, -0.6)
    bars.grid(False, axis="y")
    counts.set(ylabel="at once", xlabel=f"{unit} of work", xlim=(0, total), ylim=(0, max(level) + 0.4))
    counts.set_yticks(range(0, max(level) + 1, max(1, max(level) // 4)))
    handles: list[Any] = [
        Patch(color=style.colour_of(name, results.detectors), label=name) for name in results.detectors
    ]
    present = {attempt.outcome for attempt in results.attempts}
    handles += [
        Patch(facecolor="white", edgecolor=style.INK, hatch=_HATCHES[key], label=outcome, linewidth=0.8)
        for key, outcome in _OUTCOMES.items()
        if key in present
    ]
    corner = (0.995, 1 - style.HEADER_INCHES / figure.get_figheight())
    figure.legend(
        handles=handles, loc="lower right", bbox_to_anchor=corner, ncols=len(handles), fontsize=9, frameon=False,
        labelcolor=style.INK, borderaxespad=0,
    )  # fmt: skip
    most, mean = max(level), mean_at_once(steps, clock)
    title = f"At most {most} trials ran at once, {mean:.1f} on average" if most > 1 else "One trial ran at a time"
    subtitle = f"{len(results.trials)} trials on {len({a.worker for a in results.attempts})} workers"
    if clock.pauses:
        pauses = f"{len(clock.pauses)} pause{'s' if len(clock.pauses) > 1 else ''}"
        subtitle += f"; without {pauses} in which no driver ran"
    return style.save(figure, path, title, subtitle)


def mean_at_once(steps: list[tuple[float, int]], clock: Clock) -> float:
    """Trials that ran at once, averaged over the time in which at least one ran."""
    ends = [second for second, _ in steps[1:]] + [clock.total]
    spans = [(end - second, count) for (second, count), end in zip(steps, ends, strict=True)]
    busy = sum(span for span, count in spans if count)
    return sum(span * count for span, count in spans) / busy if busy else 0.0


def lanes(attempts: tuple[Attempt, ...]) -> tuple[list[str], list[int]]:
    """(names of the rows, row of each attempt): one row per worker or, with too many workers, the first free row."""
    workers = list(dict.fromkeys(attempt.worker for attempt in attempts))
    if len(workers) <= _MOST_WORKERS:
        nodes = {worker.rpartition("/")[0] for worker in workers}
        names = [worker if len(nodes) > 1 else f"worker {worker.rpartition('/')[2]}" for worker in workers]
        return [_clean(name) for name in names], [workers.index(attempt.worker) for attempt in attempts]
    free: list[float] = []
    rows = []
    for attempt in attempts:
        row = next((i for i, until in enumerate(free) if until <= attempt.start), len(free))
        free[row : row + 1] = [attempt.end]
        rows.append(row)
    return [f"slot {row + 1}" for row in range(len(free))], rows


_HATCHES = {"stopped": "////", "failed": "xxxx", "lost": "....", "running": "||||"}


def _bar(axes: Any, attempt: Attempt, row: int, start: float, width: float, colour: str, total: float) -> None:
    failed = attempt.outcome in ("failed", "lost")
    face = "white" if failed else colour
    alpha = 0.45 if attempt.outcome in ("stopped", "running") else 1.0
    hatch = _HATCHES.get(attempt.outcome)
    axes.barh(row, width, left=start, height=0.72, facecolor=face, alpha=alpha, edgecolor="white", linewidth=0.8)
    if hatch:
        edge = style.FRAUD if attempt.outcome == "failed" else colour
        axes.barh(row, width, left=start, height=0.72, fill=False, edgecolor=edge, hatch=hatch, linewidth=0.8)
    if width > 0.018 * total:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6} if hatch else None
        axes.text(
            start + width / 2, row, str(attempt.trial), ha="center", va="center", fontsize=8, clip_on=True, bbox=box,
            color=style.INK,
        )  # fmt: skip


def learning_curves(results: Results, path: str | Path) -> Path:
    """The objective at each rung, one line per trial, one panel per detector; a cross where the scheduler stopped one.

    Without an objective at any rung it draws the validation error by epoch.
    """
    shown = {
        detector: [trial for trial in results.trials if trial.detector == detector and _curve(trial)[0]]
        for detector in results.detectors
    }
    shown = {detector: trials for detector, trials in shown.items() if trials}
    if not shown:
        raise DataError("no trial has reported a result yet")
    figure, panels = style.new_figure(len(shown), height=4.5)
    figure.set_size_inches(8.4, 4.5)
    for axes, (detector, trials) in zip(panels, shown.items(), strict=True):
        colour, best = style.colour_of(detector, results.detectors), results.best(detector)
        by_error = all(_by_error(trial) for trial in trials)
        for trial in trials:
            if _by_error(trial) is not by_error:
                continue
            x, y = _curve(trial)
            is_best = best is not None and trial.number == best.number
            line: dict[str, Any] = {"linewidth": 3.0, "zorder": 5} if is_best else {"linewidth": 1.2, "alpha": 0.55}
            axes.plot(x, y, "-", color=colour, **line)
            mark = {"stopped": "x", "failed": "s", "running": ">"}.get(trial.status, "o")
            dark = style.FRAUD if trial.status in ("failed",) else style.INK if trial.status == "stopped" else colour
            axes.plot(x[-1:], y[-1:], mark, color=dark, markersize=5.5, zorder=6)
            if is_best:
                is_right = x[-1] > 0.5 * max(rung["step"] for other in trials for rung in other.rungs)
                axes.annotate(
                    f"trial {trial.number}", (x[-1], y[-1]), (-4 if is_right else 4, 7), textcoords="offset points",
                    fontsize=9, color=style.INK, ha="right" if is_right else "left",
                )  # fmt: skip
        if by_error:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:.3g}")
            axes.yaxis.set_minor_formatter("{x:.2g}")
        axes.set_xlabel(f"{detector}: {'epochs' if detector == 'autoencoder' else 'trees'}")
        axes.set_ylabel("validation error" if by_error else f"{results.objective}, validation")
        axes.margins(y=0.12)
    _legend(figure, {trial.status for trials in shown.values() for trial in trials})
    return style.save(figure, path, stopping(results), "each line is a trial; the thick one is the best")


def stopping(results: Results) -> str:
    """A sentence on early stopping: trials stopped, epochs saved."""
    stopped = [trial for trial in results.trials if trial.status == "stopped"]
    if not stopped:
        why = " (no scheduler)" if results.request["scheduler"] == "none" else ""
        return f"No trial was stopped early{why}"
    parts = []
    for detector, unit in (("autoencoder", "epochs"), ("forest", "trees")):
        count = sum(trial.detector == detector for trial in stopped)
        of = sum(trial.detector == detector for trial in results.trials)
        run, saved = results.saved(detector)
        if count and saved:
            parts.append(f"{count} of {of} {detector}s stopped early: {saved / (run + saved):.0%} of the {unit} saved")
    return "; ".join(parts) or f"{len(stopped)} trials were stopped early"


def _curve(trial: Trial) -> tuple[list[float], list[float]]:
    points = [(rung["step"], rung["objective"]) for rung in trial.rungs if rung.get("objective") is not None]
    if not points:
        epochs = [epoch for rung in trial.rungs for epoch in rung["epochs"]]
        points = [
            (epoch["epoch"], epoch["validation_error"])
            for epoch in epochs
            if epoch.get("validation_error") is not None and np.isfinite(epoch["validation_error"])
        ]
    return [float(step) for step, _ in points], [float(value) for _, value in points]


def _by_error(trial: Trial) -> bool:
    return all(rung.get("objective") is None for rung in trial.rungs)


def _legend(figure: Any, statuses: set[str]) -> None:
    from matplotlib.lines import Line2D

    marks = (
        ("finished", "o", style.MUTED, "ran to its end"), ("stopped", "x", style.INK, "stopped early"),
        ("failed", "s", style.FRAUD, "failed"), ("running", ">", style.MUTED, "still running"),
    )  # fmt: skip
    handles = [
        Line2D([], [], linestyle="none", marker=mark, color=colour, markersize=5.5, label=label)
        for status, mark, colour, label in marks
        if status in statuses
    ]
    corner = (0.995, 1 - style.HEADER_INCHES / figure.get_figheight())
    figure.legend(
        handles=handles, loc="lower right", bbox_to_anchor=corner, ncols=len(handles), fontsize=9, frameon=False,
        labelcolor=style.INK, borderaxespad=0, handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip


def _clean(text: str) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
    return plain if len(plain) <= 30 else f"…{plain[-29:]}"
