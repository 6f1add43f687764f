"""The compiled inner loops of entity history: read a row's features from its entity's state, then learn the row.

Batches replay through the same functions that single requests call. States are flat arrays; see fraud/history.py.
"""

from __future__ import annotations

import math

from numba import njit

# Columns of a history state, one row an entity (see fraud/history.py).
WEIGHT, SUM, SQUARES, SEEN, LABELLED, FRAUDS, LABEL_SEEN = 0, 1, 2, 3, 4, 5, 6
N_STATE = 7
# Pseudo-observations that pull a young entity's norm, and its fraud rate, towards everybody's.
NORM_PRIOR, RISK_PRIOR = 3.0, 1.0
# Columns that `history_features` writes, in this order.
ZSCORE, LOG_RATIO, COUNT, RISK = 0, 1, 2, 3


@njit(cache=True)
def decay(state, column_time, now, half_life):  # pragma: no cover - compiled
    """Weight that an entity's statistics keep at `now`; late rows (before the last one seen) are not grown."""
    age = now - state[column_time]
    if age <= 0.0:
        return 1.0
    return 0.5 ** (age / half_life)


@njit(cache=True)
def history_features(state, totals, now, value, half_life, out):  # pragma: no cover - compiled
    """Write zscore, log_ratio, count and risk of one row, given its entity's state before the row.

    state: float64 (7,); totals: float64 (5,) weight, sum, squares of all values, labels and frauds of all rows.
    """
    kept = decay(state, SEEN, now, half_life)
    weight = state[WEIGHT] * kept
    mean_all = 0.0
    square_all = 1.0
    if totals[0] > 0.0:
        mean_all = totals[1] / totals[0]
        square_all = totals[2] / totals[0]
    mean = (state[SUM] * kept + NORM_PRIOR * mean_all) / (weight + NORM_PRIOR)
    square = (state[SQUARES] * kept + NORM_PRIOR * square_all) / (weight + NORM_PRIOR)
    spread = math.sqrt(max(square - mean * mean, 1e-12))
    # A floor keeps an entity that always pays the same from turning one cent more into a thousand deviations.
    spread = max(spread, 1e-3 * abs(mean), 1e-9)
    out[ZSCORE] = (value - mean) / spread
    out[LOG_RATIO] = math.copysign(math.log1p(abs(value)), value) - math.copysign(math.log1p(abs(mean)), mean)
    out[COUNT] = weight
    base = 0.0
    if totals[3] > 0.0:
        base = totals[4] / totals[3]
    kept = decay(state, LABEL_SEEN, now, half_life)
    out[RISK] = (state[FRAUDS] * kept + RISK_PRIOR * base) / (state[LABELLED] * kept + RISK_PRIOR)


@njit(cache=True)
def learn_value(state, totals, now, value, half_life):  # pragma: no cover - compiled
    """Count one row into its entity's norm and into everybody's; a missing value changes nothing."""
    if math.isnan(value):
        return
    kept = decay(state, SEEN, now, half_life)
    state[WEIGHT] = state[WEIGHT] * kept + 1.0
    state[SUM] = state[SUM] * kept + value
    state[SQUARES] = state[SQUARES] * kept + value * value
    state[SEEN] = max(state[SEEN], now)
    totals[0] += 1.0
    totals[1] += value
    totals[2] += value * value


@njit(cache=True)
def learn_label(state, totals, matured, label, half_life):  # pragma: no cover - compiled
    """Count one matured label (1 fraud, 0 legitimate) into its entity's fraud rate and into everybody's."""
    kept = decay(state, LABEL_SEEN, matured, half_life)
    state[LABELLED] = state[LABELLED] * kept + 1.0
    state[FRAUDS] = state[FRAUDS] * kept + label
    state[LABEL_SEEN] = max(state[LABEL_SEEN], matured)
    totals[3] += 1.0
    totals[4] += label


@njit(cache=True)
def replay_history(
    states, totals, times, entities, values, half_life, pending, pending_entities, pending_labels, updates, out
):  # pragma: no cover - compiled
    """Walk rows in time order: read each row's features, then learn it. Labels are learnt when they mature, never
    before.

    times: float64 (n,) days, ascending; entities: int64 (n,); values: float64 (n,); pending: float64 (m,) days on which
    the labels of pending_entities/pending_labels become known, ascending; out: float64 (n, 4). Returns the labels used.
    """
    used = 0
    for i in range(len(times)):
        while used < len(pending) and pending[used] <= times[i]:
            learn_label(states[pending_entities[used]], totals, pending[used], pending_labels[used], half_life)
            used += 1
        history_features(states[entities[i]], totals, times[i], values[i], half_life, out[i])
        if updates:
            learn_value(states[entities[i]], totals, times[i], values[i], half_life)
    return used
