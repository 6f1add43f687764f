"""Reasons: the row's evidence minus a typical row's, divided over the columns.

A column's contribution is the mean of two changes in evidence: when it alone is changed from typical to the row's
value, and when it is the last to be changed. If columns interact at most in pairs, this is the Shapley value (Shapley,
"A value for n-person games", 1953), with 2 evaluations per column instead of 2^columns. The remainder, from
interactions of three or more columns, is divided in proportion to the absolute contributions, so that these add up
exactly (the efficiency property of Lundberg & Lee, NeurIPS 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fraud.detectors.features import FeatureMap
from fraud.schema import Schema
from fraud.scoring.reason_text import Describer


@dataclass(frozen=True)
class Reason:
    """One column that makes a row suspicious.

    feature: the column's most unusual feature; value, typical: of that feature, None if undefined; contribution: powers
    of ten by which the column makes the row rarer than a typical row; text: a sentence in the units of the data.
    """

    column: str
    feature: str
    value: float | str | None
    typical: float | str | None
    contribution: float
    text: str


class Explainer:
    """Divides evidence over the columns. columns: the columns of the features, in order."""

    def __init__(self, features: FeatureMap, schema: Schema) -> None:
        self.columns = tuple(dict.fromkeys(features.columns))
        self._typical = features.typical
        self._describer = Describer(schema, features)
        n = len(self.columns)
        of_column = np.array([[c == name for c in features.columns] for name in self.columns]).reshape(n, -1)
        ends = np.stack([np.ones(len(features.names), dtype=bool), np.zeros(len(features.names), dtype=bool)])
        self._is_kept = np.concatenate([ends, of_column, ~of_column])

    @property
    def n_probes(self) -> int:
        """Evaluations per explained row: 2 per column plus 2."""
        return len(self._is_kept)

    def probes(self, raw: np.ndarray) -> np.ndarray:
        """Rows to evaluate, float64 (n_rows * n_probes, n_raw), for raw, float64 (n_rows, n_raw).

        Per row: the row, the typical row, the typical row with one column changed, the row with one column typical.
        """
        mixed = np.where(self._is_kept, raw[:, None, :], self._typical)
        return mixed.reshape(-1, raw.shape[1])

    def contributions(self, evidence: np.ndarray) -> np.ndarray:
        """Contributions, float64 (n_rows, n_columns), from the evidence of the probes, float64 (n_rows * n_probes,).

        They add up to the row's evidence minus the typical row's. Negative: the column makes the row less suspicious.
        """
        evidence = evidence.reshape(-1, self.n_probes)
        n = len(self.columns)
        row, typical = evidence[:, :1], evidence[:, 1:2]
        first_in, last_in = evidence[:, 2 : 2 + n] - typical, row - evidence[:, 2 + n :]
        parts = (first_in + last_in) / 2.0
        rest = row - typical - parts.sum(axis=1, keepdims=True)
        sizes = np.abs(parts)
        total = sizes.sum(axis=1, keepdims=True)
        shares = np.divide(sizes, total, out=np.full_like(sizes, 1.0 / n), where=total > 0.0)
        return parts + shares * rest

    def reasons(
        self, raw: np.ndarray, contributions: np.ndarray, row: Mapping[str, object], now: float, top: int
    ) -> list[Reason]:
        """The `top` columns with positive contributions, largest first.

        raw: float64 (n_raw,); contributions: float64 (n_columns,); row: its values by column; now: microseconds since
        1970, NaN if unknown.
        """
        order = np.argsort(-contributions, kind="stable")[:top].tolist()
        return self._reasons_at([g for g in order if not contributions[g] <= 0], raw, contributions, row, now)

    def account(
        self, raw: np.ndarray, contributions: np.ndarray, row: Mapping[str, object], now: float
    ) -> list[Reason]:
        """All columns of one row, most suspicious first; arguments as in `reasons`."""
        return self._reasons_at(np.argsort(-contributions, kind="stable").tolist(), raw, contributions, row, now)

    def _reasons_at(
        self, positions: list[int], raw: np.ndarray, contributions: np.ndarray, row: Mapping[str, object], now: float
    ) -> list[Reason]:
        values, reasons = raw.tolist(), []
        for g in positions:
            feature, value, typical, text = self._describer.describe(g, values, row, now)
            reasons.append(Reason(self.columns[g], feature, value, typical, float(contributions[g]), text))
        return reasons
