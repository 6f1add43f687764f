"""Trees of few leaves as masks, which score a row several times as quickly as walks do.

Lucchese, Nardini, Orlando, Perego, Tonellotto and Venturini, "QuickScorer", SIGIR 2015: a tree is a byte with a bit a
leaf, the leftmost lowest. A split that a row goes right at clears the bits of the leaves to its left, and the lowest
bit left in the end is the row's leaf. What a feature's splits clear together depends on its rank alone
(head_kernels.rank_row), so that it is kept for every rank: a row costs an AND of n_trees bytes a feature, no branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fraud.detectors.head_kernels import KEYS_A_FEATURE
from fraud.detectors.kernels import CHILD_MASK, CHILD_SHIFT, FEATURE_MASK, THRESHOLD_SHIFT

MOST_LEAVES = 8  # of a tree: bits of a byte
LARGEST_TABLE = 32 << 20  # bytes; a larger one no longer fits the processor's caches, and walks are as quick


@dataclass(frozen=True)
class LeafMasks:
    """features: int64 (n_used,), those that some split asks. starts: int64 (n_used + 1,), where each of them begins in
    table: uint8 (n_rows, n_trees), the leaves that are left at every rank, then at a missing value. leaves: float64
    (MOST_LEAVES * n_trees,), log-odds from left to right. All are empty for trees that have to be walked."""

    features: np.ndarray
    starts: np.ndarray
    table: np.ndarray
    leaves: np.ndarray


WALKED = LeafMasks(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty((0, 0), np.uint8), np.empty(0))


def leaf_masks(cut_starts: np.ndarray, nodes: np.ndarray, values: np.ndarray, roots: np.ndarray) -> LeafMasks:
    """The masks of trees as `Head` lays them out; WALKED where a tree or the table would be too large."""
    n_ranks = np.diff(cut_starts) + 1
    features = np.flatnonzero(n_ranks > 1)
    starts = np.cumsum([0, *(n_ranks[features] + 1)]).astype(np.int64)
    if starts[-1] * len(roots) > LARGEST_TABLE:
        return WALKED
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
            return WALKED
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
    """For every node of a tree the first of its leaves, from the left, and how many; None where that are too many, or
    where no tree is, level by level. children: of every node the left child, of a leaf itself."""
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
