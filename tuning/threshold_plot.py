"""The heat map of a sweep's threshold grid: policies, their settings, and how many rows may be called fraud."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fraud import plot_style as style
from fraud.errors import DataError
from tuning.plots import plain, tail, weight

_MOST_CELLS = 24


def threshold_heatmap(grid: Mapping[str, Any] | None, path: str | Path) -> Path:
    """A panel a policy: its settings by largest share called fraud, coloured by what the judge says.

    grid: winner.json's `grid`. Points without a verdict (no labels) are coloured by the share alerted on.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    if not grid or not grid.get("points"):
        raise DataError("no threshold grid has been judged yet: the sweep does so at its end")
    points = grid["points"]
    has_verdict = any(point.get("judged") is not None for point in points)
    key = "judged" if has_verdict else "alert_rate"
    policies = list(dict.fromkeys(point["policy"] for point in points))
    shares = sorted({point["contamination"] for point in points}, key=lambda s: (s is not None, -(s or 0)))
    settings = {
        policy: _by_value([point["setting"] for point in points if point["policy"] == policy]) for policy in policies
    }
    widest = max(len(found) for found in settings.values())
    ratios = [len(shares) + 1.6] * len(policies)
    figure, panels = style.new_figure(1, len(policies), height=1.0 + sum(0.3 * ratio for ratio in ratios))
    figure.set_size_inches(max(7.2, min(1.9 + 0.44 * widest, 13.0)), figure.get_figheight())
    values = [point[key] for point in points if point.get(key) is not None]
    scale, colours = Normalize(min(values, default=0), max(values, default=1)), colormaps["cividis"]
    best = points[grid["best"]] if grid.get("best") is not None else None
    for axes, policy in zip(panels, policies, strict=True):
        cells = np.full((len(shares), widest), np.nan)
        for point in points:
            if point["policy"] == policy and point.get(key) is not None:
                cells[shares.index(point["contamination"]), settings[policy].index(_key(point["setting"]))] = point[key]
        axes.grid(False)
        image = axes.imshow(cells, aspect="auto", cmap=colours, norm=scale, interpolation="nearest")
        _numbers(axes, cells, scale)
        if best is not None and best["policy"] == policy:
            spot = (settings[policy].index(_key(best["setting"])), shares.index(best["contamination"]))
            _mark(axes, *spot)
        every = max(1, -(-len(settings[policy]) // _MOST_CELLS))
        labels = [_setting_label(text) for text in settings[policy][::every]]
        is_long = max(len(label) for label in labels) > 6
        axes.set_xticks(range(0, len(settings[policy]), every), labels, rotation=90 if is_long else 0, fontsize=8)
        axes.set_yticks(range(len(shares)), ["no limit" if share is None else f"{share:.2%}" for share in shares])
        axes.tick_params(labelsize=8)
        taken = ", ".join(sorted({name for text in settings[policy] for name in json.loads(text)}))
        axes.set_xlabel(f"{plain(policy)}" + (f": {plain(taken, 60)}" if taken else ""), fontsize=9, loc="left")
        for spine in axes.spines.values():
            spine.set_visible(False)
    bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=0)
    said = "the share alerted on" if not has_verdict else plain(grid.get("judge") or "judged", 60)
    title = f"No frauds are known to judge {len(points)} thresholds by"
    if best is not None:
        title = f"Best of {len(points):,} threshold rules: {rule(best)}"
    return style.save(figure, path, title, f"colour: {said}; rows: largest share that may be called fraud")


def rule(point: Mapping[str, Any]) -> str:
    """A grid point in words."""
    setting = ", ".join(f"{tail(name)} {plain(value)}" for name, value in point["setting"].items())
    share = point.get("contamination")
    limit = "" if share is None else f", at most {share:.2%} of rows"
    return f"{plain(point['policy'])}{f' {setting}' if setting else ''}{limit}"


def _key(setting: Mapping[str, Any]) -> str:
    return json.dumps(setting, sort_keys=True)


def _by_value(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    distinct = {_key(setting): [setting[name] for name in sorted(setting)] for setting in settings}
    return sorted(distinct, key=lambda text: [(isinstance(v, str), weight(json.dumps(v))) for v in distinct[text]])


def _setting_label(text: str) -> str:
    return "/".join(plain(value, 10) for _, value in sorted(json.loads(text).items())) or "any"


def _numbers(axes: Any, cells: np.ndarray, scale: Any) -> None:
    """Write the values into the cells where there is room."""
    if cells.shape[1] > _MOST_CELLS:
        return
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3g}"
            colour = "white" if scale(value) < 0.55 else style.INK
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def _mark(axes: Any, column: float, row: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=style.FRAUD, linewidth=2.2, clip_on=False)
    )
