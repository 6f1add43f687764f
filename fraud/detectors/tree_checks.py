"""Whether the trees of a loaded bundle are sound: the compiled walks check no bounds, so this is done once before."""

from __future__ import annotations

import numpy as np

from fraud.detectors.forest import Forest
from fraud.detectors.head import Head
from fraud.detectors.head_kernels import KEYS_A_FEATURE
from fraud.detectors.kernels import CHILD_MASK, CHILD_SHIFT, FEATURE_MASK, LEAF_THRESHOLD, THRESHOLD_SHIFT


def is_head(head: Head, n_raw: int) -> bool:
    """Whether ranks stay among the cuts and every walk stays inside its tree; the head reads two evidences as well."""
    n_inputs = n_raw + 2
    return (
        len(head.starts) == n_inputs + 1
        and head.starts[0] == 0
        and int(head.starts[-1]) == len(head.cuts)
        and bool((np.diff(head.starts) >= 0).all())
        and isinstance(head.members, int)
        and head.members >= 1
        and bool(np.isfinite(head.values).all())
        and _are_trees(head.nodes, head.values, head.roots, head.depths, KEYS_A_FEATURE * n_inputs)
    )


def is_forest(forest: Forest, n_inputs: int) -> bool:
    """Whether every walk of the forest stays inside its tree and its inputs."""
    trees = forest.nodes, forest.path_lengths, forest.roots, forest.depths
    return forest.normaliser > 0 and _are_trees(*trees, n_inputs)


def _are_trees(nodes: np.ndarray, values: np.ndarray, roots: np.ndarray, depths: np.ndarray, n_keys: int) -> bool:
    """Whether every walk stays inside its tree: roots ascend, children stay below the next root, leaves stay put."""
    roots = roots.astype(np.int64)
    if not (0 < len(roots) == len(depths) and len(nodes) == len(values) and nodes.dtype == np.uint64):
        return False
    ends = np.append(roots[1:], len(nodes))
    if roots[0] != 0 or (ends <= roots).any():
        return False
    root, end = np.repeat(roots, ends - roots), np.repeat(ends, ends - roots)
    child = root + ((nodes >> CHILD_SHIFT) & CHILD_MASK).astype(np.int64)
    is_leaf = (nodes >> THRESHOLD_SHIFT) == LEAF_THRESHOLD
    stays = np.where(is_leaf, child == np.arange(len(nodes)), child + 1 < end)
    return bool(stays.all() and ((nodes & FEATURE_MASK) < n_keys).all())
