"""Estimate the precision of a live day's alerts when labels come late and only some alerts are reviewed.

Labelled alerts count as they are. For the others, a logistic regression on the labelled alerts turns the score into a
fraud probability (confidence-based performance estimation, see Garg et al., "Leveraging unlabeled data to predict
out-of-distribution performance", ICLR 2022). Unlike the plain share of frauds among reviewed alerts, this is not biased
when analysts review the highest scores first.

Days differ by more than chance, so each day has a random intercept (Gauss-Hermite quadrature); its spread is fitted on
labelled days. The interval covers the intercept, the chance of each alert and the uncertainty of the regression.

The regression is fitted on mature days and does not know newer changes. Where enough of a day's alerts were drawn at
random and reviewed, the estimate uses only these.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud.metrics.resampling import interval

_CLIP = 1e-6  # of a score: logits of 0 and 1 are infinite
_PRIOR = 0.1  # in rows; regularizes the coefficients if a few alerts are all frauds, or none is
_SPREADS = np.linspace(0.0, 2.0, 41)  # of the days' offsets, in logits
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_DRAWS = 1000
FEWEST_LABELS, FEWEST_DAYS, FEWEST_DRAWN = 20, 3, 15


@dataclass(frozen=True)
class DayPrecision:
    """One live day. alerts: flagged rows; labelled: alerts with a label; frauds: labelled alerts that are frauds.

    is_mature: the label delay has passed. precision: share of frauds among the alerts; low, high: its 95 % interval.
    All three are None if there are too few labels for an estimate, and equal if every alert is labelled.
    """

    day: dt.date
    alerts: int
    labelled: int
    frauds: int
    is_mature: bool
    precision: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def share_labelled(self) -> float | None:
        """Labelled alerts over alerts."""
        return self.labelled / self.alerts if self.alerts else None


def by_day(
    alerts: pd.DataFrame, *, as_of: dt.date, delay_days: float, window_days: int = 28, seed: int = 7
) -> list[DayPrecision]:
    """The precision of every day with alerts, oldest first.

    alerts: flagged rows with day (date), score (0 to 1), label (1.0, 0.0, or NaN if unknown at `as_of`) and optionally
    is_drawn (bool): labelled because it was drawn at random from the day's rows or alerts. delay_days: label delay.
    window_days: mature days before a day that its estimate is fitted on. seed: for the interval.
    """
    rng = np.random.default_rng(seed)
    is_drawn = alerts["is_drawn"].to_numpy(dtype=bool) if "is_drawn" in alerts else np.zeros(len(alerts), bool)
    score = alerts["score"].to_numpy(dtype=np.float64).clip(_CLIP, 1 - _CLIP)
    x, y = np.log(score / (1 - score)), alerts["label"].to_numpy(dtype=np.float64)
    days = pd.to_datetime(alerts["day"]).to_numpy(dtype="datetime64[D]")
    mature_until = np.datetime64(as_of - dt.timedelta(days=math.ceil(delay_days)))
    result = []
    for day in np.unique(days):
        here = days == day
        seen, is_open = here & ~np.isnan(y), here & np.isnan(y)
        oldest = day - np.timedelta64(window_days + math.ceil(delay_days), "D")
        known = ~here & ~np.isnan(y) & (days < mature_until) & (days >= oldest)
        count, labelled, frauds = int(here.sum()), int(seen.sum()), int(y[seen].sum())
        precision = low = high = None
        if labelled == count:
            precision = low = high = frauds / count
        elif (seen & is_drawn).sum() >= FEWEST_DRAWN:
            # The others are assumed to be like those drawn (Jeffreys' prior); the score is not used.
            n, k = int((seen & is_drawn).sum()), int(y[seen & is_drawn].sum())
            values = (frauds + rng.binomial(count - labelled, rng.beta(k + 0.5, n - k + 0.5, _DRAWS))) / count
            precision, (low, high) = float(values.mean()), interval(values) or (None, None)
        elif (drawn := _draws(x[known], y[known], days[known], x[is_open], x[seen], y[seen], rng)) is not None:
            values = (frauds + drawn) / count
            precision = float(values.mean())
            low, high = interval(values) or (None, None)
        estimate = {"precision": precision, "low": low, "high": high}
        result.append(DayPrecision(day.item(), count, labelled, frauds, is_mature=bool(day < mature_until), **estimate))
    return result


@dataclass(frozen=True)
class _Fit:
    """Logistic regression of labels on the score's logit. spread: of the days' offsets, in logits."""

    coefficients: np.ndarray
    covariance: np.ndarray
    spread: float


def _draws(
    x: np.ndarray, y: np.ndarray, days: np.ndarray, x_open: np.ndarray, x_seen: np.ndarray, y_seen: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray | None:  # fmt: skip
    """Draws of the number of frauds among a day's unlabelled alerts; None with too few labels to fit.

    x, y, days: logits, labels and days of the labelled alerts of other days. x_open: logits of the day's unlabelled
    alerts. x_seen, y_seen: logits and labels of its labelled alerts.
    """
    if len(y) < FEWEST_LABELS or len(np.unique(days)) < FEWEST_DAYS:
        return None
    fit = _fit(x, y, days)
    coefficients = rng.multivariate_normal(fit.coefficients, fit.covariance, _DRAWS)
    offsets = rng.normal(0.0, fit.spread, _DRAWS)
    if len(y_seen):  # condition the offset on the day's own labels by importance resampling
        likely = _log_likelihood(y_seen, coefficients[:, :1] + coefficients[:, 1:] * x_seen + offsets[:, None]).sum(
            axis=1
        )
        weights = np.exp(likely - likely.max())
        picked = rng.choice(_DRAWS, _DRAWS, p=weights / weights.sum())
        coefficients, offsets = coefficients[picked], offsets[picked]
    chances = _sigmoid(coefficients[:, :1] + coefficients[:, 1:] * x_open + offsets[:, None])
    return np.asarray((rng.random(chances.shape) < chances).sum(axis=1))


def _fit(x: np.ndarray, y: np.ndarray, days: np.ndarray) -> _Fit:
    """Fit with Newton's method; the covariance is robust to correlation within days (Liang and Zeger, 1986)."""
    X = np.column_stack([np.ones_like(x), x])
    center = np.array([np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5)), 0.0])
    coefficients, prior = center.copy(), np.eye(2) * _PRIOR
    for _ in range(50):
        chances = _sigmoid(X @ coefficients)
        step = np.linalg.solve(_curvature(X, chances) + prior, X.T @ (y - chances) - prior @ (coefficients - center))
        coefficients = coefficients + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    chances = _sigmoid(X @ coefficients)
    residuals = X * (y - chances)[:, None]
    _, day_codes = np.unique(days, return_inverse=True)
    by_day = np.column_stack([np.bincount(day_codes, weights=residuals[:, i]) for i in range(2)])
    inverse = np.linalg.inv(_curvature(X, chances) + prior)
    robust = inverse @ (by_day.T @ by_day) @ inverse * len(by_day) / (len(by_day) - 1)
    # The sum of both: with few days the robust covariance alone is too small.
    return _Fit(coefficients, robust + inverse, _spread(X @ coefficients, y, day_codes))


def _curvature(X: np.ndarray, chances: np.ndarray) -> np.ndarray:
    return np.asarray((X * (chances * (1 - chances))[:, None]).T @ X)


def _spread(logits: np.ndarray, y: np.ndarray, day_codes: np.ndarray) -> float:
    """The maximum-likelihood spread of the days' offsets."""
    best, most = 0.0, -np.inf
    for spread in _SPREADS.tolist():
        each = _log_likelihood(y[:, None], logits[:, None] + spread * _NODES)  # (n_rows, n_nodes)
        days = np.stack([np.bincount(day_codes, weights=column) for column in each.T], axis=1) + np.log(_WEIGHTS)
        highest = days.max(axis=1, keepdims=True)
        total = float((highest[:, 0] + np.log(np.exp(days - highest).sum(axis=1))).sum())
        if total > most:
            best, most = spread, total
    return best


def _log_likelihood(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return y * logits - np.logaddexp(0.0, logits)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
