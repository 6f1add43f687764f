"""The compiled inner loops: entity history, feature scaling, tree traversal, autoencoder forward pass, calibration.

Training, batch and single requests all run these same loops, so a feature or a score has one definition. Only this
module imports numba. Every kernel takes flat arrays and writes into arrays its caller made.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Kinds of raw feature, as stored in FeatureMap.kinds.
LINEAR, LOG, SIGNED_LOG, LOOKUP = 0, 1, 2, 3
# Activations, as stored in Autoencoder.activation_code.
RELU, LEAKY_RELU, TANH, ELU = 0, 1, 2, 3
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


@njit(cache=True)
def transform_row(
    raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, out
):  # pragma: no cover - compiled
    """Turn one raw row, float64 (n_raw,), into the detectors' float32 inputs (n_outputs,); arrays as in FeatureMap."""
    for j in range(len(raw)):
        x = raw[j]
        first = starts[j]
        if kinds[j] == LOOKUP:
            level = levels[j]
            if 0.0 <= x < levels[j]:
                level = int(x)
            for k in range(tables.shape[1]):
                if first + k < starts[j + 1]:
                    out[first + k] = tables[offsets[j] + level, k]
            continue
        flag = missing_output[j]
        if flag >= 0:
            out[flag] = 0.0
        if math.isnan(x):
            out[first] = 0.0
            if flag >= 0:
                out[flag] = 1.0
            continue
        if kinds[j] == LOG:
            x = math.log1p(max(x, 0.0))
        elif kinds[j] == SIGNED_LOG:
            x = math.copysign(math.log1p(abs(x)), x)
        x = (x - center[j]) / scale[j]
        out[first] = min(max(x, -clip), clip)


@njit(cache=True)
def transform_rows(
    raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, out
):  # pragma: no cover - compiled
    """`transform_row` over rows; raw float64 (n, n_raw), out float32 (n, n_outputs)."""
    for i in range(len(raw)):
        transform_row(raw[i], kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, out[i])


@njit(cache=True)
def forest_row(x, features, thresholds, children, path_lengths, roots, depths):  # pragma: no cover - compiled
    """Mean path length of one row over all trees."""
    total = 0.0
    for tree in range(len(roots)):
        node = roots[tree]
        for _ in range(depths[tree]):
            node = children[node] + (x[features[node]] > thresholds[node])
        total += path_lengths[node]
    return total / len(roots)


@njit(cache=True)
def forest_rows(X, features, thresholds, children, path_lengths, roots, depths, out):  # pragma: no cover - compiled
    """Mean path length of many rows: blocks of rows stay in cache per tree, and eight rows walk a tree at a time.

    A leaf is its own child behind a threshold of +inf, so every walk has the tree's full depth and no branch to
    mispredict.
    """
    n = len(X)
    block = 256
    for start in range(0, n, block):
        stop = min(start + block, n)
        for i in range(start, stop):
            out[i] = 0.0
        for tree in range(len(roots)):
            root = roots[tree]
            depth = depths[tree]
            i = start
            while i + 8 <= stop:
                a, b, c, d = root, root, root, root
                e, f, g, h = root, root, root, root
                for _ in range(depth):
                    a = children[a] + (X[i, features[a]] > thresholds[a])
                    b = children[b] + (X[i + 1, features[b]] > thresholds[b])
                    c = children[c] + (X[i + 2, features[c]] > thresholds[c])
                    d = children[d] + (X[i + 3, features[d]] > thresholds[d])
                    e = children[e] + (X[i + 4, features[e]] > thresholds[e])
                    f = children[f] + (X[i + 5, features[f]] > thresholds[f])
                    g = children[g] + (X[i + 6, features[g]] > thresholds[g])
                    h = children[h] + (X[i + 7, features[h]] > thresholds[h])
                out[i] += path_lengths[a]
                out[i + 1] += path_lengths[b]
                out[i + 2] += path_lengths[c]
                out[i + 3] += path_lengths[d]
                out[i + 4] += path_lengths[e]
                out[i + 5] += path_lengths[f]
                out[i + 6] += path_lengths[g]
                out[i + 7] += path_lengths[h]
                i += 8
            while i < stop:
                node = root
                for _ in range(depth):
                    node = children[node] + (X[i, features[node]] > thresholds[node])
                out[i] += path_lengths[node]
                i += 1
        for i in range(start, stop):
            out[i] /= len(roots)


@njit(cache=True)
def activate(x, code):  # pragma: no cover - compiled
    """Apply one activation in place to a float32 vector."""
    for i in range(len(x)):
        v = x[i]
        if code == RELU:
            x[i] = v if v > 0.0 else np.float32(0.0)
        elif code == LEAKY_RELU:
            x[i] = v if v > 0.0 else np.float32(0.01) * v
        elif code == TANH:
            x[i] = math.tanh(v)
        else:
            x[i] = v if v > 0.0 else np.float32(math.expm1(v))


@njit(cache=True)
def autoencoder_row(
    x, weights, biases, sizes, latent, activation, center, whitening, with_latent, buffer
):  # pragma: no cover - compiled
    """Anomaly score of one row: mean square of the whitened (residual, latent) vector.

    x: float32 (n_features,); weights: all layers' (fan_in, fan_out) matrices, flattened one after the other; buffer:
    float32 (3, widest) scratch.
    """
    n_layers = len(sizes) - 1
    width = sizes[0]
    deviation = buffer[2]
    current = 0
    for i in range(width):
        buffer[0, i] = x[i]
    w = 0
    b = 0
    for layer in range(n_layers):
        fan_in = sizes[layer]
        fan_out = sizes[layer + 1]
        source = buffer[current]
        target = buffer[1 - current]
        for o in range(fan_out):
            target[o] = biases[b + o]
        for i in range(fan_in):
            v = source[i]
            for o in range(fan_out):
                target[o] += v * weights[w + i * fan_out + o]
        w += fan_in * fan_out
        b += fan_out
        if layer == latent and with_latent:
            for o in range(fan_out):
                deviation[width + o] = target[o]
        if layer < n_layers - 1:
            activate(target[:fan_out], activation)
        current = 1 - current
    for i in range(width):
        deviation[i] = buffer[current, i] - x[i]
    n = whitening.shape[0]
    for i in range(n):
        deviation[i] -= center[i]
    spread = buffer[0]
    for o in range(n):
        spread[o] = 0.0
    for i in range(n):
        v = deviation[i]
        for o in range(n):
            spread[o] += v * whitening[i, o]
    total = 0.0
    for o in range(n):
        total += spread[o] * spread[o]
    return total / n


@njit(cache=True)
def tail_evidence(x, knots, evidence, slope):  # pragma: no cover - compiled
    """-log10 of the share of normal rows scoring at least x: linear between knots, exponential beyond the last."""
    n = len(knots)
    if x <= knots[0]:
        return evidence[0]
    if x >= knots[n - 1]:
        return evidence[n - 1] + (x - knots[n - 1]) * slope
    low = 0
    high = n - 1
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= x:
            low = middle
        else:
            high = middle
    step = (x - knots[low]) / (knots[high] - knots[low])
    return evidence[low] + step * (evidence[high] - evidence[low])


@njit(cache=True)
def tail_evidences(x, knots, evidence, slope, out):  # pragma: no cover - compiled
    """`tail_evidence` over an array."""
    for i in range(len(x)):
        out[i] = tail_evidence(x[i], knots, evidence, slope)


@njit(cache=True)
def score_rows_singly(
    raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts,
    features, thresholds, children, path_lengths, roots, depths, normaliser,
    weights, biases, sizes, latent, activation, deviation_center, whitening, with_latent,
    forest_knots, forest_evidence, forest_slope, error_knots, error_evidence, error_slope,
    joint_knots, joint_evidence, joint_slope, forest_weight, out,
):  # pragma: no cover - compiled  # fmt: skip
    """The whole detector, row by row, in one compiled call: for single requests and their explanations.

    raw: float64 (n, n_raw); out: float64 (n, 5): forest score, autoencoder score, and the evidence of forest,
    autoencoder and both.
    """
    x = np.empty(starts[-1], dtype=np.float32)
    widest = whitening.shape[0]
    for i in range(len(sizes)):
        widest = max(widest, sizes[i])
    buffer = np.empty((3, widest), dtype=np.float32)
    for i in range(len(raw)):
        transform_row(raw[i], kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, x)
        path = forest_row(x, features, thresholds, children, path_lengths, roots, depths)
        out[i, 0] = 2.0 ** (-path / normaliser)
        out[i, 1] = autoencoder_row(
            x, weights, biases, sizes, latent, activation, deviation_center, whitening, with_latent, buffer
        )
        out[i, 2] = tail_evidence(out[i, 0], forest_knots, forest_evidence, forest_slope)
        error = math.log(max(out[i, 1], 1e-12))
        out[i, 3] = tail_evidence(error, error_knots, error_evidence, error_slope)
        both = forest_weight * out[i, 2] + (1.0 - forest_weight) * out[i, 3]
        out[i, 4] = tail_evidence(both, joint_knots, joint_evidence, joint_slope)
