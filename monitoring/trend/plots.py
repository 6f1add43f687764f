"""The pictures of the trend page: a heat map of PSI, and lines of the scores and the columns that changed most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fraud.judging import plot_style
from monitoring.drift.verdict import shortened
from monitoring.trend.reports import Trend

MOST_COLUMNS = 40
_WIDTH_INCHES = 11.0
_LEAST, _MOST = 0.01, 2.5  # PSI at the ends of the colours
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")


def heat_map(trend: Trend, path: Path) -> Path:
    """PSI by column and day, of the first `MOST_COLUMNS`. Darker is further from the reference; a dot is drift."""
    from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap

    trend = replace(trend, columns=trend.columns[:MOST_COLUMNS], psi=trend.psi[:MOST_COLUMNS])
    n_columns, n_days = trend.psi.shape
    figure, (axes,) = plot_style.new_figure(height=1.9 + 0.24 * n_columns)
    figure.set_figwidth(_WIDTH_INCHES)
    warning, drift = trend.limits
    bounds = [0.0, warning / 4, warning / 2, warning, drift, 2 * drift, 4 * drift]
    colours: Colormap = ListedColormap(["#F1F5F8", "#DCE8F0", "#BBD4E4", "#FBD38A", "#EE8A4A", "#B5341F"])
    colours = colours.with_extremes(bad="white", over="#6E1423")
    drawn = axes.imshow(
        np.ma.masked_invalid(trend.psi), aspect="auto", cmap=colours, norm=BoundaryNorm(bounds, colours.N),
        interpolation="none", extent=(-0.5, n_days - 0.5, n_columns - 0.5, -0.5),
    )  # fmt: skip
    marked = [
        (j, i)
        for j, day in enumerate(trend.days)
        for i, name in enumerate(trend.columns)
        if day in trend.reports and trend.reports[day].levels.get(name) == "drift"
    ]
    if marked:
        x, y = zip(*marked, strict=True)
        axes.scatter(x, y, s=max(3.0, 16.0 - n_days / 10), color="white", linewidths=0)
    axes.grid(visible=False)
    for edge in np.arange(0.5, n_columns - 1):
        axes.axhline(edge, color="white", linewidth=1)
    axes.set_yticks(range(n_columns), [shortened(name, 26) for name in trend.columns])
    _days(trend, axes)
    bar = figure.colorbar(drawn, ax=axes, extend="max", shrink=min(1.0, 3.2 / (1.9 + 0.24 * n_columns)), pad=0.012)
    bar.set_ticks(bounds[1:], labels=[f"{bound:.3g}" for bound in bounds[1:]])
    bar.ax.tick_params(labelsize=8.5, colors=plot_style.MUTED, length=0)
    bar.minorticks_off()
    bar.outline.set_visible(False)
    days = sum(report.verdict == "drift" for report in trend.reports.values())
    title = f"Drift on {days} of {len(trend.reports)} days" if days else f"No drift on {len(trend.reports)} days"
    subtitle = f"PSI against the reference, limits {warning:g} and {drift:g}; white dot: drift; white cell: no verdict"
    return plot_style.save(figure, path, title, subtitle)


def lines(trend: Trend, path: Path, columns: int) -> Path:
    """PSI by day of the scores and of the `columns` most changed columns, with the limits."""
    scores = {name for report in trend.reports.values() for name in report.scores}
    named = [name for name in trend.columns if name in ("score", "alert rate")]
    others = [name for name in trend.columns if name not in scores]
    highest = {name: np.nanmax(trend.psi[trend.columns.index(name)]) for name in others}
    moved = [name for name in others if highest[name] >= trend.limits[0] / 2]
    named += (moved or others)[:columns]
    figure, (axes,) = plot_style.new_figure(height=4.6)
    figure.set_figwidth(_WIDTH_INCHES)
    axes.set_yscale("log")
    for i, name in enumerate(named):
        values = np.clip(trend.psi[trend.columns.index(name)], _LEAST / 10, None)
        is_score = name in scores
        colour = plot_style.INK if name == "score" else plot_style.MUTED if is_score else _LINES[i % len(_LINES)]
        axes.plot(
            values, color=colour, linewidth=2.2 if is_score else 1.5, label=shortened(name, 24),
            marker="o", markersize=3.2 if len(trend.days) <= 45 else 0.0,
            linestyle="--" if name == "alert rate" else "-",
        )  # fmt: skip
    axes.set_ylabel("PSI")
    axes.set_xlim(-0.5, len(trend.days) - 0.5)
    top = np.nanmax(trend.psi) if np.isfinite(trend.psi).any() else _MOST
    axes.set_ylim(_LEAST / 10, max(_MOST / 5, top * 1.6))
    for limit, text in zip(trend.limits, ("warning", "drift"), strict=True):
        plot_style.horizontal_line(axes, limit, f"{text}, {limit:g}")
    _days(trend, axes)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=9,
        labelcolor=plot_style.INK,
        frameon=False,
    )
    worst = shortened(next((name for name in trend.columns if name not in scores), ""), 40)
    return plot_style.save(
        figure, path, f"{worst} changed most" if worst else "The scores",
        "PSI by day on a log scale, scaled where a column has limits of its own; gap: no verdict",
    )  # fmt: skip


def _days(trend: Trend, axes: Any) -> None:
    """Label the days and mark changes of the model."""
    step = max(1, int(np.ceil(len(trend.days) / 14)))
    ticks = range(0, len(trend.days), step)
    axes.set_xticks(ticks, [f"{trend.days[i]:%d %b}" for i in ticks])
    for day, models in trend.switches.items():
        at = trend.days.index(day) - 0.5
        axes.axvline(at, color=plot_style.INK, linewidth=1.2, linestyle=plot_style.DASHED)
        axes.annotate(
            f"model {shortened(models, 14)}", (at, 1.0), xycoords=axes.get_xaxis_transform(), xytext=(3, 3),
            textcoords="offset points", fontsize=8.5, color=plot_style.INK,
        )  # fmt: skip
