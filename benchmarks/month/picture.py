"""Plot a month: alerts, drift, live precision, champion versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fraud.judging import plot_style as style

PROMOTED, REFUSED = "#009E73", "#B42318"
_LEVELS = {"ok": "#009E73", "warning": "#E69F00", "drift": "#D55E00"}
_LIMITS = {"warning": 0.1, "drift": 0.25}


def draw(result: Mapping[str, Any], drift_day: int, path: Path) -> Path:
    """Write the PNG of one month, after `criteria.judge`."""
    figure, (alerts, drift, precision, champion) = style.new_figure(
        1, 4, height=9.0, sharex=True, height_ratios=[1.0, 0.9, 1.15, 0.75]
    )
    figure.set_figwidth(9.4)
    days = result["days"]
    x = np.array([one["day"] for one in days])
    for axes in (alerts, drift, precision, champion):
        axes.axvline(drift_day - 0.5, color=style.INK, linewidth=1.1, linestyle=style.DASHED)
        axes.grid(axis="x", visible=False)
    _alerts(alerts, days, x)
    _drift(drift, days, x)
    _precision(precision, days, x)
    _champion(champion, result, x)
    alerts.annotate(
        "amounts inflate, a new fraud begins", (drift_day - 0.5, 1.0), xycoords=alerts.get_xaxis_transform(),
        xytext=(6, -5), textcoords="offset points", ha="left", va="top", fontsize=9, color=style.INK,
    )  # fmt: skip
    champion.set_xlim(x[0] - 0.7, x[-1] + 0.7)
    champion.set_xticks([day for day in x if day == 1 or day % 7 == 0 or day == x[-1]])
    champion.set_xlabel("day of the month (labels come 7 days late)")
    judged = result["judged"]
    title = f"A month: drift on day {drift_day} is noticed on day {judged['alarm_day']}"
    swaps = [gate["day"] for gate in result["gates"] if gate["decision"] == "promoted"]
    if swaps:
        title += f"; on day {swaps[-1]} the gate promotes the model that has learnt it"
    subtitle = (
        f"False alarms before: {len(judged['false_alarms'])}. The interval of live precision holds the truth on "
        f"{judged['covered']:.0%} of the days. {days[0]['rows']:,} transactions a day, simulated."
    )
    return style.save(figure, path, title, subtitle)


def _alerts(axes: Any, days: list[dict[str, Any]], x: np.ndarray) -> None:
    caught = np.array([one["flagged"] * (one["precision"] or 0.0) for one in days])
    flagged = np.array([one["flagged"] for one in days])
    axes.bar(x, caught, width=0.72, color=style.FRAUD, label="frauds caught")
    axes.bar(x, flagged - caught, bottom=caught, width=0.72, color=style.LEGITIMATE, label="false alarms")
    axes.plot(x, [one["frauds"] for one in days], color=style.INK, linewidth=1.3, marker=".", label="frauds there were")
    axes.set_ylabel("a day")
    axes.set_ylim(0, 1.32 * max(flagged.max(), max(one["frauds"] for one in days)))
    _legend(axes, 3)


def _drift(axes: Any, days: list[dict[str, Any]], x: np.ndarray) -> None:
    worst = np.array([max(one["psi"].values()) for one in days])
    axes.plot(x, worst, color=style.GRID, linewidth=1.5, zorder=1)
    for level, colour in _LEVELS.items():
        mask = np.array([one["verdict"] == level for one in days])
        if mask.any():
            axes.scatter(x[mask], worst[mask], color=colour, s=34, zorder=3, label=level)
    for name, limit in _LIMITS.items():
        style.horizontal_line(axes, limit, name)
    axes.set_yscale("log")
    axes.set_ylim(0.006, 2.0)
    axes.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    axes.set_ylabel("worst PSI")
    _legend(axes, 3)


def _precision(axes: Any, days: list[dict[str, Any]], x: np.ndarray) -> None:
    known = np.array([one["low"] is not None for one in days])
    estimate, low, high = (np.array([one[k] or 0.0 for one in days]) for k in ("estimate", "low", "high"))
    axes.vlines(x[known], low[known], high[known], color=style.COLOURS["label_light"], linewidth=7, alpha=0.45,
                label="estimate on the next morning, 95 %")  # fmt: skip
    axes.scatter(x[known], estimate[known], marker="_", s=60, color=style.COLOURS["joined"], linewidth=2)
    truth = np.array([np.nan if one["precision"] is None else one["precision"] for one in days])
    axes.scatter(x, truth, color=style.INK, s=22, zorder=4, label="truth, known later")
    axes.set_ylim(0, 1.28)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    style.percent(axes.yaxis)
    axes.set_ylabel("precision of the alerts")
    _legend(axes, 2)


def _champion(axes: Any, result: Mapping[str, Any], x: np.ndarray) -> None:
    days, gates = result["days"], result["gates"]
    versions = list(dict.fromkeys(one["champion"] for one in days))
    for version, colour in zip(versions, ("#0072B2", "#56B4E9", "#7A5195", "#8C6D31", "#CC79A7"), strict=False):
        there = [one["day"] for one in days if one["champion"] == version]
        axes.barh(0, there[-1] - there[0] + 0.92, left=there[0] - 0.46, height=0.55, color=colour)
        axes.text(there[0] - 0.25, 0, f"version {version}" if len(there) > 2 else f"{version}", va="center",
                  fontsize=9, color="white", weight="bold")  # fmt: skip
    for day in dict.fromkeys(gate["day"] for gate in gates):
        for index, gate in enumerate(gate for gate in gates if gate["day"] == day):
            is_in = gate["decision"] == "promoted"
            y = 0.72 + 0.55 * index
            axes.scatter(day, y, marker="^" if is_in else "x", s=46, color=PROMOTED if is_in else REFUSED, linewidth=2)
            name = {"weekly": f"version {gate['version']}"}.get(gate["kind"], gate["kind"])
            axes.annotate(f"{name} {gate['decision']}", (day, y), xytext=(-8, 0), textcoords="offset points",
                          ha="right", va="center", fontsize=9, color=PROMOTED if is_in else REFUSED)  # fmt: skip
    axes.set_ylim(-0.4, 2.3)
    axes.set_yticks([])
    axes.set_ylabel("champion, gate")
    axes.grid(visible=False)


def _legend(axes: Any, columns: int) -> None:
    axes.legend(loc="upper left", ncols=columns, fontsize=9, frameon=False, labelcolor=style.INK, handletextpad=0.4,
                columnspacing=1.2, borderaxespad=0.2)  # fmt: skip
