"""The heat map of a sweep's threshold grid: policies, their settings, and the largest share of alerts allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fraud.errors import DataError
from fraud.judging import plot_style as style
from tuning.report.plots import plain, tail, weight

_MOST_NUMBERED = 26  # more cells side by side leave no room for their values
_CELL_INCHES, _LETTERS_A_CELL = 0.44, 6
_FEWEST_COLUMNS = 18


@dataclass(frozen=True)
class _Block:
    """The cells of a policy. settings: as JSON, one per column; points: by (setting, contamination)."""

    policy: str
    settings: list[str]
    points: dict[tuple[str, float | None], Mapping[str, Any]]

    @classmethod
    def of(cls, policy: str, points: Sequence[Mapping[str, Any]]) -> _Block:
        by_cell = {(_key(point["setting"]), point["contamination"]): point for point in points}
        values = {_key(point["setting"]): [v for _, v in sorted(point["setting"].items())] for point in points}
        request = sorted(values, key=lambda text: [(isinstance(v, str), weight(json.dumps(v))) for v in values[text]])
        return cls(policy, request, by_cell)

    @property
    def label(self) -> str:
        """The policy and its setting names."""
        names = ", ".join(sorted({name for text in self.settings for name in json.loads(text)}))
        return plain(self.policy, 24) + (f": {plain(names, 60)}" if names else "")

    @property
    def width(self) -> int:
        """Columns that the cells and their label need."""
        return max(len(self.settings), -(-len(self.label) // _LETTERS_A_CELL))


def threshold_heatmap(grid: Mapping[str, Any] | None, path: str | Path) -> Path:
    """One block per policy: its settings by the largest share of alerts allowed, coloured by the judge's value.

    grid: winner.json's `grid`. Without labels there is no such value, and the colour is the share of alerts. Raises
    DataError without a grid.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    if not grid or not grid.get("points"):
        raise DataError("the threshold rules are judged when the sweep ends")
    points = grid["points"]
    has_verdict = any(point.get("judged") is not None for point in points)
    key = "judged" if has_verdict else "alert_rate"
    policies = dict.fromkeys(point["policy"] for point in points)
    blocks = [_Block.of(name, [point for point in points if point["policy"] == name]) for name in policies]
    shares = sorted({point["contamination"] for point in points}, key=lambda s: (s is not None, -(s or 0)))
    columns = max(_FEWEST_COLUMNS, *(block.width for block in blocks))
    rows = _rows(blocks, columns)
    figure, panels = style.new_figure(1, len(rows), height=1.0 + len(rows) * (0.7 + 0.3 * len(shares)))
    figure.set_size_inches(min(1.9 + _CELL_INCHES * columns, 13.0), figure.get_figheight())
    values = [point[key] for point in points if point.get(key) is not None]
    scale = Normalize(min(values, default=0), max(values, default=1))
    best = points[grid["best"]] if grid.get("best") is not None else None
    for axes, row in zip(panels, rows, strict=True):
        cells = np.full((len(shares), columns), np.nan)
        ticks: list[tuple[int, str]] = []
        for first, block in row:
            for (text, share), point in block.points.items():
                if point.get(key) is not None:
                    cells[shares.index(share), first + block.settings.index(text)] = point[key]
            every = max(1, -(-len(block.settings) // _MOST_NUMBERED))
            ticks += [(first + i, _values(text)) for i, text in enumerate(block.settings) if i % every == 0]
        image = axes.imshow(cells, aspect="auto", cmap=colormaps["cividis"], norm=scale, interpolation="nearest")
        if columns <= _MOST_NUMBERED:
            _numbers(axes, cells, scale, "" if has_verdict else "%")
        is_long = max(len(label) for _, label in ticks) > _LETTERS_A_CELL
        axes.set_xticks([x for x, _ in ticks], [label for _, label in ticks], rotation=90 if is_long else 0)
        axes.set_yticks(range(len(shares)), ["no limit" if share is None else f"{share:.2%}" for share in shares])
        axes.tick_params(labelsize=8)
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for first, block in row:
            axes.annotate(
                block.label, (first - 0.5, 1), (0, 4), xycoords=axes.get_xaxis_transform(), fontsize=9, color=style.INK,
                textcoords="offset points", va="bottom", weight="bold",
            )  # fmt: skip
            if best is not None and best["policy"] == block.policy:
                column = first + block.settings.index(_key(best["setting"]))
                _mark(axes, column, shares.index(best["contamination"]))
    bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.01)
    if not has_verdict:
        style.percent(bar.ax.yaxis)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=0)
    measure = plain(grid.get("judge") or "judged", 60) if has_verdict else "share of rows with an alert"
    title = f"No frauds are known, so {len(points):,} threshold rules cannot be judged"
    if has_verdict and best is not None:
        title = f"Best of {len(points):,} threshold rules: {rule(best)}"
    return style.save(figure, path, title, f"colour: {measure}; rows: largest share of alerts allowed")


def rule(point: Mapping[str, Any]) -> str:
    """A grid point in words."""
    setting = ", ".join(f"{tail(name)} {plain(value)}" for name, value in point["setting"].items())
    share = point.get("contamination")
    limit = "" if share is None else f", at most {share:.2%} of rows"
    return f"{plain(point['policy'])}{f' {setting}' if setting else ''}{limit}"


def _rows(blocks: Sequence[_Block], columns: int) -> list[list[tuple[int, _Block]]]:
    """(first column, block) by row of blocks, as many blocks side by side as fit."""
    rows: list[list[tuple[int, _Block]]] = []
    for block in blocks:
        for row in rows:
            last, before = row[-1]
            first = last + before.width + 2  # only the first block of a row has row labels, "0.50%"
            if first + block.width <= columns:
                row.append((first, block))
                break
        else:
            rows.append([(0, block)])
    return rows


def _key(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True)


def _values(text: str) -> str:
    return "/".join(plain(value, 10) for _, value in sorted(json.loads(text).items())) or "any"


def _numbers(axes: Any, cells: np.ndarray, scale: Any, unit: str) -> None:
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3g}"
            if unit == "%":
                text = f"{100 * value:.2g}%"
            colour = "white" if scale(value) < 0.55 else style.INK
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def _mark(axes: Any, column: float, row: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=style.FRAUD, linewidth=2.2, clip_on=False)
    )
