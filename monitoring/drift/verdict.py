"""Effect size and significance of each column's change, and its level: ok, warning or drift.

A level other than "ok" needs both an effect that matters and a p-value that is small after correction for many tests.
With many rows every change is significant; with few rows every change looks large.

Population stability index and its limits 0.1 / 0.25: Siddiqi, Credit Risk Scorecards (2006), ch. 9. For a normal column
they correspond to shifts of 0.32 and 0.5 standard deviations, and so do the limits on the Kolmogorov-Smirnov distance.
Many tests: Benjamini & Hochberg (1995). Expected share of unseen values: Good (1953).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from fraud.errors import ConfigError

Level = Literal["ok", "warning", "drift"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "drift")
TOO_FEW_ROWS = "too_few_rows"  # instead of a level: the file or the reference has fewer than `min_rows`
WORDS = {TOO_FEW_ROWS: "too few rows"}  # on pages, where it differs
COLOURS = {"ok": "ok", "warning": "warning", "drift": "bad", TOO_FEW_ROWS: "unknown"}  # of the badge on pages
_LONGEST = 40


MARGIN = 1.5  # limits are at least this multiple of the variation of the reference's own blocks


@dataclass(frozen=True)
class OwnVariation:
    """A column's variation within the reference: effect sizes; multiplied: whether a level's share multiplied."""

    psi: float = 0.0
    ks: float = 0.0
    missing: float = 0.0
    multiplied: bool = False

    def raised(self, name: str, limits: tuple[float, float]) -> tuple[float, float]:
        """The limits (warning, drift) of an effect, raised to cover the reference's own variation."""
        low = max(limits[0], MARGIN * {"psi": self.psi, "ks": self.ks, "change": self.missing}[name])
        return low, max(limits[1], low + limits[1] - limits[0])


@dataclass(frozen=True, kw_only=True)
class DriftLimits:
    """When a change matters. Pairs are (warning, drift); shares are of rows, in [0, 1].

    alpha: largest corrected p-value. psi, ks: population stability index, Kolmogorov-Smirnov distance. share: change of
    the missing rate, or rise of the share of values that the reference does not have. ratio: if the share of a level of
    a boolean or categorical column changed by this factor and by at least share[0], it is a warning even if PSI is
    small. bins: bins of a numeric column, at the reference's quantiles. min_rows: fewer rows on a side give no verdict.
    """

    alpha: float = 0.01
    psi: tuple[float, float] = (0.1, 0.25)
    ks: tuple[float, float] = (0.1, 0.2)
    share: tuple[float, float] = (0.01, 0.05)
    ratio: float = 2.0
    bins: int = 10
    min_rows: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha={self.alpha!r} must be in (0, 1), e.g. 0.01")
        for name in ("psi", "ks", "share"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be two growing numbers above 0: warning, drift")
        if self.bins < 2:
            raise ConfigError(f"bins={self.bins!r} must be 2 or more")
        if self.min_rows < 1:
            raise ConfigError(f"min_rows (--min-rows) is {self.min_rows}: give 1 or more, such as 200")


@dataclass(frozen=True)
class Finding:
    """One test of one column.

    what: "distribution", "missing" or "unseen"; test: its name; effects: effect sizes by name; limits: their limits;
    level_if_real: level by effect size alone; level: that level if the corrected p-value is small enough, else "ok";
    change: the change in words.
    """

    what: str
    test: str
    effects: Mapping[str, float]
    limits: Mapping[str, tuple[float, float]]
    p_value: float
    level_if_real: Level
    change: str
    p_adjusted: float = 1.0
    level: Level = "ok"


@dataclass(frozen=True)
class ColumnVerdict:
    """The verdict on one column; `findings` in the order distribution, missing, unseen."""

    column: str
    kind: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst level of the findings."""
        return worst([finding.level for finding in self.findings])

    @property
    def drifted(self) -> bool:
        """Whether the level is drift."""
        return self.level == "drift"

    @property
    def decisive(self) -> Finding:
        """The finding that decides the level: the worst one with the smallest p-value."""
        return min(self.findings, key=lambda finding: (-LEVELS.index(finding.level), finding.p_adjusted))

    @property
    def change(self) -> str:
        """What changed, in words: the findings above "ok", or else the distribution's."""
        changes = [finding.change for finding in self.findings if finding.level != "ok"]
        return "; ".join(changes) or self.findings[0].change

    @property
    def size(self) -> float:
        """Largest effect divided by its drift limit; sorts the columns."""
        return max(
            value / f.limits[name][1] for f in self.findings for name, value in f.effects.items() if name in f.limits
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, with the figures of the distribution test at the top level."""
        first = self.findings[0]
        return {
            "column": self.column,
            "kind": self.kind,
            "test": first.test,
            "statistics": {name: _plain(value) for name, value in first.effects.items()},
            "thresholds": {name: {"warning": low, "drift": high} for name, (low, high) in first.limits.items()},
            "p_value": _plain(first.p_value),
            "p_value_adjusted": _plain(first.p_adjusted),
            **{f.what: {name: _plain(v) for name, v in f.effects.items()} | {"p_value_adjusted": _plain(f.p_adjusted)}
               | {"level": f.level} for f in self.findings[1:]},
            "decisive_p_value": _plain(self.decisive.p_adjusted),
            "level": self.level,
            "drifted": self.drifted,
            "change": self.change,
        }  # fmt: skip


def judge(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    kinds: Mapping[str, str],
    limits: DriftLimits | None = None,
    own: Mapping[str, OwnVariation] | None = None,
) -> tuple[ColumnVerdict, ...]:
    """Compare every column of `kinds` ({name: "numeric" | "score" | "boolean" | "categorical"}) between two frames.

    Both frames are canonical (fraud.schema.validate); missing values are NaN or None. own: variation within the
    reference, by column (monitoring.drift.variation). All p-values are corrected together.
    """
    limits, own = limits or DriftLimits(), own or {}
    verdicts = []
    for name, kind in kinds.items():
        old, new = reference[name], current[name]
        usual = own.get(name)
        is_number = kind in ("numeric", "score")
        findings = [_numeric(old, new, limits, usual) if is_number else _levels(old, new, kind, limits, usual)]
        gaps = int(old.isna().sum()), len(old), int(new.isna().sum()), len(new)
        findings.append(share_finding("missing", *gaps, limits, usual))
        if kind == "categorical":
            findings.append(_unseen(old.dropna(), new.dropna(), limits))
        verdicts.append(ColumnVerdict(name, kind, tuple(findings)))
    return corrected(verdicts, limits)


def corrected(columns: Sequence[ColumnVerdict], limits: DriftLimits) -> tuple[ColumnVerdict, ...]:
    """Correct the p-values of all findings together (Benjamini-Hochberg) and set their levels."""
    from scipy.stats import false_discovery_control

    p_values = [finding.p_value for column in columns for finding in column.findings]
    adjusted = iter(false_discovery_control(p_values))

    def settle(finding: Finding) -> Finding:
        p = float(next(adjusted))
        return replace(finding, p_adjusted=p, level=finding.level_if_real if p < limits.alpha else "ok")

    return tuple(replace(column, findings=tuple(settle(f) for f in column.findings)) for column in columns)


def population_stability_index(old: np.ndarray, new: np.ndarray) -> float:
    """PSI of two count vectors over the same bins, shape (n_bins,). Adds 0.5 to each bin to stay finite."""
    p = (old + 0.5) / (old.sum() + 0.5 * len(old))
    q = (new + 0.5) / (new.sum() + 0.5 * len(new))
    return float(((q - p) * np.log(q / p)).sum())


def share_finding(
    what: str,
    old_hits: int,
    old_rows: int,
    new_hits: int,
    new_rows: int,
    limits: DriftLimits,
    own: OwnVariation | None = None,
) -> Finding:
    """Compare two shares of rows (missing values, refused rows): two-proportion z test."""
    old_share, new_share = old_hits / max(old_rows, 1), new_hits / max(new_rows, 1)
    pooled = (old_hits + new_hits) / max(old_rows + new_rows, 1)
    error = math.sqrt(pooled * (1 - pooled) * (1 / max(old_rows, 1) + 1 / max(new_rows, 1)))
    p_value = math.erfc(abs(new_share - old_share) / error / math.sqrt(2)) if error else 1.0
    change = abs(new_share - old_share)
    bounds = own.raised("change", limits.share) if own else limits.share
    return Finding(
        what=what,
        test="two-proportion z test",
        effects={"reference_share": old_share, "current_share": new_share, "change": change},
        limits={"change": bounds},
        p_value=p_value,
        level_if_real=_level(change, bounds),
        change=f"{what} {old_share:.2%} → {new_share:.2%}",
    )


def worst(levels: Sequence[Level]) -> Level:
    """The most serious level; "ok" if there are none."""
    return LEVELS[max((LEVELS.index(level) for level in levels), default=0)]


def shortened(text: object, length: int = _LONGEST) -> str:
    """The text, cut to `length` characters."""
    shown = str(text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def _numeric(old: pd.Series, new: pd.Series, limits: DriftLimits, own: OwnVariation | None) -> Finding:
    from scipy.stats import ks_2samp

    a, b = (np.sort(values.dropna().to_numpy(dtype=np.float64)) for values in (old, new))
    test = "Kolmogorov-Smirnov + PSI"
    bounds = {"psi": limits.psi, "ks": limits.ks}
    if own:
        bounds = {name: own.raised(name, pair) for name, pair in bounds.items()}
    if not len(a) or not len(b):
        return Finding("distribution", test, {}, bounds, 1.0, "ok", "no values to compare")
    edges = inner_edges(a, limits.bins)
    counts = [np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (a, b)]
    distance, p_value = ks_2samp(a, b, method="asymp")
    effects = {"psi": population_stability_index(*counts), "ks": float(distance)}
    level = worst([_level(effects[name], bounds[name]) for name in bounds])
    change = f"median {_middle(a):.4g} → {_middle(b):.4g}, 95th percentile {_high(a):.4g} → {_high(b):.4g}"
    return Finding("distribution", test, effects, bounds, float(p_value), level, change)


def _levels(old: pd.Series, new: pd.Series, kind: str, limits: DriftLimits, own: OwnVariation | None) -> Finding:
    """Compare the shares of the levels of a categorical or yes/no column."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import chi2_contingency

    test = "chi-square + PSI"
    bounds = own.raised("psi", limits.psi) if own else limits.psi
    counts = pd.concat([old.dropna().value_counts(), new.dropna().value_counts()], axis=1).fillna(0.0)
    table = counts.to_numpy(dtype=np.float64).T
    if table.size == 0 or (table.sum(axis=1) == 0).any():
        return Finding("distribution", test, {}, {"psi": bounds}, 1.0, "ok", "no values to compare")
    # The chi-square test needs an expected count of five per cell; rarer levels are pooled.
    expected = table.sum(axis=0) * table.sum(axis=1).min() / table.sum()
    pooled = np.column_stack([table[:, expected >= 5], table[:, expected < 5].sum(axis=1)])
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    p_value = chi2_contingency(pooled, correction=False).pvalue if pooled.shape[1] > 1 else 1.0
    shares = table / table.sum(axis=1, keepdims=True)
    effects = {
        "psi": population_stability_index(pooled[0], pooled[1]),
        "jensen_shannon": float(np.nan_to_num(jensenshannon(shares[0], shares[1], base=2))),
    }
    moved = shares[1] - shares[0]
    level = _level(effects["psi"], bounds)
    if level == "ok" and not (own and own.multiplied) and multiplied(shares[0], shares[1], limits).any():
        level = "warning"
    most = int(np.abs(moved).argmax())
    if kind == "boolean" and 1.0 in counts.index:
        most = int(counts.index.get_loc(1.0))
    name = "yes" if kind == "boolean" and counts.index[most] == 1.0 else repr(shortened(counts.index[most]))
    change = f"{name} {shares[0][most]:.1%} → {shares[1][most]:.1%}"
    return Finding("distribution", test, effects, {"psi": bounds}, float(p_value), level, change)


def multiplied(old: np.ndarray, new: np.ndarray, limits: DriftLimits) -> np.ndarray:
    """Which shares, float64 (n_levels,), changed by the factor limits.ratio and by at least limits.share[0]."""
    ratio = np.maximum(old, new) / np.maximum(np.minimum(old, new), 1e-12)
    return np.asarray((ratio >= limits.ratio) & (np.abs(new - old) >= limits.share[0]))


def _unseen(old: pd.Series, new: pd.Series, limits: DriftLimits) -> Finding:
    """Test the share of rows with values unseen in the reference against its expectation without drift."""
    seen = old.value_counts()
    strangers = new[~new.isin(seen.index)]
    # The share of values seen once estimates the share of unseen values (Good-Turing).
    finding = share_finding("unseen", int((seen == 1).sum()), len(old), len(strangers), len(new), limits)
    expected, share = finding.effects["reference_share"], finding.effects["current_share"]
    rise = max(share - expected, 0.0)
    named = ", ".join(repr(shortened(value)) for value in strangers.value_counts().index[:3])
    return replace(
        finding,
        effects={"share": share, "expected_share": expected, "change": rise},
        level_if_real=_level(rise, limits.share),
        change=f"{share:.1%} of rows hold a value the reference never had" + (f", such as {named}" if named else ""),
    )


def inner_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Upper edges of all bins but the last, at quantiles. A value that spans several quantiles gets its own bin."""
    quantiles = np.quantile(values, np.linspace(0, 1, bins + 1), method="inverted_cdf")
    edges, times = np.unique(quantiles, return_counts=True)
    return np.unique(np.concatenate([edges[:-1], edges[times > 1], np.nextafter(edges[times > 1], -np.inf)]))


def _level(effect: float, limits: tuple[float, float]) -> Level:
    return LEVELS[int(effect >= limits[0]) + int(effect >= limits[1])]


def _middle(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.5))


def _high(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.95))


def _plain(value: float) -> float | None:
    """Six significant digits; None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
