"""The style of all plots: colours, fonts, grid, titles, legends, and writing the PNG.

Uses matplotlib's objects directly, not pyplot or rcParams. There is no global state, so any thread may draw.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can distinguish. A detector has the same colour in every picture.
COLOURS = {
    "joined": "#0072B2",
    "forest": "#009E73",
    "autoencoder": "#E69F00",
    "head": "#CC79A7",
    "label_light": "#56B4E9",
}
OTHER_COLOURS = ("#7A5195", "#8C6D31", "#CC79A7", "#56B4E9")
FRAUD, LEGITIMATE, UNLABELLED = "#D55E00", "#7B8794", "#CBB994"
INK, MUTED, GRID = "#1F2933", "#616E7C", "#E4E7EB"
DPI = 160
HEADER_INCHES = 0.62
DASHED = (0, (4, 3))


def colour_of(name: str, names: Iterable[str]) -> str:
    """The colour of a score: its own if it has one, else by its position among the other names."""
    if name in COLOURS:
        return COLOURS[name]
    others = [other for other in names if other not in COLOURS]
    return OTHER_COLOURS[others.index(name) % len(OTHER_COLOURS)]


def new_figure(
    columns: int = 1, rows: int = 1, height: float | None = None, **subplots: Any
) -> tuple[Figure, list[Axes]]:
    """A white figure with rows x columns panels, row by row, below a strip for the title.

    height: in inches, by default from the number of rows. `subplots` goes to matplotlib's `Figure.subplots` (sharex,
    height_ratios).
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (7.2 if columns == 1 else 1.2 + 3.6 * columns, height or (4.7 if rows == 1 else 2.6 + 2.0 * rows))
    layout = ConstrainedLayoutEngine(rect=(0.005, 0.005, 0.99, 0.985 - HEADER_INCHES / size[1]))
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout=layout)
    panels = list(figure.subplots(rows, columns, squeeze=False, **subplots).flat)
    for axes in panels:
        axes.set_axisbelow(True)
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.tick_params(which="both", colors=MUTED, labelsize=9, length=0)
        axes.xaxis.label.set(color=INK, fontsize=10)
        axes.yaxis.label.set(color=INK, fontsize=10)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color("#9AA5B1")
    return figure, panels


def percent(axis: Any) -> None:
    """Label an axis of shares in percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def thousands(axis: Any) -> None:
    """Label an axis with thousands separators, on any scale."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def legend(axes: Axes, title: str | None, location: str, names: Iterable[str] = ()) -> None:
    """Draw the legend. Labels that start with one of `names` come first, in the order of `names`."""
    handles, labels = axes.get_legend_handles_labels()
    first = list(names)
    order = sorted(range(len(labels)), key=lambda i: [not labels[i].startswith(f"{name} ") for name in first])
    drawn = axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        title=title,
        loc=location,
        fontsize=9,
        title_fontsize=9,
        labelcolor=INK,
        facecolor="white",
        edgecolor="none",
        framealpha=0.9,
        alignment="left",
    )
    drawn.get_title().set_color(MUTED)


def header_legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend of `axes` in one row at the right of the title strip."""
    handles, labels = axes.get_legend_handles_labels()
    corner = (0.995, 1 - HEADER_INCHES / figure.get_figheight())
    figure.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=corner,
        ncols=len(labels),
        fontsize=9.5,
        labelcolor=INK,
        frameon=False,
        borderaxespad=0,
    )


def vertical_line(axes: Axes, x: float, text: str, height: float = 0.96) -> None:
    """Mark an x with a dark dashed line and a text beside it, at `height` (0 to 1) of the panel."""
    axes.axvline(x, color=INK, linewidth=1.2, linestyle=DASHED)
    low, high = axes.get_xlim()
    label_share = 1.3 * DPI / axes.bbox.width  # a label is about 1.3 inches wide
    is_right = x > high - label_share * (high - low)
    axes.annotate(
        text,
        (x, height),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-5 if is_right else 5, 0),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top",
        fontsize=9,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
    )


def horizontal_line(axes: Axes, y: float, text: str) -> None:
    """Mark a reference y with a grey dashed line and a text above its left end."""
    axes.axhline(y, color=MUTED, linewidth=1, linestyle=DASHED)
    axes.annotate(
        text,
        (0.01, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        color=MUTED,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
    )


def save(figure: Figure, path: str | Path, title: str, subtitle: str) -> Path:
    """Add the title (the finding) and subtitle (the content); write the PNG atomically. Long titles shrink to fit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    left, top = 0.12 / figure.get_figwidth(), figure.get_figheight()
    for text, inches, size, colour, weight in (
        (title, 0.12, 12.0, INK, "bold"),
        (subtitle, 0.38, 9.5, MUTED, "normal"),
    ):
        drawn = figure.text(left, 1 - inches / top, text, va="top", fontsize=size, color=colour, weight=weight)
        drawn.set_in_layout(False)
        width = drawn.get_window_extent(canvas.get_renderer()).width
        room = figure.bbox.width * (1 - 2 * left)
        if width > room:
            drawn.set_fontsize(0.98 * size * room / width)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        canvas.print_png(str(unfinished))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target
