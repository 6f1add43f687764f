"""The compiled loops of the supervised head: ranks, walks, and the last step of the joined score.

The head's trees compare ranks: the number of a feature's split points below the value. A comparison with a split point
is then one of two small integers, exact for float64, and the forest's walk works unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fraud.detectors.kernels import TailArguments, TreeArguments, tail_evidence, walk_block, walk_row
from fraud.detectors.network_kernels import BLOCK

# Each tree learns a side for missing values. So every feature has two keys per row, equal unless the value is missing:
# then the first is lowest, the second highest. A node uses the key that goes its way.
KEYS_A_FEATURE = 2
_ABOVE_ALL_CUTS = np.uint32(0xFFFFFFFE)
_LOWEST_BIT = np.array([0, *((byte & -byte).bit_length() - 1 for byte in range(1, 256))], dtype=np.uint8)


class HeadArguments(NamedTuple):
    """The arrays of a Head; from mask_features on, of its LeafMasks."""

    cuts: np.ndarray
    starts: np.ndarray
    nodes: np.ndarray
    values: np.ndarray
    roots: np.ndarray
    depths: np.ndarray
    members: int
    mask_features: np.ndarray
    mask_starts: np.ndarray
    table: np.ndarray
    leaves: np.ndarray


@njit(cache=True)
def rank_row(x, cuts, starts, keys):  # pragma: no cover - compiled
    """Ranks of one row, float64 (n_features,), into keys, uint32 (2 * n_features,); NaN is a missing value.

    cuts: float64, each feature's split points ascending, from starts[j] to starts[j + 1]. x <= cut k exactly when the
    rank, the number of cuts below x, is at most k.
    """
    for j in range(len(starts) - 1):
        value = x[j]
        if np.isnan(value):
            keys[2 * j] = np.uint32(0)
            keys[2 * j + 1] = _ABOVE_ALL_CUTS
            continue
        low = starts[j]
        span = starts[j + 1] - low
        while span > 0:
            half = span >> 1
            if cuts[low + half] < value:
                low += half + 1
                span -= half + 1
            else:
                span = half
        keys[2 * j] = keys[2 * j + 1] = np.uint32(low - starts[j])


@njit(cache=True)
def sum_by_masks(keys, features, begins, table, leaves, left):  # pragma: no cover - compiled
    """Sum of one row's leaf values over all trees, from its keys; see leaf_masks. left: scratch, uint8 (n_trees,)."""
    n_trees = table.shape[1]
    left[:] = 0xFF
    for k in range(len(features)):
        low, high = keys[2 * features[k]], keys[2 * features[k] + 1]
        mask = table[begins[k] + low if low == high else begins[k + 1] - 1]
        for tree in range(n_trees):
            left[tree] &= mask[tree]
    # Four sums, so that additions do not wait for one another.
    a = b = c = d = 0.0
    tree, first = 0, np.uint64(0)
    while tree + 4 <= n_trees:
        a += leaves[first + np.uint64(_LOWEST_BIT[left[tree]])]
        b += leaves[first + np.uint64(_LOWEST_BIT[left[tree + 1]] + 8)]
        c += leaves[first + np.uint64(_LOWEST_BIT[left[tree + 2]] + 16)]
        d += leaves[first + np.uint64(_LOWEST_BIT[left[tree + 3]] + 24)]
        tree, first = tree + 4, first + np.uint64(32)
    for last in range(tree, n_trees):
        a += leaves[8 * last + _LOWEST_BIT[left[last]]]
    return (a + b) + (c + d)


@njit(cache=True)
def head_rows(X, head, out):  # pragma: no cover - compiled
    """Log-odds of rows: the sum of leaf values over all trees, divided by the members.

    X: float64 (n, n_features); head: HeadArguments; out: float64 (n,).
    """
    # Unpacked before the loop: numba counts references at every access (measured: a third slower).
    cuts, starts, nodes, values, roots, depths, members, features, begins, table, leaves = head
    width, n_trees = KEYS_A_FEATURE * (len(starts) - 1), len(roots)
    if len(table):
        key, left = np.empty(width, dtype=np.uint32), np.empty(n_trees, dtype=np.uint8)
        for i in range(len(X)):
            rank_row(X[i], cuts, starts, key)
            out[i] = sum_by_masks(key, features, begins, table, leaves, left) / members
        return
    trees = TreeArguments(nodes, values, roots, depths)
    keys = np.empty((min(BLOCK, len(X)), width), dtype=np.uint32)
    for start in range(0, len(X), BLOCK):
        n = min(BLOCK, len(X) - start)
        for i in range(n):
            rank_row(X[start + i], cuts, starts, keys[i])
        if n == 1:
            out[start] = walk_row(keys[0], trees)
        else:
            walk_block(keys.ravel(), width, trees, out[start : start + n])
    for i in range(len(X)):
        out[i] *= n_trees / members


@njit(cache=True)
def add_head(raw, head, head_tail, final_tail, head_weight, out):  # pragma: no cover - compiled
    """Add the head's evidence, after `kernels.score_rows`.

    raw: float64 (n, n_raw); head, head_tail, final_tail: HeadArguments and TailArguments as plain tuples. out: float64
    (n, n_detectors + 3). Read: the evidence of forest and autoencoder (columns 0 and 1) and the joint evidence (third
    from last). Written: the last two columns, the evidence of the head and of all.
    """
    of_head, of_all = TailArguments(*head_tail), TailArguments(*final_tail)
    n, n_raw = raw.shape
    joint = out.shape[1] - 3
    X = np.empty((n, n_raw + 2))
    X[:, :n_raw] = raw
    X[:, n_raw:] = out[:, :2]
    log_odds = np.empty(n)
    head_rows(X, HeadArguments(*head), log_odds)
    for i in range(n):
        out[i, joint + 1] = tail_evidence(log_odds[i], of_head)
        joined = head_weight * out[i, joint + 1] + (1.0 - head_weight) * out[i, joint]
        out[i, joint + 2] = tail_evidence(joined, of_all)
