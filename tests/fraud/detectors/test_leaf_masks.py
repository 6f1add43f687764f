"""The masks of small trees: the same leaves as walks find, and only where they fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud.detectors import head, leaf_masks
from fraud.detectors.head import Head
from tests.fraud.detectors.test_head import awkward_rows


def grown(rng: np.random.Generator, leaves: int, trees: int) -> Head:
    X, y = awkward_rows(rng, 2000)
    fitted = HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=leaves, max_features=0.6, early_stopping=False, random_state=0
    ).fit(X, y)
    return head.merge([head.export(fitted)])


def masks_of(of: Head) -> leaf_masks.LeafMasks:
    return leaf_masks.leaf_masks(of.starts, of.nodes, of.values, of.roots)


@pytest.mark.parametrize("trees", [1, 4, 31])
@pytest.mark.parametrize("leaves", [2, 5, 8])
def test_masks_find_the_leaves_that_walks_find(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, leaves: int, trees: int
) -> None:
    by_masks = grown(rng, leaves, trees)
    assert len(masks_of(by_masks).table)
    monkeypatch.setattr(leaf_masks, "LARGEST_TABLE", 0)
    walked = Head(**by_masks.arrays())
    assert not len(masks_of(walked).table)
    cuts = np.repeat(by_masks.cuts[:, None], 7, axis=1)  # a row on every split point, one above and one below
    edges = [cuts, np.nextafter(cuts, np.inf), np.nextafter(cuts, -np.inf)]
    fresh = np.concatenate([awkward_rows(rng, 1001)[0], *edges, np.full((1, 7), np.nan), np.full((1, 7), np.inf)])
    np.testing.assert_allclose(by_masks.score(fresh), walked.score(fresh), rtol=0, atol=1e-12)


def test_trees_of_many_leaves_are_walked(rng: np.random.Generator) -> None:
    assert masks_of(grown(rng, 9, 3)) is leaf_masks.NO_MASKS


@pytest.mark.parametrize("child", [0, 1, 14])
def test_what_is_no_tree_is_walked(rng: np.random.Generator, child: int) -> None:
    of = grown(rng, 8, 1)
    nodes = of.nodes.copy()
    assert len(nodes) == 15
    inner = 1 if int(nodes[1] >> np.uint64(12)) & 0xFFFFF != 1 else 2
    nodes[inner] = (int(nodes[inner]) & ~(0xFFFFF << 12)) | (child << 12)
    assert leaf_masks.leaf_masks(of.starts, nodes, of.values, of.roots) is leaf_masks.NO_MASKS
