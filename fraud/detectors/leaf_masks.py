"""Bit masks for trees with few leaves: several times faster than walks.

Lucchese, Nardini, Orlando, Perego, Tonellotto and Venturini, "QuickScorer", SIGIR 2015. One byte per tree; bit i is
leaf i, left to right. A split where the row goes right clears the leaves to its left; the lowest bit that remains is
the row's leaf. What all splits of a feature clear depends only on its rank (head_kernels.rank_row), so the table has a
row for each rank. A row costs an AND of n_trees bytes per feature, without branches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fraud.detectors.head_kernels import KEYS_A_FEATURE
from fraud.detectors.kernels import CHILD_MASK, CHILD_SHIFT, FEATURE_MASK, THRESHOLD_SHIFT

MOST_LEAVES = 8  # per tree: bits of a byte
LARGEST_TABLE = 32 << 20  # bytes; a larger one exceeds the processor's caches, and walks are as fast


@dataclass(frozen=True)
class LeafMasks:
    """Masks of all trees; all arrays are empty if the trees must be walked.

    features: int64 (n_used,), those with a split. starts: int64 (n_used + 1,), first row of each in table. table: uint8
    (n_rows, n_trees), the remaining leaves for each rank, then for a missing value. leaves: float64
    (MOST_LEAVES * n_trees,), log-odds, left to right.
    """

    features: np.ndarray
    starts: np.ndarray
    table: np.ndarray
    leaves: np.ndarray


NO_MASKS = LeafMasks(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty((0, 0), np.uint8), np.empty(0))


def leaf_masks(cut_starts: np.ndarray, nodes: np.ndarray, values: np.ndarray, roots: np.ndarray) -> LeafMasks:
    """The masks of a `Head`'s trees; NO_MASKS if a tree or the table is too large."""
    n_ranks = np.diff(cut_starts) + 1
    features = np.flatnonzero(n_ranks > 1)
    starts = np.cumsum([0, *(n_ranks[features] + 1)]).astype(np.int64)
    if starts[-1] * len(roots) > LARGEST_TABLE:
        return NO_MASKS
    begins = np.zeros(len(n_ranks), dtype=np.int64)
    begins[features] = starts[:-1]
    table = np.full((int(starts[-1]), len(roots)), 0xFF, dtype=np.uint8)
    leaves = np.zeros((len(roots), MOST_LEAVES))
    child_of = ((nodes >> CHILD_SHIFT) & CHILD_MASK).astype(np.int64).tolist()
    rank_of, key_of = (nodes >> THRESHOLD_SHIFT).tolist(), (nodes & FEATURE_MASK).tolist()
    for tree, (root, end) in enumerate(zip(roots.tolist(), [*roots[1:].tolist(), len(nodes)], strict=True)):
        children = child_of[root:end]
        spans = _spans(children)
        if spans is None:
            return NO_MASKS
        for index, (child, (first, _)) in enumerate(zip(children, spans, strict=True)):
            if child == index:
                leaves[tree, first] = values[root + index]
                continue
            left = ~(((1 << spans[child][1]) - 1) << first) & 0xFF
            feature, is_right_if_missing = divmod(key_of[root + index], KEYS_A_FEATURE)
            begin, missing = begins[feature], begins[feature] + n_ranks[feature]
            table[begin + rank_of[root + index] + 1 : missing, tree] &= left
            if is_right_if_missing:
                table[missing, tree] &= left
    return LeafMasks(features, starts, table, leaves.ravel())


def _spans(children: list[int]) -> list[tuple[int, int]] | None:
    """First leaf (from the left) and number of leaves of every node; None if too many, or if this is no valid tree.

    children: the left child of each node, level by level; a leaf is its own child.
    """
    n_leaves = [1] * len(children)
    for index in range(len(children) - 1, -1, -1):
        child = children[index]
        if child != index:
            if not index < child < len(children) - 1:
                return None
            n_leaves[index] = n_leaves[child] + n_leaves[child + 1]
    if max(n_leaves) > MOST_LEAVES or len(children) != 2 * n_leaves[0] - 1:
        return None
    first = [0] * len(children)
    for index, child in enumerate(children):
        if child != index:
            first[child], first[child + 1] = first[index], first[index] + n_leaves[child]
    return list(zip(first, n_leaves, strict=True))
