"""A detector as somebody might add it: all of it stands in this file.

Goldstein and Dengel, "Histogram-based Outlier Score (HBOS)", KI 2012: a row is as unusual as its values are rare, each
input by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from fraud.detectors.base import Fitted

N_BINS = 20


@dataclass(frozen=True)
class Hbos(Fitted):
    """edges: float64 (n_inputs, N_BINS - 1) ascending; surprise: float64 (n_inputs, N_BINS), -log density of a bin."""

    name: ClassVar[str] = "hbos"
    title: ClassVar[str] = "histogram detector"

    edges: np.ndarray
    surprise: np.ndarray

    @classmethod
    def fit(cls, X: np.ndarray, seed: int) -> Self:
        """Bins of equal width between the extremes of each input."""
        edges = np.linspace(X.min(axis=0), X.max(axis=0), N_BINS + 1, dtype=np.float64).T[:, 1:-1]
        empty = cls(np.ascontiguousarray(edges), np.zeros((X.shape[1], N_BINS)))
        counts = np.stack([np.bincount(bins, minlength=N_BINS) for bins in empty._bins(X)])
        return cls(empty.edges, -np.log((counts + 0.5) / (len(X) + 0.5 * N_BINS)))

    def score(self, X: np.ndarray) -> np.ndarray:
        """Sum over the inputs, one after the other, so that a row has the same bits beside any other rows."""
        total = np.zeros(len(X))
        for surprise, bins in zip(self.surprise, self._bins(X), strict=True):
            total += surprise[bins]
        return total

    def is_sound(self, n_inputs: int) -> bool:
        """Whether there is a bin for every value."""
        return self.edges.shape == (n_inputs, N_BINS - 1) and self.surprise.shape == (n_inputs, N_BINS)

    def _bins(self, X: np.ndarray) -> list[np.ndarray]:
        return [np.searchsorted(edges, values) for edges, values in zip(self.edges, X.T, strict=True)]
