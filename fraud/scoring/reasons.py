"""Why a row is suspicious: its evidence beyond a typical row's, divided over the columns, strongest first.

The row and the typical row are two ends; between them a column's features are taken from the one or the other. A column
counts with the average of what it adds as the first to come in and as the last. Where columns interact at most in pairs
this is its Shapley value (Shapley, "A value for n-person games", 1953), for 2 evaluations a column in place of
2^columns. What interactions of three or more columns leave over is divided in proportion to the absolute contributions,
so that all of them add up exactly (the efficiency that Lundberg & Lee, NeurIPS 2017, ask of an explanation).
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

    feature: the most unusual of the features that speak of the column; value, typical: that feature here and usually,
    None where there is none; contribution: powers of ten by which the column makes the row rarer among normal ones than
    a typical row is; text: the same as a sentence, in the units of the data.
    """

    column: str
    feature: str
    value: float | str | None
    typical: float | str | None
    contribution: float
    text: str


class Explainer:
    """Divides evidence over the columns. `columns`: those that a detector's features speak of, in their order."""

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
        """Rows to evaluate for each row that is explained: 2 a column and 2."""
        return len(self._is_kept)

    def probes(self, raw: np.ndarray) -> np.ndarray:
        """What to evaluate, float64 (n_rows * n_probes, n_raw): for each row of `raw`, float64 (n_rows, n_raw), the row
        itself, the typical row, the typical row with one column of the row's, and the row with one column typical.
        """
        mixed = np.where(self._is_kept, raw[:, None, :], self._typical)
        return mixed.reshape(-1, raw.shape[1])

    def contributions(self, evidence: np.ndarray) -> np.ndarray:
        """Contributions, float64 (n_rows, n_columns), from the evidence of the probes, float64 (n_rows * n_probes,).

        They add up to the row's evidence less the typical row's. Negative: the column speaks for the row.
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
        """The `top` columns of one row that speak against it, strongest first; none that speak for it.

        raw: float64 (n_raw,); contributions: float64 (n_columns,); row: its values by column; now: microseconds since
        1970, NaN where no time is known.
        """
        order = np.argsort(-contributions, kind="stable")[:top].tolist()
        return self._reasons_at([g for g in order if not contributions[g] <= 0], raw, contributions, row, now)

    def account(
        self, raw: np.ndarray, contributions: np.ndarray, row: Mapping[str, object], now: float
    ) -> list[Reason]:
        """Every column of one row, those that speak for it too, the most suspicious first; arguments as `reasons`."""
        return self._reasons_at(np.argsort(-contributions, kind="stable").tolist(), raw, contributions, row, now)

    def _reasons_at(
        self, positions: list[int], raw: np.ndarray, contributions: np.ndarray, row: Mapping[str, object], now: float
    ) -> list[Reason]:
        values, reasons = raw.tolist(), []
        for g in positions:
            feature, value, typical, text = self._describer.describe(g, values, row, now)
            reasons.append(Reason(self.columns[g], feature, value, typical, float(contributions[g]), text))
        return reasons
