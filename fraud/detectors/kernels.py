"""The compiled inner loops of scoring: features, tree walks, calibration, and all of them for some rows in one call.

Training, batch and single requests all run these same loops, so a feature or a score has one definition, and a row's
score the same bits whatever rows are beside it. Every kernel takes flat arrays and writes into arrays its caller made.
fraud/detectors/network_kernels.py has the autoencoder's, fraud/detectors/head_kernels.py the supervised head's.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fraud.detectors.network_kernels import BLOCK, autoencoder_rows

# Kinds of raw feature, as stored in FeatureMap.kinds.
LINEAR, LOG, SIGNED_LOG, LOOKUP = 0, 1, 2, 3
# A tree node is one 64-bit word: sortable threshold (32 bits), left child counted from the root (20), feature (12). One
# load then tells a walk all it needs.
FEATURE_BITS, CHILD_BITS, THRESHOLD_SHIFT = 12, 20, np.uint64(32)
CHILD_SHIFT, FEATURE_MASK, CHILD_MASK = np.uint64(FEATURE_BITS), np.uint64(0xFFF), np.uint64(0xFFFFF)
LEAF_THRESHOLD = 0xFFFFFFFF


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
def forest_rows(bits, nodes, path_lengths, roots, depths, normaliser, out):  # pragma: no cover - compiled
    """Anomaly score, into out, of many rows, given as float32 inputs seen as uint32 (n, n_features)."""
    n_features = bits.shape[1]
    keys = np.empty(min(BLOCK, len(bits)) * n_features, dtype=np.uint32)
    for start in range(0, len(bits), BLOCK):
        n = min(BLOCK, len(bits) - start)
        sortable(bits[start : start + n].ravel(), keys)
        if n == 1:
            out[start] = forest_row(keys, nodes, path_lengths, roots, depths)
        else:
            walk_block(keys, n_features, nodes, path_lengths, roots, depths, out[start : start + n])
    for i in range(len(bits)):
        out[i] = 2.0 ** (-out[i] / normaliser)


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
def score_rows(
    raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts,
    nodes, path_lengths, roots, depths, normaliser,
    weights, biases, sizes, latent, activation, with_latent,
    deviation_center, factors, shifts, log_weights, is_density,
    forest_knots, forest_evidence, forest_slope, error_knots, error_evidence, error_slope,
    joint_knots, joint_evidence, joint_slope, forest_weight, out,
):  # pragma: no cover - compiled  # fmt: skip
    """Both detectors in one compiled call: the evidence of forest, autoencoder and both, into out, float64 (n, 3).

    raw: float64 (n, n_raw).
    """
    n = len(raw)
    X = np.empty((n, starts[-1]), dtype=np.float32)
    transform_rows(raw, kinds, center, scale, clip, missing_output, tables, offsets, levels, starts, X)
    scores = np.empty((2, n))
    forest, error = scores[0], scores[1]
    forest_rows(X.view(np.uint32), nodes, path_lengths, roots, depths, normaliser, forest)
    autoencoder_rows(
        X, weights, biases, sizes, latent, activation, with_latent,
        deviation_center, factors, shifts, log_weights, is_density, error,
    )  # fmt: skip
    for i in range(n):
        out[i, 0] = tail_evidence(forest[i], forest_knots, forest_evidence, forest_slope)
        out[i, 1] = tail_evidence(error[i], error_knots, error_evidence, error_slope)
        both = forest_weight * out[i, 0] + (1.0 - forest_weight) * out[i, 1]
        out[i, 2] = tail_evidence(both, joint_knots, joint_evidence, joint_slope)
