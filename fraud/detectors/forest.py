"""IsolationForest: fitted by scikit-learn, stored as flat arrays for the compiled kernels.

Liu, Ting and Zhou, "Isolation Forest", ICDM 2008: score = 2 ** (-mean path length / c(max_samples)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fraud.configuration import Count, Flag, Number, Share, configuration
from fraud.detectors import kernels
from fraud.detectors.base import Fitted
from fraud.errors import ConfigError, DataError


@configuration("forest")
class ForestConfig:
    """Settings of the IsolationForest.

    n_estimators: trees. max_samples: rows per tree ("auto" = 256, a count, or a share). max_features: share of features
    per tree. bootstrap: sample rows with replacement. contamination: without labels, the share of most isolated
    training rows to leave out of the autoencoder's fit; no effect on forest scores or the threshold (that is
    `threshold.contamination`).
    """

    n_estimators: Count = 100
    max_samples: Count | Share | Literal["auto"] = "auto"
    max_features: Share = 1.0
    bootstrap: Flag = False
    contamination: Annotated[Number, Field(gt=0, le=0.5)] = 0.06


@dataclass(frozen=True)
class Forest(Fitted):
    """Trees as flat arrays; a node's two children are neighbours, a leaf is its own child behind a threshold of +inf.

    nodes: uint64 (n_nodes,), see kernels.step: threshold, left child and feature in one word. The threshold is
    scikit-learn's float64 rounded down to float32: the same decision for every float32 input.
    path_lengths: float64 (n_nodes,), at leaves the depth plus c(rows in the leaf).
    roots: uint32 (n_trees,) ascending; depths: int32 (n_trees,); normaliser: c(max_samples).
    """

    name: ClassVar[str] = "forest"
    title: ClassVar[str] = "isolation forest"
    is_optional: ClassVar[bool] = False

    nodes: np.ndarray
    path_lengths: np.ndarray
    roots: np.ndarray
    depths: np.ndarray
    normaliser: float

    def score(self, X: np.ndarray) -> np.ndarray:
        """Anomaly score in (0, 1), float64 (n_rows,): sklearn's `-score_samples`. X: float32 (n_rows, n_features)."""
        out = np.empty(len(X))
        bits = np.ascontiguousarray(X, dtype=np.float32).view(np.uint32)
        kernels.forest_rows(bits, self.kernel_arguments, out)
        return out

    def is_sound(self, n_inputs: int) -> bool:
        """Whether every walk stays within its tree and inputs."""
        return self.normaliser > 0 and are_trees(self.nodes, self.path_lengths, self.roots, self.depths, n_inputs)

    @property
    def kernel_arguments(self) -> kernels.ForestArguments:
        """Arguments of kernels.forest_rows."""
        return kernels.ForestArguments(self.nodes, self.path_lengths, self.roots, self.depths, self.normaliser)


# Each group of trees has its own seed, so that the forest does not depend on how the work is divided.
TREES_A_GROUP = 25


def fit_trees(X: np.ndarray, config: ForestConfig, seed: int, group: int) -> Forest:
    """Fit one group of trees: TREES_A_GROUP, or the rest of n_estimators.

    X: float32 (n_rows, n_features), finite; group: 0 .. n_groups(config) - 1. Raises DataError on fewer than two rows.
    """
    from sklearn.ensemble import IsolationForest

    if len(X) < 2:
        raise DataError(f"IsolationForest needs at least 2 rows to fit, got {len(X)}: give more data")
    trees = min(TREES_A_GROUP, config.n_estimators - group * TREES_A_GROUP)
    max_samples = config.max_samples
    if isinstance(max_samples, int):
        max_samples = min(max_samples, len(X))
    fitted = IsolationForest(
        n_estimators=trees,
        max_samples=max_samples,
        max_features=config.max_features,
        bootstrap=config.bootstrap,
        random_state=int(np.random.SeedSequence([seed, group]).generate_state(1)[0]),
    ).fit(X)
    return flatten(fitted)


def n_groups(config: ForestConfig) -> int:
    """Number of groups of trees."""
    return -(-config.n_estimators // TREES_A_GROUP)


def fit(X: np.ndarray, config: ForestConfig, seed: int) -> Forest:
    """Fit all groups in this process and merge them."""
    return merge([fit_trees(X, config, seed, group) for group in range(n_groups(config))])


def flatten(fitted: object) -> Forest:
    """Flat arrays of a fitted sklearn.ensemble.IsolationForest."""
    trees = list(zip(fitted.estimators_, fitted.estimators_features_, strict=True))  # type: ignore[attr-defined]
    parts = [_flatten_tree(estimator.tree_, np.asarray(columns)) for estimator, columns in trees]
    normaliser = float(average_path_length(np.array([fitted.max_samples_]))[0])  # type: ignore[attr-defined]
    return merge(
        [
            Forest(nodes, lengths, np.zeros(1, np.uint32), np.array([depth], np.int32), normaliser or 1.0)
            for nodes, lengths, depth in parts
        ]
    )


def merge(parts: Sequence[Forest]) -> Forest:
    """Join forests that were fitted with the same settings on the same rows."""
    firsts = np.concatenate([[0], np.cumsum([len(part.nodes) for part in parts])[:-1]]).astype(np.uint32)
    return Forest(
        nodes=np.concatenate([part.nodes for part in parts]),
        path_lengths=np.concatenate([part.path_lengths for part in parts]),
        roots=np.concatenate([part.roots + first for part, first in zip(parts, firsts, strict=True)]),
        depths=np.concatenate([part.depths for part in parts]),
        normaliser=parts[0].normaliser,
    )


def are_trees(nodes: np.ndarray, values: np.ndarray, roots: np.ndarray, depths: np.ndarray, n_keys: int) -> bool:
    """Whether walks stay in their tree: roots ascend, children precede the next root, leaves point to themselves."""
    roots = roots.astype(np.int64)
    if not (0 < len(roots) == len(depths) and len(nodes) == len(values) and nodes.dtype == np.uint64):
        return False
    ends = np.append(roots[1:], len(nodes))
    if roots[0] != 0 or (ends <= roots).any():
        return False
    root, end = np.repeat(roots, ends - roots), np.repeat(ends, ends - roots)
    child = root + ((nodes >> kernels.CHILD_SHIFT) & kernels.CHILD_MASK).astype(np.int64)
    is_leaf = (nodes >> kernels.THRESHOLD_SHIFT) == kernels.LEAF_THRESHOLD
    stays = np.where(is_leaf, child == np.arange(len(nodes)), child + 1 < end)
    return bool(stays.all() and ((nodes & kernels.FEATURE_MASK) < n_keys).all())


def average_path_length(n: np.ndarray) -> np.ndarray:
    """c(n): mean path length of an unsuccessful search in a binary tree of n rows (Liu et al. 2008, equation 1)."""
    n = np.asarray(n, dtype=np.float64)
    harmonic = np.log(np.maximum(n - 1.0, 1.0)) + np.euler_gamma
    many = 2.0 * harmonic - 2.0 * (n - 1.0) / np.maximum(n, 1.0)
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, many))


def _flatten_tree(tree: object, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Renumber a tree level by level: siblings become neighbours, and the most visited nodes are close.

    Returns nodes, path lengths and depth. Raises ConfigError for a tree or a table too large for a node's word.
    """
    left, right = tree.children_left, tree.children_right  # type: ignore[attr-defined]
    order, depth_of = [0], [0]
    children = []
    for index, node in enumerate(order):
        if left[node] < 0:
            children.append(index)
        else:
            children.append(len(order))
            order += [int(left[node]), int(right[node])]
            depth_of += [depth_of[index] + 1] * 2
    places = np.array(order)
    features = columns[np.maximum(tree.feature[places], 0)]  # type: ignore[attr-defined]
    if len(places) >= 1 << kernels.CHILD_BITS or features.max(initial=0) >= 1 << kernels.FEATURE_BITS:
        raise ConfigError(
            f"a tree of {len(places):,} nodes over {features.max() + 1:,} inputs is too large: lower forest.max_samples"
            f" (at most {1 << kernels.CHILD_BITS:,} nodes) or features.max_categories (at most "
            f"{1 << kernels.FEATURE_BITS:,} inputs)"
        )
    is_leaf = left[places] < 0
    exact = tree.threshold[places]  # type: ignore[attr-defined]
    rounded = exact.astype(np.float32)
    rounded = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    thresholds = np.empty(len(places), dtype=np.uint32)
    kernels.sortable(rounded.view(np.uint32), thresholds)
    thresholds[is_leaf] = kernels.LEAF_THRESHOLD
    words = thresholds.astype(np.uint64) << kernels.THRESHOLD_SHIFT
    words |= np.array(children, dtype=np.uint64) << kernels.CHILD_SHIFT
    words |= np.where(is_leaf, 0, features).astype(np.uint64)
    rows = tree.n_node_samples[places]  # type: ignore[attr-defined]
    depths = np.array(depth_of)
    return words, np.where(is_leaf, depths + average_path_length(rows), 0.0), int(depths.max())
