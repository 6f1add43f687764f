"""The compiled inner loops of scoring: features, tree walks, the autoencoder's forward pass, calibration.

Training, batch and single requests all run these same loops, so a feature or a score has one definition. Every kernel
takes flat arrays and writes into arrays its caller made.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Kinds of raw feature, as stored in FeatureMap.kinds.
LINEAR, LOG, SIGNED_LOG, LOOKUP = 0, 1, 2, 3
# Activations, as stored in Autoencoder.activation_code.
RELU, LEAKY_RELU, TANH, ELU = 0, 1, 2, 3
# A tree node is one 64-bit word: sortable threshold (32 bits), left child counted from the root (20), feature (12). One
# load then tells a walk all it needs.
FEATURE_BITS, CHILD_BITS, THRESHOLD_SHIFT = 12, 20, np.uint64(32)
CHILD_SHIFT, FEATURE_MASK, CHILD_MASK = np.uint64(FEATURE_BITS), np.uint64(0xFFF), np.uint64(0xFFFFF)
LEAF_THRESHOLD = 0xFFFFFFFF
# A reconstruction error below this is none.
SMALLEST_ERROR = 1e-12


@njit(cache=True)
def transform_column(
    values, j, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, out
):  # pragma: no cover - compiled
    """Turn raw feature j of some rows, float64 (n,), into its columns of `out`, float32 (n, n_outputs)."""
    first = starts[j]
    width = starts[j + 1] - first
    if width == 0:
        return
    kind, flag = kinds[j], missing_output[j]
    for i in range(len(values)):
        x = values[i]
        if kind == LOOKUP:
            level = levels[j]  # the unknown one
            if 0.0 <= x < levels[j]:
                level = int(x)
            for k in range(width):
                out[i, first + k] = tables[offsets[j] + level, k]
            continue
        if flag >= 0:
            out[i, flag] = 1.0 if math.isnan(x) else 0.0
        if kind == LOG:
            x = math.log1p(max(x, 0.0))
        elif kind == SIGNED_LOG:
            x = math.copysign(math.log1p(abs(x)), x)
        scaled = min(max((x - center[j]) / scale[j], -clip), clip)
        out[i, first] = 0.0 if math.isnan(values[i]) else scaled


@njit(cache=True)
def transform_rows(
    raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, out
):  # pragma: no cover - compiled
    """Turn raw features, float64 (n, n_raw), into inputs of the detectors, float32 (n, n_outputs); see FeatureMap."""
    for j in range(raw.shape[1]):
        transform_column(raw[:, j], j, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, out)


@njit(cache=True)
def sortable(bits, keys):  # pragma: no cover - compiled
    """Map float32 bit patterns, uint32 (n,), to unsigned integers of the same order; -0.0 equals 0.0."""
    sign = np.uint32(0x80000000)
    for i in range(len(bits)):
        b = bits[i]
        if b >= sign:
            keys[i] = sign if b == sign else ~b
        else:
            keys[i] = b | sign


@njit(cache=True, inline="always")
def step(word, row, root, keys):  # pragma: no cover - compiled
    """Next node of a walk: the left child, or its neighbour where the row's feature exceeds the threshold.

    Indices are unsigned, which spares numba's check for negative ones.
    """
    is_right = np.uint64(keys[row + (word & FEATURE_MASK)]) > (word >> THRESHOLD_SHIFT)
    return root + ((word >> CHILD_SHIFT) & CHILD_MASK) + np.uint64(is_right)


@njit(cache=True)
def forest_row(keys, nodes, path_lengths, roots, depths):  # pragma: no cover - compiled
    """Mean path length of one row, given as sortable keys, over all trees."""
    total = 0.0
    for tree in range(len(roots)):
        root = np.uint64(roots[tree])
        node = root
        for _ in range(depths[tree]):
            node = step(nodes[node], np.uint64(0), root, keys)
        total += path_lengths[node]
    return total / len(roots)


@njit(cache=True)
def forest_rows(bits, nodes, path_lengths, roots, depths, out):  # pragma: no cover - compiled
    """Mean path length of many rows, given as float32 inputs seen as uint32 (n, n_features), over all trees."""
    block = 256
    keys = np.empty(block * bits.shape[1], dtype=np.uint32)
    for start in range(0, len(bits), block):
        n = min(block, len(bits) - start)
        sortable(bits[start : start + n].ravel(), keys)
        walk_block(keys, bits.shape[1], nodes, path_lengths, roots, depths, out[start : start + n])


@njit(cache=True)
def walk_block(keys, n_keys, nodes, values, roots, depths, out):  # pragma: no cover - compiled
    """Mean leaf value of len(out) rows over all trees; keys: uint32, `n_keys` a row. A block stays in cache per tree.

    A leaf is its own child behind a threshold that nothing exceeds, so every walk has the tree's full depth and no
    branch to mispredict; eight rows walk a tree at a time, to hide one another's memory latency (with one word a node,
    measured 4 times as fast as signed indices into three arrays).
    """
    n = len(out)
    width = np.uint64(n_keys)
    for i in range(n):
        out[i] = 0.0
    for tree in range(len(roots)):
        root = np.uint64(roots[tree])
        first = nodes[root]
        i = 0
        while i + 8 <= n:
            r0 = np.uint64(i) * width
            r1, r2, r3 = r0 + width, r0 + np.uint64(2) * width, r0 + np.uint64(3) * width
            r4, r5 = r0 + np.uint64(4) * width, r0 + np.uint64(5) * width
            r6, r7 = r0 + np.uint64(6) * width, r0 + np.uint64(7) * width
            # All rows begin at the root, whose word is in a register: the first step loads keys only.
            n0, n1 = step(first, r0, root, keys), step(first, r1, root, keys)
            n2, n3 = step(first, r2, root, keys), step(first, r3, root, keys)
            n4, n5 = step(first, r4, root, keys), step(first, r5, root, keys)
            n6, n7 = step(first, r6, root, keys), step(first, r7, root, keys)
            for _ in range(1, depths[tree]):
                n0 = step(nodes[n0], r0, root, keys)
                n1 = step(nodes[n1], r1, root, keys)
                n2 = step(nodes[n2], r2, root, keys)
                n3 = step(nodes[n3], r3, root, keys)
                n4 = step(nodes[n4], r4, root, keys)
                n5 = step(nodes[n5], r5, root, keys)
                n6 = step(nodes[n6], r6, root, keys)
                n7 = step(nodes[n7], r7, root, keys)
            out[i] += values[n0]
            out[i + 1] += values[n1]
            out[i + 2] += values[n2]
            out[i + 3] += values[n3]
            out[i + 4] += values[n4]
            out[i + 5] += values[n5]
            out[i + 6] += values[n6]
            out[i + 7] += values[n7]
            i += 8
        while i < n:
            node = root
            for _ in range(depths[tree]):
                node = step(nodes[node], np.uint64(i) * width, root, keys)
            out[i] += values[node]
            i += 1
    for i in range(n):
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
    x, weights, biases, sizes, latent, activation, with_latent, center,
    factors, shifts, log_weights, is_density, buffer,
):  # pragma: no cover - compiled  # fmt: skip
    """Anomaly score of one row, in logs; see fraud.autoencoder_score.Autoencoder.

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
    n = len(center)
    for i in range(n):
        deviation[i] -= center[i]
    spread = buffer[0]
    largest, total = -np.inf, 0.0
    for k in range(len(factors)):
        for o in range(n):
            spread[o] = -shifts[k, o]
        for i in range(n):
            v = deviation[i]
            for o in range(n):
                spread[o] += v * factors[k, i, o]
        square = 0.0
        for o in range(n):
            square += np.float64(spread[o]) * np.float64(spread[o])
        if not is_density:
            return math.log(max(square / n, SMALLEST_ERROR))
        # log-sum-exp over the components, one after the other
        exponent = log_weights[k] - 0.5 * square
        if exponent > largest:
            total = total * math.exp(largest - exponent) + 1.0
            largest = exponent
        else:
            total += math.exp(exponent - largest)
    return -(largest + math.log(total)) / n


@njit(cache=True)
def tail_evidence(x, knots, evidence, slope):  # pragma: no cover - compiled
    """-log10 of the share of normal rows scoring at least x: linear between knots, exponential beyond the last."""
    n = len(knots)
    if x <= knots[0]:
        return evidence[0]
    if x >= knots[n - 1]:
        return evidence[n - 1] + (x - knots[n - 1]) * slope
    low = np.uint64(0)
    span = np.uint64(n - 1)
    while span > np.uint64(1):  # without a branch on the data, which the processor could not predict
        half = span >> np.uint64(1)
        low += half * np.uint64(knots[low + half] <= x)
        span -= half
    share = (x - knots[low]) / (knots[low + np.uint64(1)] - knots[low])
    return evidence[low] + share * (evidence[low + np.uint64(1)] - evidence[low])


@njit(cache=True)
def tail_evidences(x, knots, evidence, slope, out):  # pragma: no cover - compiled
    """`tail_evidence` over an array."""
    for i in range(len(x)):
        out[i] = tail_evidence(x[i], knots, evidence, slope)


@njit(cache=True)
def score_rows_singly(
    raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts,
    nodes, path_lengths, roots, depths, normaliser,
    weights, biases, sizes, latent, activation, with_latent,
    deviation_center, factors, shifts, log_weights, is_density,
    forest_knots, forest_evidence, forest_slope, error_knots, error_evidence, error_slope,
    joint_knots, joint_evidence, joint_slope, forest_weight, out,
):  # pragma: no cover - compiled  # fmt: skip
    """The whole detector, row by row, in one compiled call: for single requests and their explanations.

    raw: float64 (n, n_raw); out: float64 (n, 5): forest score, autoencoder score, and the evidence of forest,
    autoencoder and both.
    """
    X = np.empty((len(raw), starts[-1]), dtype=np.float32)
    transform_rows(raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, X)
    keys = np.empty(starts[-1], dtype=np.uint32)
    widest = len(deviation_center)
    for i in range(len(sizes)):
        widest = max(widest, sizes[i])
    buffer = np.empty((3, widest), dtype=np.float32)
    for i in range(len(raw)):
        x = X[i]
        sortable(x.view(np.uint32), keys)
        path = forest_row(keys, nodes, path_lengths, roots, depths)
        out[i, 0] = 2.0 ** (-path / normaliser)
        out[i, 1] = autoencoder_row(
            x, weights, biases, sizes, latent, activation, with_latent,
            deviation_center, factors, shifts, log_weights, is_density, buffer,
        )  # fmt: skip
        out[i, 2] = tail_evidence(out[i, 0], forest_knots, forest_evidence, forest_slope)
        out[i, 3] = tail_evidence(out[i, 1], error_knots, error_evidence, error_slope)
        both = forest_weight * out[i, 2] + (1.0 - forest_weight) * out[i, 3]
        out[i, 4] = tail_evidence(both, joint_knots, joint_evidence, joint_slope)
