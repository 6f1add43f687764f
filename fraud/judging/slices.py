"""Metrics by time, by segment and by score level: where the model is weaker than average, and whether its scores are
still calibrated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fraud.detectors.calibration import HALF_SCORE_EVIDENCE, to_score
from fraud.errors import ConfigError
from fraud.judging.evaluation import Plan, Scored
from fraud.metrics.resampling import WeightedRanking, interval, measure_resamples, resample_weights, wilson

MOST_LEVELS = 12
_OTHER, _MISSING = "(other)", "(missing)"
_LONGEST_DAILY = 20  # days; longer windows go by week
_LONGEST_WEEKLY = 365
_SLICE_RESAMPLES = 100
_FEWEST_FRAUDS = 5  # for an interval of average precision
_STRICT_Z = 2.576  # 99 %: with a dozen slices, 95 % would give false alarms
_SHARES = (0.1, 0.01, 0.001, 0.0001)
_TOLERATED = 2.0  # factor by which a rarity may deviate
_FEWEST_ROWS = 5


def stability(scored: Scored, plan: Plan) -> dict[str, Any]:
    """Metrics of each day (up to 20 days), week or month of the window.

    Keys: step ("day", "week", "month"), overall (figures), parts [{name, figures, weak}] oldest first; figures as
    `measure`, weak as in `segments`.
    """
    days = scored.days
    if days is None:
        return {"missing": "the schema has no timestamp column: name one in the schema to see stability over time"}
    span = scored.n_days or 0
    if span < 2:
        return {"missing": "the window is a single day: take a longer one (--start, --end)"}
    step = "day" if span <= _LONGEST_DAILY else "week" if span <= _LONGEST_WEEKLY else "month"
    if step == "month":
        starts = days.astype("datetime64[M]").astype("datetime64[D]")
    else:
        # Weeks count from the window's first day, so that only the last one can be short.
        length = 1 if step == "day" else 7
        starts = days.min() + (days - days.min()).astype(np.int64) // length * length
    parts = [(str(start), starts == start) for start in np.unique(starts)]
    return {"step": step, **_sliced(scored, plan, parts)}


def segments(scored: Scored, plan: Plan) -> dict[str, Any]:
    """Metrics of each segment.

    Columns: `plan.segments`, or the categorical and boolean columns with at most 12 levels and the amount's quartiles.
    Keys: columns [{column, overall, parts [{name, figures, weak}]}]; weak: a description if recall is significantly
    lower or false alarms are significantly more frequent than overall (99 % Wilson intervals), else None.
    Raises ConfigError if a requested column is not in the schema.
    """
    chosen = _segment_columns(scored, plan)
    if not chosen or not len(scored.rows):
        return {"missing": "no categorical or boolean column with few levels and no amount: name one with --segment"}
    columns = []
    for name in chosen:
        sliced = _sliced(scored, plan, list(_levels(scored, name)))
        columns.append({"column": name, **sliced})
    return {"columns": columns}


def segment_masks(scored: Scored, plan: Plan) -> list[tuple[str, str, np.ndarray]]:
    """The segments that `segments` reports: (column, level, rows as bool (n_rows,)). Raises ConfigError."""
    return [
        (column, level, rows) for column in _segment_columns(scored, plan) for level, rows in _levels(scored, column)
    ]


def _segment_columns(scored: Scored, plan: Plan) -> list[str]:
    chosen = list(plan.segments)
    for name in chosen:
        if name not in scored.rows.columns:
            known = ", ".join(column.name for column in scored.schema.inputs)
            raise ConfigError(
                f"--segment {name!r} is not a column of schema {scored.schema.name!r}: use one of {known}"
            )
    if not chosen:
        few = [c.name for c in scored.schema.features if c.kind in ("categorical", "boolean")]
        chosen = [name for name in few if 1 < scored.rows[name].nunique() <= MOST_LEVELS]
        chosen += [scored.amount] if scored.amount is not None else []
    return list(dict.fromkeys(chosen))


def rarity(scored: Scored) -> dict[str, Any]:
    """Whether scores are as rare among normal rows as calibrated (`fraud.detectors.calibration`).

    Keys: normal_rows, unlabelled (True when no row is labelled and all count as normal), scores {name: [{expected,
    score, rows, observed, interval, ratio, holds}]}; the last level of the first score is the model's threshold.
    `holds` is False if the observed share deviates by more than a factor of two beyond chance; None with few rows.
    """
    unlabelled = not (scored.labels >= 0).any()
    normal = scored.labels <= 0 if unlabelled else scored.labels == 0
    n = int(normal.sum())
    if not n:
        return {"missing": "there is no legitimate row to check the score's rarity on: take a longer window"}
    levels_of = {}
    for index, (name, values) in enumerate(scored.scores.items()):
        levels = [(share, float(to_score(np.array([-np.log10(share)]))[0])) for share in _SHARES]
        if index == 0 and 0 < scored.threshold < 1:
            evidence = HALF_SCORE_EVIDENCE * scored.threshold / (1 - scored.threshold)
            levels.append((float(10.0**-evidence), scored.threshold))
        levels_of[name] = [_rarity(values[normal], share, level) for share, level in levels]
    return {"normal_rows": n, "unlabelled": unlabelled, "scores": levels_of}


def reliability(scored: Scored) -> dict[str, Any]:
    """Share of frauds among the rows of each score level, levels being powers of ten of rarity.

    Keys: bins [{low, high, rows, frauds, precision, interval}], lowest first.
    """
    if scored.unrankable:
        return {"missing": scored.unrankable}
    edges = np.r_[to_score(np.array([0.0, 1, 2, 3, 4, 5])), 1.0]
    rows = scored.labelled
    positions = np.clip(np.searchsorted(edges, rows.main, side="right") - 1, 0, edges.size - 2)
    counts = np.bincount(positions, minlength=edges.size - 1)
    frauds = np.bincount(positions[rows.labels == 1], minlength=edges.size - 1)
    bins = [
        {
            "low": float(edges[i]), "high": float(edges[i + 1]), "rows": int(counts[i]), "frauds": int(frauds[i]),
            "precision": float(frauds[i] / counts[i]) if counts[i] else None,
            "interval": wilson(float(frauds[i]), float(counts[i])),
        }
        for i in range(edges.size - 1)
    ]  # fmt: skip
    return {"bins": bins}


def measure(scored: Scored, resamples: int = 0, seed: int = 0) -> dict[str, Any]:
    """Counts and metrics at the model's threshold, each metric as {value, interval}, or None if undefined.

    Keys: rows, unlabelled, frauds, alerts (all rows), alert_rate, recall, precision, false_positive_rate (Wilson
    intervals) and average_precision (bootstrap interval, with `resamples` above 0 and at least 5 frauds).
    """
    alerted = scored.main >= scored.threshold
    fraud, legitimate = scored.labels == 1, scored.labels == 0
    caught, false_alarms = float((alerted & fraud).sum()), float((alerted & legitimate).sum())
    figures: dict[str, Any] = {
        "rows": len(alerted),
        "unlabelled": int((scored.labels < 0).sum()),
        "frauds": int(fraud.sum()),
        "alerts": int(alerted.sum()),
        "alert_rate": _rate(float(alerted.sum()), len(alerted)),
        "recall": _rate(caught, fraud.sum()),
        "precision": _rate(caught, caught + false_alarms),
        "false_positive_rate": _rate(false_alarms, legitimate.sum()),
        "average_precision": None,
    }
    if fraud.any() and legitimate.any():
        rows = scored.labelled
        ranked = WeightedRanking(rows.labels, rows.main)
        n = resamples if fraud.sum() >= _FEWEST_FRAUDS else 0
        weights = resample_weights(ranked.size, n, seed, rows.clusters) if n else ()
        point, drawn = measure_resamples(lambda w: {"ap": ranked.count(w).average_precision()}, weights)
        figures["average_precision"] = {"value": point["ap"], "interval": interval(drawn["ap"]) if n else None}
    return figures


def _sliced(scored: Scored, plan: Plan, parts: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
    overall = measure(scored)
    resamples = min(plan.resamples, _SLICE_RESAMPLES)
    described = []
    for name, mask in parts:
        figures = measure(scored.at(mask), resamples, plan.seed)
        described.append({"name": name, "figures": figures, "weak": _weakness(figures, overall)})
    return {"overall": overall, "parts": described}


def _weakness(part: dict[str, Any], overall: dict[str, Any]) -> str | None:
    """Describe what is significantly worse in a part than overall; None if nothing is."""
    weaknesses = []
    if part["recall"] and overall["recall"]:
        share, trials = part["recall"]["value"], part["frauds"]
        high = wilson(share * trials, trials, _STRICT_Z)
        if high and high[1] < overall["recall"]["value"]:
            weaknesses.append(f"finds {share:.0%} of its {trials:,} frauds, {overall['recall']['value']:.0%} overall")
    if part["false_positive_rate"] and overall["false_positive_rate"]:
        share, usual = part["false_positive_rate"]["value"], overall["false_positive_rate"]["value"]
        trials = part["rows"] - part["frauds"] - part["unlabelled"]
        low = wilson(share * trials, trials, _STRICT_Z)
        if low and usual > 0 and low[0] > usual and share > 1.5 * usual:
            weaknesses.append(f"false alarms on {share:.2%} of its legitimate rows, {usual:.2%} overall")
    return "; ".join(weaknesses) or None


def _levels(scored: Scored, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Levels of a column with the rows of each: quartiles if numeric, only the most frequent if there are many."""
    values, kind = scored.rows[name], scored.schema.column(name).kind
    missing = values.isna().to_numpy()
    if kind == "timestamp":
        raise ConfigError(f"--segment {name!r} is the timestamp: the page shows time by itself; name another column")
    if kind == "numeric" and values.nunique() > MOST_LEVELS:
        array = values.to_numpy(dtype=np.float64)
        edges = np.unique(np.quantile(array[~missing], [0, 0.25, 0.5, 0.75, 1]))
        bin_index = np.clip(np.searchsorted(edges, array, side="right") - 1, 0, max(edges.size - 2, 0))
        for i in range(max(edges.size - 1, 1)):
            last = i == edges.size - 2
            yield f"{edges[i]:,.6g} to {'' if last else 'below '}{edges[i + 1]:,.6g}", (bin_index == i) & ~missing
    else:
        text = values.astype(str).to_numpy(dtype=object)
        if kind == "boolean":
            text = np.where(values.to_numpy(dtype=np.float64) > 0, "yes", "no")
        counts = pd.Series(text[~missing]).value_counts()
        for level in counts.index[:MOST_LEVELS]:
            yield str(level), (text == level) & ~missing
        if len(counts) > MOST_LEVELS:
            yield _OTHER, ~np.isin(text.astype(str), counts.index[:MOST_LEVELS].astype(str)) & ~missing
    if missing.any():
        yield _MISSING, missing


def _rarity(values: np.ndarray, expected: float, level: float) -> dict[str, Any]:
    n, hits = len(values), int((values >= level).sum())
    low, high = wilson(hits, n) or (0.0, 1.0)
    ratio = hits / n / expected
    is_off = low > expected * _TOLERATED or high < expected / _TOLERATED
    enough = max(hits, expected * n) >= _FEWEST_ROWS
    return {
        "expected": expected, "score": level, "rows": hits, "observed": hits / n, "interval": (low, high),
        "ratio": ratio, "holds": not is_off if enough else None,
    }  # fmt: skip


def _rate(part: float, total: float) -> dict[str, Any] | None:
    return {"value": float(part / total), "interval": wilson(part, float(total))} if total > 0 else None
