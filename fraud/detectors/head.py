"""The supervised head: learns from labelled frauds. Fitted by scikit-learn, stored as flat arrays.

It averages the log-odds of several small histogram gradient boostings (Ke et al., "LightGBM", NeurIPS 2017), each
fitted on all frauds and its own sample of legitimate rows (Liu, Wu and Zhou, "Exploratory undersampling for
class-imbalance learning", IEEE Transactions on Systems, Man, and Cybernetics B 2009). Inputs are raw features, unscaled
and unclipped, then the evidence of forest and autoencoder.

The only module that reads private parts of scikit-learn (1.9.1): the trees of a HistGradientBoostingClassifier
(`_predictors`, one list per iteration, each with `nodes`). `fit_member` compares the flat trees with the public
`decision_function`; see docs/security.md, "Private parts of libraries".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fraud.configuration import Count, Flag, Number, Share, Whole, configuration
from fraud.detectors import head_kernels, kernels
from fraud.detectors.base import Fitted
from fraud.detectors.forest import are_trees
from fraud.detectors.leaf_masks import leaf_masks
from fraud.errors import ConfigError, DataError, LibraryChangedError, library_changed

_VERSION_READ = "1.9.1"
_CHECKED_ROWS = 500
_MOST_DIFFERENCE = 1e-8  # in log-odds: sums of the same float64 in another order
N_EVIDENCES = 2  # inputs of the head: of forest and autoencoder


@configuration("head")
class HeadConfig:
    """Settings of the supervised head.

    use: "auto" = if the training window has at least `min_frauds` labelled frauds. members: boostings to average.
    normals: legitimate rows per member, or ten per fraud if that is more. iterations, learning_rate, max_leaf_nodes,
    min_samples_leaf, l2_regularization, max_features: of each boosting, as in scikit-learn's
    HistGradientBoostingClassifier. refit: after weight and threshold are chosen, fit again on the training and
    validation window.
    """

    use: Literal["auto", "always", "never"] = "auto"
    min_frauds: Count = 50
    members: Count = 5
    normals: Count = 20_000
    iterations: Count = 200
    learning_rate: Share = 0.05
    max_leaf_nodes: Annotated[Whole, Field(ge=2)] = 8
    min_samples_leaf: Count = 20
    l2_regularization: Annotated[Number, Field(ge=0)] = 0.0
    max_features: Share = 0.5
    refit: Flag = True

    def is_used(self, frauds: int) -> bool:
        """Whether to fit a head, given the number of labelled frauds in the training window."""
        return self.use == "always" or (self.use == "auto" and frauds >= self.min_frauds)


@dataclass(frozen=True)
class Head(Fitted):
    """Trees as flat arrays, laid out like the forest's (kernels.step), with ranks instead of numbers.

    cuts: float64 (n_cuts,), each input's split points ascending; starts: int64 (n_inputs + 1,) where they begin.
    nodes: uint64 (n_nodes,), see kernels.step, the threshold a rank among its input's cuts, the feature a key of
    head_kernels.rank_row; values: float64 (n_nodes,), log-odds at leaves; roots: uint32 (n_trees,) ascending; depths:
    int32 (n_trees,). members: number of boostings, which divides the sum over the trees.
    """

    name: ClassVar[str] = "head"
    title: ClassVar[str] = "supervised head"
    example: ClassVar[float] = 0.97
    needs_labels: ClassVar[bool] = True

    cuts: np.ndarray
    starts: np.ndarray
    nodes: np.ndarray
    values: np.ndarray
    roots: np.ndarray
    depths: np.ndarray
    members: int

    def score(self, X: np.ndarray) -> np.ndarray:
        """Log-odds of fraud relative to the training rows': float64 (n_rows,).

        X: float64 (n_rows, n_inputs) from `inputs`, NaN if missing.
        """
        out = np.empty(len(X))
        head_kernels.head_rows(np.ascontiguousarray(X, dtype=np.float64), self.kernel_arguments, out)
        return out

    def is_sound(self, n_inputs: int) -> bool:
        """Whether ranks are within the cuts and every walk in its tree. n_inputs: columns of `inputs`."""
        return (
            len(self.starts) == n_inputs + 1
            and self.starts[0] == 0
            and int(self.starts[-1]) == len(self.cuts)
            and bool((np.diff(self.starts) >= 0).all())
            and isinstance(self.members, int)
            and self.members >= 1
            and bool(np.isfinite(self.values).all())
            and are_trees(self.nodes, self.values, self.roots, self.depths, head_kernels.KEYS_A_FEATURE * n_inputs)
        )

    @cached_property
    def kernel_arguments(self) -> head_kernels.HeadArguments:
        """Arguments of the kernels, with the leaf masks for small trees."""
        masks = leaf_masks(self.starts, self.nodes, self.values, self.roots)
        return head_kernels.HeadArguments(
            self.cuts, self.starts, self.nodes, self.values, self.roots, self.depths, self.members,
            masks.features, masks.starts, masks.table, masks.leaves,
        )  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One boosting's trees. nodes: structured array of each tree, from scikit-learn's predictors."""

    nodes: list[np.ndarray]
    n_features: int


def inputs(raw: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Inputs of the head: float64 (n_rows, n_raw + 2).

    raw: float64 (n_rows, n_raw); evidence: float64 (n_rows, 2 or more), of forest and autoencoder first.
    """
    return np.column_stack([raw, evidence[:, :N_EVIDENCES]])


def fit_member(X: np.ndarray, labels: np.ndarray, config: HeadConfig, seed: int, member: int) -> Member:
    """Fit one boosting. X: float64 (n_rows, n_inputs); labels: int8 (n_rows,), rows of label -1 are ignored.

    Raises DataError without a fraud or without a legitimate row; LibraryChangedError if the exported trees differ from
    scikit-learn.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng([seed, member])
    frauds, normals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    if not len(frauds) or not len(normals):
        raise DataError(
            f"the supervised head needs labelled frauds and labelled legitimate rows to fit on, got {len(frauds)} and "
            f"{len(normals)}: set head.use to 'auto' or 'never', or give more labels"
        )
    n_normals = max(config.normals, 10 * len(frauds))
    if n_normals < len(normals):
        normals = rng.choice(normals, n_normals, replace=False)
    rows = np.sort(np.concatenate([frauds, normals]))
    fitted = HistGradientBoostingClassifier(
        max_iter=config.iterations,
        learning_rate=config.learning_rate,
        max_leaf_nodes=config.max_leaf_nodes,
        min_samples_leaf=config.min_samples_leaf,
        l2_regularization=config.l2_regularization,
        max_features=config.max_features,
        early_stopping=False,
        random_state=int(rng.integers(2**31)),
    ).fit(X[rows], labels[rows])
    exported = export(fitted)
    checked = rows[np.linspace(0, len(rows) - 1, min(len(rows), _CHECKED_ROWS)).astype(np.int64)]
    check_exported(exported, fitted, X[checked], prior=float(np.log(len(frauds) / len(normals))))
    return exported


def fit(X: np.ndarray, labels: np.ndarray, config: HeadConfig, seed: int) -> Head:
    """Fit all members in this process and merge them."""
    return merge([fit_member(X, labels, config, seed, member) for member in range(config.members)])


def export(fitted: object) -> Member:
    """Extract the trees of a fitted binary HistGradientBoostingClassifier without categorical features.

    The prior, the log-odds of the training rows, is dropped: a sample with more frauds must not raise all scores.
    """
    try:
        trees = [trees[0].nodes for trees in fitted._predictors]  # type: ignore[attr-defined]
    except (AttributeError, TypeError, IndexError) as error:
        raise _sklearn_changed(f"keeps the trees of a boosting elsewhere ({error})") from error
    return Member(trees, fitted.n_features_in_)  # type: ignore[attr-defined]


def check_exported(member: Member, fitted: Any, X: np.ndarray, *, prior: float) -> None:
    """Compare a member's flat trees with scikit-learn.

    fitted: the estimator that the member was exported from. X: float64 (n_rows, n_inputs); a row of missing values is
    added. prior: log-odds of the training rows, which the member lacks. Raises LibraryChangedError if they differ.
    """
    X = np.concatenate([X, np.full((1, X.shape[1]), np.nan)])
    try:
        answers = merge([member]).score(X) + prior
    except (KeyError, ValueError, IndexError) as error:
        raise _sklearn_changed(f"writes the nodes of a tree in another way ({error})") from error
    difference = float(np.abs(answers - fitted.decision_function(X)).max())
    if not difference <= _MOST_DIFFERENCE:
        raise _sklearn_changed(f"answers otherwise than its exported trees, by up to {difference:.3g} in log-odds")


def _sklearn_changed(change: str) -> LibraryChangedError:
    return library_changed("scikit-learn", _VERSION_READ, change)


def merge(members: Sequence[Member]) -> Head:
    """Join members into flat arrays. Raises ConfigError for more than 2,048 features."""
    n_features = members[0].n_features
    if n_features * head_kernels.KEYS_A_FEATURE > 1 << kernels.FEATURE_BITS:
        most = (1 << kernels.FEATURE_BITS) // head_kernels.KEYS_A_FEATURE
        raise ConfigError(f"the head takes {most:,} features and got {n_features:,}: set head.use to 'never'")
    trees = [nodes for member in members for nodes in member.nodes]
    splits = np.concatenate([nodes[nodes["is_leaf"] == 0] for nodes in trees])
    cuts = [np.unique(splits["num_threshold"][splits["feature_idx"] == j]) for j in range(n_features)]
    parts = [_flatten_tree(nodes, cuts) for nodes in trees]
    sizes = [len(words) for words, _, _ in parts]
    return Head(
        cuts=np.concatenate(cuts),
        starts=np.cumsum([0, *map(len, cuts)]).astype(np.int64),
        nodes=np.concatenate([words for words, _, _ in parts]),
        values=np.concatenate([values for _, values, _ in parts]),
        roots=np.cumsum([0, *sizes[:-1]]).astype(np.uint32),
        depths=np.array([depth for _, _, depth in parts], dtype=np.int32),
        members=len(members),
    )


def _flatten_tree(nodes: np.ndarray, cuts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Renumber a tree level by level, so that siblings are neighbours. Returns node words, leaf values, depth."""
    order, children = [0], []
    for index, node in enumerate(order):
        if nodes["is_leaf"][node]:
            children.append(index)
        else:
            children.append(len(order))
            order += [int(nodes["left"][node]), int(nodes["right"][node])]
    renumbered = nodes[order]
    if len(renumbered) > 1 << kernels.CHILD_BITS:
        raise ConfigError(f"a tree of {len(renumbered):,} nodes is too large: lower head.max_leaf_nodes")
    is_leaf = renumbered["is_leaf"] == 1
    words = np.empty(len(renumbered), dtype=np.uint64)
    for index, (node, child) in enumerate(zip(renumbered, children, strict=True)):
        feature = int(node["feature_idx"])
        if is_leaf[index]:
            rank, key = kernels.LEAF_THRESHOLD, 0
        else:
            rank = int(np.searchsorted(cuts[feature], node["num_threshold"]))
            key = head_kernels.KEYS_A_FEATURE * feature + (0 if node["missing_go_to_left"] else 1)
        words[index] = (rank << 32) | (child << kernels.FEATURE_BITS) | key
    return words, np.where(is_leaf, renumbered["value"], 0.0), int(renumbered["depth"].max())
