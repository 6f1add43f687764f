"""Plots of a training: precision-recall, ROC, scores by class, losses by epoch, cost and alerts by threshold.

Each takes scores by name, {"joined": ..., "forest": ..., "autoencoder": ...}; the first one makes the decision. Each
writes one PNG atomically, creates its folder if needed, and returns its path. The title states the finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fraud.errors import DataError
from fraud.judging import plot_style as style
from fraud.metrics.measures import average_precision, roc_auc
from fraud.metrics.ranking import Floats, Ranking, check_labels, check_scores, rank, sort_descending
from fraud.thresholds.cuts import missed_loss
from fraud.thresholds.policies import ThresholdConfig

_POINTS = 2000


def pr_curve(
    labels: ArrayLike, scores: Mapping[str, ArrayLike], path: str | Path, *, window: str = "test window"
) -> Path:
    """Precision against recall, with the base rate. labels, each score: (n_rows,). Raises DataError as `rank`."""
    rankings = _rankings(labels, scores)
    area = {name: average_precision(labels, scores[name]) for name in rankings}
    figure, (axes,) = style.new_figure()
    for name, ranking in _back_to_front(rankings):
        # Steps, because average precision is the area under them: precision of a cut times the recall it adds.
        curve = _thin(np.r_[0.0, ranking.recall], np.r_[ranking.precision[0], ranking.precision])
        axes.plot(*curve, drawstyle="steps-pre", label=f"{name}  {area[name]:.3f}", **_line(name, rankings))
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall: share of the frauds found", ylabel="precision of the alerts")
    first = next(iter(rankings.values()))
    rate = first.frauds[-1] / first.alerts[-1]
    style.horizontal_line(axes, rate, f"alerting at random: {rate:.2%}")
    style.percent(axes.xaxis)
    style.percent(axes.yaxis)
    style.legend(axes, "average precision", "best", rankings)
    return style.save(figure, path, f"Precision–recall (AP: {_ranked(area)})", f"{window}: {_rows(first)}")


def roc_curve(
    labels: ArrayLike, scores: Mapping[str, ArrayLike], path: str | Path, *, window: str = "test window"
) -> Path:
    """Recall against false positive rate. labels, each score: (n_rows,). Raises DataError as `rank`."""
    rankings = _rankings(labels, scores)
    area = {name: roc_auc(labels, scores[name]) for name in rankings}
    figure, (axes,) = style.new_figure()
    for name, ranking in _back_to_front(rankings):
        curve = _thin(np.r_[0.0, ranking.false_positive_rate], np.r_[0.0, ranking.recall])
        axes.plot(*curve, label=f"{name}  {area[name]:.3f}", **_line(name, rankings))
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle=style.DASHED)
    axes.text(0.44, 0.39, "chance", color=style.MUTED, fontsize=9)
    axes.set(xlim=(-0.005, 1), ylim=(0, 1.02), xlabel="false positive rate: share of the legitimate rows with an alert")
    axes.set_ylabel("recall: share of the frauds found")
    style.percent(axes.xaxis)
    style.percent(axes.yaxis)
    style.legend(axes, "area under the curve", "lower right", rankings)
    subtitle = f"{window}: {_rows(next(iter(rankings.values())))}"
    return style.save(figure, path, f"ROC (AUC: {_ranked(area)})", subtitle)


def score_histogram(
    labels: ArrayLike | None,
    scores: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    thresholds: Mapping[str, float] | None = None,
    window: str = "test window",
) -> Path:
    """Scores by class, counts on a log scale, one panel per score, with a line at each of the `thresholds`.

    labels: (n_rows,) of 1, 0, -1 (drawn as unlabelled), or None. Raises DataError for NaN scores, no rows or different
    lengths.
    """
    values = {name: check_scores(array) for name, array in _named(scores).items()}
    lines = thresholds or {}
    figure, panels = style.new_figure(len(values), sharey=True)
    truth = np.empty(0, np.int8)
    for axes, (name, array) in zip(panels, values.items(), strict=True):
        if not array.size:
            raise DataError(f"there are no {name} scores to draw: give a window with at least one transaction")
        truth = check_labels(np.full(array.size, -1) if labels is None else labels, array.size)
        edges = np.histogram_bin_edges(array, bins=50).tolist()
        for label, code, colour in (
            ("unlabelled", -1, style.UNLABELLED),
            ("legitimate", 0, style.LEGITIMATE),
            ("fraud", 1, style.FRAUD),
        ):
            chosen = array[truth == code]
            if chosen.size:
                axes.hist(chosen, edges, color=colour, alpha=0.45, label=f"{label}  {chosen.size:,}")
                axes.hist(chosen, edges, histtype="step", color=colour, linewidth=1.4)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.set_xlabel(f"{name} score")
        if name in lines:
            style.vertical_line(axes, lines[name], f"threshold {lines[name]:.3g}")
    panels[0].set_ylabel("transactions (log scale)")
    style.thousands(panels[0].yaxis)
    style.header_legend(figure, panels[0])
    title = "Scores by class"
    first = next(iter(values))
    if first in lines and (truth == 1).any():
        recall = (values[first] >= lines[first])[truth == 1].mean()
        title += f": the threshold finds {recall:.0%} of the frauds"
    return style.save(figure, path, title, f"{window}: {truth.size:,} transactions")


def loss_curve(losses: Mapping[str, Sequence[float]], path: str | Path, *, best_epoch: int | None = None) -> Path:
    """Reconstruction error by epoch, with the best epoch marked.

    losses: {"training": [...], "validation": [...]}, one value per epoch. best_epoch: counted from 1, the epoch whose
    weights the model has; None takes the lowest of the last series. Raises DataError if a series has no finite value.
    """
    from matplotlib.ticker import MaxNLocator

    series = {name: np.asarray(values, dtype=np.float64) for name, values in _named(losses).items()}
    for name, values in series.items():
        if not np.isfinite(values).any():
            raise DataError(f"the {name} loss has no finite value to draw: train for at least one epoch")
    watched = list(series.values())[-1]
    best = int(np.nanargmin(watched)) + 1 if best_epoch is None else best_epoch
    figure, (axes,) = style.new_figure()
    colours = (*[style.LEGITIMATE, *style.OTHER_COLOURS][: len(series) - 1], style.COLOURS["autoencoder"])
    for (name, values), colour in zip(series.items(), colours, strict=False):
        axes.plot(np.arange(1, values.size + 1), values, "o-", color=colour, linewidth=2, markersize=3.5, label=name)
    finite = np.concatenate([values[np.isfinite(values)] for values in series.values()])
    if 0 < 20 * finite.min() < finite.max():
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, max(values.size for values in series.values()) + 0.5)
    axes.set(xlabel="epoch", ylabel="reconstruction error")
    title = f"The autoencoder's {list(series)[-1]} error is lowest at epoch {best} of {watched.size}"
    if 1 <= best <= watched.size:
        axes.plot([best], [watched[best - 1]], "o", markersize=11, markerfacecolor="none", markeredgecolor=style.INK)
        style.vertical_line(axes, best, f"epoch {best}: {watched[best - 1]:.4g}", height=0.8)
    style.legend(axes, None, "upper right")
    return style.save(figure, path, title, "mean error by epoch; the model has the weights of the marked epoch")


def threshold_cost(
    labels: ArrayLike,
    scores: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    config: ThresholdConfig | None = None,
    threshold: float | None = None,
    amounts: ArrayLike | None = None,
    window: str = "test window",
) -> Path:
    """Cost in currency units of every threshold, one line per score, a dot at the cheapest threshold.

    config: has the cost matrix. threshold: the chosen one, of the first score. amounts: (n_rows,); with them a missed
    fraud costs its amount. Raises DataError as `rank`, and for an impossible amount.
    """
    rankings = _rankings(labels, scores)
    matrix = config or ThresholdConfig(policy="cost")
    truth = check_labels(labels, np.size(labels))
    loss = missed_loss(truth, matrix, amounts)[truth >= 0]
    first, idle = next(iter(rankings)), float(matrix.cost_true_negative * (truth == 0).sum() + loss.sum())
    figure, (axes,) = style.new_figure()
    chosen_cost = None
    for name, ranking in _back_to_front(rankings):
        order, ends = sort_descending(check_scores(scores[name])[truth >= 0])
        false_alarms = ranking.alerts - ranking.frauds
        cost = (
            idle
            + (matrix.cost_false_positive - matrix.cost_true_negative) * false_alarms
            + matrix.cost_true_positive * ranking.frauds
            - np.cumsum(loss[order])[ends]
        )
        best = int(np.argmin(cost))
        axes.plot(*_thin(ranking.values, cost), label=f"{name}  {cost[best]:,.0f}", **_line(name, rankings))
        dot: dict[str, Any] = {
            "color": style.colour_of(name, rankings),
            "markersize": 8,
            "markeredgecolor": "white",
            "zorder": 5,
        }
        axes.plot([ranking.values[best]], [cost[best]], "o", **dot)
        if name == first and threshold is not None:
            alerted = ranking.values >= threshold
            chosen_cost = float(cost[alerted][-1]) if alerted.any() else idle
    # Alerting on everything costs many times more than no alerts. Without this limit the minimum looks flat.
    axes.set_ylim(0, max(1.5 * idle, 1.0))
    axes.set(xlabel="threshold on the score", ylabel="cost (currency units)")
    style.thousands(axes.yaxis)
    style.horizontal_line(axes, idle, f"no alerts at all: {idle:,.0f}")
    if threshold is not None:
        style.vertical_line(axes, threshold, f"threshold {threshold:.3g}", height=0.12)
    style.legend(axes, "lowest cost", "best", rankings)
    title = "Cost by threshold"
    if chosen_cost is not None and idle > 0:
        saved = 1 - chosen_cost / idle
        verdict = f"saves {saved:.0%} against" if saved >= 0 else f"costs {-saved:.0%} more than"
        title += f": the chosen one {verdict} no alerts"
    missed = "its amount" if amounts is not None else f"{matrix.cost_false_negative:g}"
    priced = f"a false alarm costs {matrix.cost_false_positive:g}, a missed fraud {missed}"
    return style.save(figure, path, title, f"{window}: {_rows(rankings[first])}; {priced}")


def threshold_curves(
    labels: ArrayLike,
    scores: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    threshold: float | None = None,
    window: str = "test window",
) -> Path:
    """Above, precision and recall of every threshold; below, the share of rows with an alert. One column per score.

    threshold: the chosen one, of the first score. Raises DataError as `rank`.
    """
    rankings = _rankings(labels, scores)
    columns = len(rankings)
    figure, panels = style.new_figure(columns, 2, sharex="col", sharey="row", height_ratios=[3, 2])
    for (name, ranking), upper, lower in zip(rankings.items(), panels[:columns], panels[columns:], strict=True):
        colour = style.colour_of(name, rankings)
        upper.plot(*_thin(ranking.values, ranking.precision), color=colour, linewidth=2, label="precision")
        upper.plot(
            *_thin(ranking.values, ranking.recall), color=colour, linewidth=1.6, linestyle=(0, (2, 1.2)), label="recall"
        )
        lower.plot(*_thin(ranking.values, ranking.alerts / ranking.alerts[-1]), color=colour, linewidth=2)
        lower.set_yscale("log")
        lower.set_xlabel(f"threshold on the {name} score")
    first = next(iter(rankings.values()))
    panels[0].set(ylim=(0, 1.02), ylabel="precision and recall")
    panels[columns].set_ylabel("share with an alert\n(log scale)")
    style.percent(panels[0].yaxis)
    style.percent(panels[columns].yaxis)
    style.header_legend(figure, panels[0])
    title = "Precision, recall and alerts by threshold"
    if threshold is not None:
        style.vertical_line(panels[0], threshold, "")
        style.vertical_line(panels[columns], threshold, f"threshold {threshold:.3g}")
        alerted = first.values >= threshold
        if alerted.any():
            cut = int(alerted.sum()) - 1
            title = (
                f"At the threshold {first.precision[cut]:.0%} of alerts are fraud, "
                f"and {first.recall[cut]:.0%} of fraud is found"
            )
    return style.save(figure, path, title, f"{window}: {_rows(first)}")


def _named(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    if not scores:
        raise DataError("there is nothing to draw: pass at least one named array")
    return scores


def _rankings(labels: ArrayLike, scores: Mapping[str, ArrayLike]) -> dict[str, Ranking]:
    return {name: rank(labels, array) for name, array in _named(scores).items()}


def _back_to_front(rankings: Mapping[str, Ranking]) -> list[tuple[str, Ranking]]:
    """Reversed, so that the first score is drawn last, on top."""
    return list(rankings.items())[::-1]


def _line(name: str, rankings: Mapping[str, Ranking]) -> dict[str, Any]:
    return {"color": style.colour_of(name, rankings), "linewidth": 2.4 if name == next(iter(rankings)) else 1.6}


def _ranked(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in sorted(figures.items(), key=lambda pair: -pair[1]))


def _rows(ranking: Ranking) -> str:
    rows, frauds = int(ranking.alerts[-1]), int(ranking.frauds[-1])
    return f"{rows:,} transactions, {frauds:,} frauds ({frauds / rows:.2%})"


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Reduce to about 2 * `_POINTS` points; all of the first few hundred stay, where curves are jagged."""
    size = x.size
    if size <= 2 * _POINTS:
        return x, y
    indices = np.unique(np.r_[np.geomspace(1, size, _POINTS), np.linspace(1, size, _POINTS)].astype(np.int64) - 1)
    return x[indices], y[indices]
