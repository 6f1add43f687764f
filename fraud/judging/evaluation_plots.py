"""Plots of an evaluation: rarity, reliability, stability, cards per day, ablation.

Each function takes a section of the evaluation (`fraud.judging.evaluation`, `fraud.judging.slices`), writes one PNG and
returns its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fraud.judging import plot_style as style

_MOST_TICKS = 8


def rarity(section: Mapping[str, Any], path: str | Path) -> Path:
    """Observed against expected share of normal rows at each score level, on logarithmic axes."""
    figure, (axes,) = style.new_figure()
    names = list(section["scores"])
    ends = np.array([2e-5, 0.3])
    axes.fill_between(ends, ends / 2, ends * 2, color=style.GRID, alpha=0.7, linewidth=0)
    axes.plot(ends, ends, color=style.MUTED, linewidth=1, linestyle=style.DASHED)
    floor = 0.3 / section["normal_rows"]
    for index, name in enumerate(names):
        levels = sorted(section["scores"][name], key=lambda level: level["expected"])
        colour, over = style.colour_of(name, names), len(names) - index
        x = np.array([level["expected"] for level in levels]) * 1.06 ** (index - (len(names) - 1) / 2)
        y = np.array([level["observed"] if level["rows"] else np.nan for level in levels])
        low, high = np.array([level["interval"] for level in levels]).T
        axes.vlines(x, np.maximum(low, floor), high, color=colour, linewidth=1.2, zorder=over)
        axes.plot(x, y, "o-", color=colour, markersize=5, linewidth=1.2, label=name, zorder=over + len(names))
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=(floor, 0.5))
    axes.set(xlabel="share of normal rows expected to score this high", ylabel="observed share")
    style.percent(axes.xaxis)
    style.percent(axes.yaxis)
    style.legend(axes, None, "upper left", names)
    off = [level for level in section["scores"][names[0]] if level["holds"] is False]
    title = "High scores are as rare as expected" if not off else "High scores are not as rare as expected"
    subtitle = f"{section['normal_rows']:,} normal rows; the grey band is a factor of two; bars are 95 % intervals"
    return style.save(figure, path, title, subtitle)


def reliability(section: Mapping[str, Any], threshold: float, path: str | Path) -> Path:
    """Share of frauds at each score level, with Wilson intervals and counts."""
    bins = section["bins"]
    figure, (axes,) = style.new_figure()
    for i, part in enumerate(bins):
        if not part["rows"]:
            continue
        value, (low, high) = part["precision"], part["interval"]
        error = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.bar([i], [value], color=style.FRAUD, alpha=0.75, width=0.7)
        axes.errorbar([i], [value], error, fmt="none", ecolor=style.INK, elinewidth=1.2, capsize=3)
        text = f"{part['frauds']:,} of\n{part['rows']:,}"
        axes.annotate(
            text,
            (i, high),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=style.INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
    axes.set_xticks(range(len(bins)), [f"{part['low']:.2f} to {part['high']:.2f}" for part in bins])
    axes.set(xlim=(-0.6, len(bins) - 0.4), ylim=(0, 1.15), ylabel="share of frauds", xlabel="score")
    axes.set_yticks(np.linspace(0, 1, 6))
    style.percent(axes.yaxis)
    edges = [part["low"] for part in bins] + [bins[-1]["high"]]
    style.vertical_line(
        axes, float(np.interp(threshold, edges, np.arange(len(edges)) - 0.5)), f"threshold {threshold:.3g}"
    )
    return style.save(
        figure, path, "Share of frauds among the rows at a score", "95 % intervals; counts are frauds of rows"
    )


def stability(section: Mapping[str, Any], path: str | Path) -> Path:
    """Average precision, recall and precision, and alert rate of each day, week or month."""
    parts, step = section["parts"], section["step"]
    figure, panels = style.new_figure(3, height=3.9)
    names = [part["name"] for part in parts]
    for axes, keys in zip(panels, (("average_precision",), ("recall", "precision"), ("alert_rate",)), strict=True):
        for index, key in enumerate(keys):
            colour = {"average_precision": style.COLOURS["joined"], "alert_rate": style.INK}.get(key)
            colour = colour or (style.COLOURS["forest"], style.FRAUD)[index]
            _series(axes, parts, key, colour, 0.08 * (index - (len(keys) - 1) / 2))
        axes.set_ylabel(" and ".join(key.replace("_", " ") for key in keys))
        style.percent(axes.yaxis)
        if len(keys) > 1:
            style.legend(axes, None, "best")
        axes.set_ylim(bottom=0)
    panels[0].set_ylim(0, 1.03)
    panels[1].set_ylim(0, 1.03)
    every = max(1, -(-len(names) // _MOST_TICKS))
    for axes in panels:
        axes.set_xticks(range(0, len(names), every), [name[5:] for name in names[::every]])
        axes.set_xlabel(f"{step} beginning (month-day)" if step != "day" else "day (month-day)")
    weak = [part["name"] for part in parts if part["weak"]]
    title = f"Steady from {step} to {step}" if not weak else f"Weaker than usual in {len(weak)} of {len(parts)} {step}s"
    return style.save(
        figure, path, title, f"{names[0]} to {names[-1]}, at the model's threshold; bars are 95 % intervals"
    )


def cards_a_day(section: Mapping[str, Any], path: str | Path) -> Path:
    """Precision among the k most suspicious cards (or rows) of each day, and the value of a perfect score."""
    figure, (axes,) = style.new_figure()
    values = [day["precision"] for day in section["days"]]
    names = [day["day"][5:] for day in section["days"]]
    axes.bar(range(len(values)), values, color=style.COLOURS["joined"], width=0.75)
    every = max(1, -(-len(names) // _MOST_TICKS))
    axes.set_xticks(range(0, len(names), every), names[::every])
    axes.set(ylim=(0, min(1.05, max(section["attainable"], *values) * 1.25 + 0.01)), xlabel="day (month-day)")
    axes.set_ylabel(f"frauds among the top {section['k']}")
    style.percent(axes.yaxis)
    style.horizontal_line(axes, section["attainable"], f"a perfect score: {section['attainable']:.0%} on average")
    unit, adjective = ("cards", "compromised") if section["unit"] else ("transactions", "frauds")
    title = f"Of the {section['k']} most suspicious {unit} of a day, {section['mean']['value']:.0%} are {adjective}"
    note = "cards known as compromised are left out" if section["unit"] else f"by day, {section['day_zone']}"
    return style.save(figure, path, title, note)


def ablation(groups: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Average precision lost without each feature group, with 95 % intervals. Every group has a `worth`."""
    shown = sorted(groups, key=lambda group: group["worth"])
    figure, (axes,) = style.new_figure(height=1.7 + 0.34 * len(shown))
    for i, group in enumerate(shown):
        low, high = group["worth_interval"] or (group["worth"], group["worth"])
        colour = style.COLOURS["joined"] if low > 0 else style.FRAUD if high < 0 else style.LEGITIMATE
        axes.plot([low, high], [i, i], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([group["worth"]], [i], "o", color=colour, markersize=7)
    axes.axvline(0, color=style.MUTED, linewidth=1, linestyle=style.DASHED)
    # Names come from the data: a dollar sign in one must not start a formula.
    axes.set_yticks(range(len(shown)), [_short(group["name"]).replace("$", r"\$") for group in shown])
    axes.set(ylim=(-0.6, len(shown) - 0.4), xlabel="average precision lost without the group")
    best = shown[-1]
    title = f"{_short(best['name'])} is worth most: {best['worth']:+.3f} average precision".replace("$", r"\$")
    return style.save(
        figure, path, title, "refitted without each group, same rows and resamples; bars are 95 % intervals"
    )


def _series(axes: Any, parts: Sequence[Mapping[str, Any]], key: str, colour: str, shift: float) -> None:
    positions = [i for i, part in enumerate(parts) if part["figures"][key] is not None]
    values = np.array([parts[i]["figures"][key]["value"] for i in positions])
    bands = [parts[i]["figures"][key]["interval"] or (v, v) for i, v in zip(positions, values, strict=True)]
    low, high = np.array(bands).reshape(-1, 2).T
    error = [np.maximum(values - low, 0), np.maximum(high - values, 0)]
    axes.errorbar(
        np.array(positions) + shift, values, error, fmt="o-", color=colour, markersize=4.5, linewidth=1.6, elinewidth=1,
        label=key.replace("_", " "),
    )  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= 44 else f"{name[:43]}…"
