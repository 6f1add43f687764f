"""The compiled loops of scoring: features, tree walks, calibration, and all of these in one call.

Training, batch and single requests run the same loops. So features and scores have one definition, and a row's score
does not depend on other rows, to the last bit. Kernels take flat arrays, grouped in NamedTuples, and write into the
caller's arrays. The autoencoder's are in fraud/detectors/network_kernels.py, the head's in
fraud/detectors/head_kernels.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from fraud.detectors.network_kernels import BLOCK, AutoencoderArguments, autoencoder_rows

# Kinds of raw feature, as stored in FeatureMap.kinds.
LINEAR, LOG, SIGNED_LOG, LOOKUP = 0, 1, 2, 3
# A tree node is one 64-bit word: sortable threshold (32 bits), left child relative to the root (20), feature (12). So
# each step of a walk is one load.
FEATURE_BITS, CHILD_BITS, THRESHOLD_SHIFT = 12, 20, np.uint64(32)
CHILD_SHIFT, FEATURE_MASK, CHILD_MASK = np.uint64(FEATURE_BITS), np.uint64(0xFFF), np.uint64(0xFFFFF)
LEAF_THRESHOLD = 0xFFFFFFFF


class FeatureArguments(NamedTuple):
    """The arrays of a FeatureMap."""

    kinds: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    clip: float
    missing_output: np.ndarray
    tables: np.ndarray
    offsets: np.ndarray
    levels: np.ndarray
    starts: np.ndarray


class TreeArguments(NamedTuple):
    """Trees as `Forest` lays them out. values: float64 (n_nodes,), used at leaves."""

    nodes: np.ndarray
    values: np.ndarray
    roots: np.ndarray
    depths: np.ndarray


class ForestArguments(NamedTuple):
    """The arrays of a Forest."""

    nodes: np.ndarray
    path_lengths: np.ndarray
    roots: np.ndarray
    depths: np.ndarray
    normaliser: float


class TailArguments(NamedTuple):
    """The arrays of a Tail."""

    knots: np.ndarray
    evidence: np.ndarray
    slope: float


@njit(cache=True)
def transform_column(values, j, f, out):  # pragma: no cover - compiled
    """Transform raw feature j, float64 (n,), into its columns of `out`, float32 (n, n_outputs).

    f: FeatureArguments.
    """
    first = f.starts[j]
    width = f.starts[j + 1] - first
    if width == 0:
        return
    kind, flag = f.kinds[j], f.missing_output[j]
    for i in range(len(values)):
        x = values[i]
        if kind == LOOKUP:
            level = f.levels[j]  # unknown
            if 0.0 <= x < f.levels[j]:
                level = int(x)
            for k in range(width):
                out[i, first + k] = f.tables[f.offsets[j] + level, k]
            continue
        if flag >= 0:
            out[i, flag] = 1.0 if math.isnan(x) else 0.0
        if kind == LOG:
            x = math.log1p(max(x, 0.0))
        elif kind == SIGNED_LOG:
            x = math.copysign(math.log1p(abs(x)), x)
        scaled = min(max((x - f.center[j]) / f.scale[j], -f.clip), f.clip)
        out[i, first] = 0.0 if math.isnan(values[i]) else scaled


@njit(cache=True)
def transform_rows(raw, features, out):  # pragma: no cover - compiled
    """Transform raw features, float64 (n, n_raw), into detector inputs, float32 (n, n_outputs); see FeatureMap."""
    for j in range(raw.shape[1]):
        transform_column(raw[:, j], j, features, out)


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
    """Next node of a walk: the left child, or the right one if the row's feature exceeds the threshold.

    Indices are unsigned, which avoids numba's check for negative ones.
    """
    is_right = np.uint64(keys[row + (word & FEATURE_MASK)]) > (word >> THRESHOLD_SHIFT)
    return root + ((word >> CHILD_SHIFT) & CHILD_MASK) + np.uint64(is_right)


@njit(cache=True)
def walk_row(keys, trees):  # pragma: no cover - compiled
    """Mean leaf value of one row over all trees, from its keys."""
    total = 0.0
    for tree in range(len(trees.roots)):
        root = np.uint64(trees.roots[tree])
        node = root
        for _ in range(trees.depths[tree]):
            node = step(trees.nodes[node], np.uint64(0), root, keys)
        total += trees.values[node]
    return total / len(trees.roots)


@njit(cache=True)
def forest_rows(bits, forest, out):  # pragma: no cover - compiled
    """Anomaly score of rows, into out. bits: float32 inputs viewed as uint32 (n, n_features).

    forest: ForestArguments.
    """
    trees = TreeArguments(forest.nodes, forest.path_lengths, forest.roots, forest.depths)
    n_features = bits.shape[1]
    keys = np.empty(min(BLOCK, len(bits)) * n_features, dtype=np.uint32)
    for start in range(0, len(bits), BLOCK):
        n = min(BLOCK, len(bits) - start)
        sortable(bits[start : start + n].ravel(), keys)
        if n == 1:
            out[start] = walk_row(keys, trees)
        else:
            walk_block(keys, n_features, trees, out[start : start + n])
    for i in range(len(bits)):
        out[i] = 2.0 ** (-out[i] / forest.normaliser)


@njit(cache=True)
def walk_block(keys, n_keys, trees, out):  # pragma: no cover - compiled
    """Mean leaf value of len(out) rows over all trees; keys: uint32, `n_keys` per row.

    A leaf is its own child, with a threshold that nothing exceeds. So every walk has the tree's full depth and no
    branch to mispredict. Eight rows walk a tree together, which hides memory latency (with one word per node, measured
    4 times as fast as signed indices into three arrays).
    """
    nodes, values, roots, depths = trees
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
            # The root's word is in a register: the first step loads only keys.
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
def tail_evidence(x, tail):  # pragma: no cover - compiled
    """-log10 of the share of normal rows scoring at least x: linear between knots, exponential beyond the last."""
    knots, evidence = tail.knots, tail.evidence
    n = len(knots)
    if x <= knots[0]:
        return evidence[0]
    if x >= knots[n - 1]:
        return evidence[n - 1] + (x - knots[n - 1]) * tail.slope
    low = np.uint64(0)
    span = np.uint64(n - 1)
    while span > np.uint64(1):  # no branch on the data, which would be mispredicted
        half = span >> np.uint64(1)
        low += half * np.uint64(knots[low + half] <= x)
        span -= half
    share = (x - knots[low]) / (knots[low + np.uint64(1)] - knots[low])
    return evidence[low] + share * (evidence[low + np.uint64(1)] - evidence[low])


@njit(cache=True)
def tail_evidences(x, tail, out):  # pragma: no cover - compiled
    """`tail_evidence` over an array."""
    for i in range(len(x)):
        out[i] = tail_evidence(x[i], tail)


class JoinArguments(NamedTuple):
    """Arguments to join the evidence of the detectors without labels.

    forest, autoencoder, joint: TailArguments as plain tuples; weights: float64 (n_detectors,), sum 1, of forest,
    autoencoder and extra detectors.
    """

    forest: tuple[np.ndarray, np.ndarray, float]
    autoencoder: tuple[np.ndarray, np.ndarray, float]
    joint: tuple[np.ndarray, np.ndarray, float]
    weights: np.ndarray


@njit(cache=True)
def score_rows(raw, features, forest, autoencoder, join, out):  # pragma: no cover - compiled
    """Forest, autoencoder and joint evidence in one compiled call.

    raw: float64 (n, n_raw); features, forest, autoencoder, join: FeatureArguments, ForestArguments,
    AutoencoderArguments and JoinArguments as plain tuples, which saves several microseconds per call over NamedTuples.
    out: float64 (n, n_detectors + 1 or more). Written: columns 0 and 1, the evidence of forest and autoencoder, and
    the joint evidence after the detectors. Read: the evidence of extra detectors.
    """
    of_features, of_join = FeatureArguments(*features), JoinArguments(*join)
    forest_tail, autoencoder_tail = TailArguments(*of_join.forest), TailArguments(*of_join.autoencoder)
    joint_tail, weights = TailArguments(*of_join.joint), of_join.weights
    n = len(raw)
    X = np.empty((n, of_features.starts[-1]), dtype=np.float32)
    transform_rows(raw, of_features, X)
    scores = np.empty((2, n))
    forest_rows(X.view(np.uint32), ForestArguments(*forest), scores[0])
    autoencoder_rows(X, AutoencoderArguments(*autoencoder), scores[1])
    for i in range(n):
        out[i, 0] = tail_evidence(scores[0, i], forest_tail)
        out[i, 1] = tail_evidence(scores[1, i], autoencoder_tail)
        both = 0.0
        for k in range(len(weights)):
            both += weights[k] * out[i, k]
        out[i, len(weights)] = tail_evidence(both, joint_tail)
