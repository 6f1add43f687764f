"""How much the reference's own days differ, so that weekdays and weekends do not count as drift.

The reference is split into blocks as long as the current file. Each block is compared with the entire reference, as if
it were the current file. A column that varies from block to block, such as the weekday, counts as drifted only beyond
that variation. The part that chance explains is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud.days import UTC, Zone
from monitoring.drift.verdict import DriftLimits, OwnVariation, inner_edges, multiplied, population_stability_index

FEWEST_BLOCKS, FEWEST_ROWS = 5, 100
_QUANTILE = 0.9  # of the blocks: one unusual day, such as a holiday, does not raise the limits
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Variation:
    """Variation of a reference's blocks. days: days per block; blocks: number of blocks."""

    days: int
    blocks: int
    columns: Mapping[str, OwnVariation]


def own_variation(
    frame: pd.DataFrame, time: str, kinds: Mapping[str, str], current_days: float, limits: DriftLimits, zone: Zone = UTC
) -> Variation | None:
    """The variation of blocks of `current_days` days; None if the reference has too few blocks.

    frame: the reference's sample, with the column `time`. kinds: {name: kind}, see monitoring.drift.verdict.judge.
    zone: time zone in which days begin.
    """
    days = max(1, math.ceil(current_days - 0.25))  # a few hours past midnight do not make another day
    times = frame[time].to_numpy(dtype="datetime64[us]")
    known = ~np.isnat(times)
    if not known.any():
        return None
    dates = zone.day_of(times)
    blocks = np.where(known, (dates - dates[known].min()) // (days * _DAY), -1).astype(np.int64)
    numbers, sizes = np.unique(blocks[known], return_counts=True)
    numbers = numbers[sizes >= FEWEST_ROWS]
    if len(numbers) < FEWEST_BLOCKS:
        return None
    columns = {name: _own(frame[name], kind, blocks, numbers, limits) for name, kind in kinds.items()}
    return Variation(days, len(numbers), columns)


def _own(values: pd.Series, kind: str, blocks: np.ndarray, numbers: np.ndarray, limits: DriftLimits) -> OwnVariation:
    lacking = values.isna().to_numpy()
    inside = [blocks == number for number in numbers.tolist()]
    share = lacking.mean()
    gaps = [max(abs(lacking[i].mean() - share) - 2 * math.sqrt(share * (1 - share) / i.sum()), 0.0) for i in inside]
    there = [i[~lacking] for i in inside]
    measure = _numeric if kind in ("numeric", "score") else _levels
    psi, ks, times = measure(values[~lacking], [i for i in there if i.any()], limits)
    return OwnVariation(_high(psi), _high(ks), _high(gaps), sum(times) > (1 - _QUANTILE) * len(times))


def _numeric(
    values: pd.Series, inside: list[np.ndarray], limits: DriftLimits
) -> tuple[list[float], list[float], list[bool]]:
    numbers = values.to_numpy(dtype=np.float64)
    if not len(numbers):
        return [], [], []
    ordered = np.sort(numbers)
    edges = inner_edges(ordered, limits.bins)
    bins = np.searchsorted(edges, numbers)
    total = np.bincount(bins, minlength=len(edges) + 1)
    below, upto = (np.searchsorted(ordered, numbers, side=side) / len(ordered) for side in ("left", "right"))
    psi, ks = [], []
    for i in inside:
        n = int(i.sum())
        psi.append(
            _less_chance(population_stability_index(total, np.bincount(bins[i], minlength=len(total))), total, n)
        )
        steps = np.arange(n + 1) / n  # of the block's distribution function; the largest distance is at a step
        distance = float(max((steps[1:] - np.sort(upto[i])).max(), (np.sort(below[i]) - steps[:-1]).max()))
        ks.append(max(distance - 0.87 / math.sqrt(n), 0.0))  # the mean distance of n rows by chance
    return psi, ks, []


def _levels(
    values: pd.Series, inside: list[np.ndarray], limits: DriftLimits
) -> tuple[list[float], list[float], list[bool]]:
    codes, names = pd.factorize(values)
    if not len(codes):
        return [], [], []
    total = np.bincount(codes, minlength=len(names))
    psi, times = [], []
    for i in inside:
        n, counts = int(i.sum()), np.bincount(codes[i], minlength=len(names))
        common = total * n / total.sum() >= 5
        pooled = [np.append(c[common], c[~common].sum()) for c in (total, counts)]
        psi.append(_less_chance(population_stability_index(*pooled), pooled[0], n))
        times.append(bool(multiplied(total / total.sum(), counts / n, limits).any()))
    return psi, [], times


def _less_chance(psi: float, bins: np.ndarray, rows: int) -> float:
    """PSI minus its expected value without drift: chi-square divided by the rows (Yurdakul, 2018)."""
    return max(psi - (np.count_nonzero(bins) - 1) / rows, 0.0)


def _high(values: list[float]) -> float:
    return float(np.quantile(values, _QUANTILE)) if values else 0.0
