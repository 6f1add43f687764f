"""The one definition of features, for training, batches and single requests.

A canonical row becomes a *raw* vector (float64: numbers, 0/1, category codes, calendar, entity history). The raw vector
becomes the float32 *inputs* of the detectors: transformed, scaled and clipped numbers, category outputs, flags for
missing values. Fitted state is plain arrays. The loops are in fraud/detectors/kernels.py.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field

from fraud.configuration import Number, Whole, configuration
from fraud.detectors import kernels
from fraud.detectors.base import Stored
from fraud.errors import ConfigError, DataError, closest
from fraud.history.definition import feature_columns, feature_names, feature_transforms
from fraud.history.records import microseconds_since_epoch
from fraud.schema import Schema
from fraud.schema.zone import zone_of

MICROSECONDS_A_DAY = 86_400e6
CALENDAR_WIDTH = {"hour": 2, "weekday": 2, "weekend": 1, "night": 1}
_KINDS = {"none": kernels.LINEAR, "log": kernels.LOG, "signed_log": kernels.SIGNED_LOG}


@configuration("features")
class FeatureConfig:
    """How raw features are scaled.

    scaling: "standard" (mean, standard deviation) or "robust" (median, interquartile range / 1.349).
    clip: largest absolute scaled value, so that 1e300 does not dominate. Worth a search: on the ULB data, 5 gave
        several times the average precision of 50.
    max_categories: number of most frequent levels per categorical column that get an indicator. Every level, known or
        not, also gets its surprise: -log of its share.
    head_only: shell patterns of raw features for the supervised head only. For the other detectors, rare combinations
        of many ordinary features hide what is unusual about a few.
    """

    scaling: Literal["standard", "robust"] = "standard"
    clip: Annotated[Number, Field(gt=0)] = 10.0
    max_categories: Annotated[Whole, Field(ge=0)] = 16
    head_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeatureMap(Stored):
    """Fitted features as arrays: `n_raw` raw features become `n_outputs` detector inputs.

    names, columns: tuple of str (n_raw,), each raw feature's name and schema column.
    categories: known levels of each categorical column, in code order.
    kinds: int64 (n_raw,) kernels.LINEAR/LOG/SIGNED_LOG/LOOKUP; center, scale: float64 (n_raw,) after the transform.
    typical: float64 (n_raw,) the usual raw value (median, or most frequent level), for explanations.
    missing_output: int64 (n_raw,) output that flags a missing value, or -1; starts: int64 (n_raw + 1,) first output of
    each (head-only features have none). tables: float32 (n_levels_total, widest) outputs of each level;
    offsets, levels: int64 (n_raw,) position and number of a column's levels; shares: float64 (n_levels_total,), of the
    training rows.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    kinds: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    typical: np.ndarray
    missing_output: np.ndarray
    starts: np.ndarray
    tables: np.ndarray
    offsets: np.ndarray
    levels: np.ndarray
    shares: np.ndarray
    clip: float

    @classmethod
    def from_arrays(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `arrays`; JSON lists become tuples."""
        texts = {name: tuple(values[name]) for name in ("names", "columns")}
        categories = {name: tuple(levels) for name, levels in values["categories"].items()}
        return super().from_arrays({**values, **texts, "categories": categories})

    def is_sound(self) -> bool:
        """Whether the arrays are consistent. Compiled loops do not check bounds."""
        n_raw = len(self.names)
        arrays = (self.columns, self.kinds, self.center, self.scale, self.typical, self.missing_output, self.offsets)
        is_lookup = self.kinds == kernels.LOOKUP
        ends = self.offsets + self.levels + 1
        return (
            all(len(values) == n_raw for values in (*arrays, self.levels))
            and len(self.starts) == n_raw + 1
            and len(self.shares) == len(self.tables)
            and self.starts[0] == 0
            and bool((np.diff(self.starts) >= 0).all())
            and self.n_outputs > 0
            and bool((self.missing_output < self.n_outputs).all())
            and bool((~is_lookup | ((self.offsets >= 0) & (self.levels >= 0) & (ends <= len(self.tables)))).all())
            and bool((~is_lookup | (np.diff(self.starts) <= self.tables.shape[1])).all())
        )

    @property
    def n_outputs(self) -> int:
        return int(self.starts[-1])

    @property
    def kernel_arguments(self) -> kernels.FeatureArguments:
        """Arguments of kernels.transform_rows."""
        return kernels.FeatureArguments(
            self.kinds, self.center, self.scale, self.clip, self.missing_output,
            self.tables, self.offsets, self.levels, self.starts,
        )  # fmt: skip

    def transform(self, raw: np.ndarray) -> np.ndarray:
        """Turn raw features, float64 (n_rows, n_raw), into detector inputs, float32 (n_rows, n_outputs)."""
        out = np.empty((len(raw), self.n_outputs), dtype=np.float32)
        kernels.transform_rows(np.ascontiguousarray(raw, dtype=np.float64), self.kernel_arguments, out)
        return out


def raw_names(schema: Schema) -> tuple[list[str], list[str]]:
    """Names of the raw features, and the schema column of each."""
    names = [column.name for column in schema.features]
    columns = list(names)
    if schema.timestamp:
        for part in schema.timestamp.calendar:
            suffixes = (" sin", " cos") if CALENDAR_WIDTH[part] == 2 else ("",)
            names += [f"{schema.timestamp.name} {part}{suffix}" for suffix in suffixes]
            columns += [schema.timestamp.name] * len(suffixes)
    return names + feature_names(schema), columns + feature_columns(schema)


def raw_features(
    rows: pd.DataFrame | Mapping[str, np.ndarray],
    schema: Schema,
    categories: dict[str, tuple[str, ...]],
    history: np.ndarray,
) -> np.ndarray:
    """Encode canonical rows as the raw matrix, float64 (n_rows, n_raw).

    rows: from fraud.schema.validation.validate, or their columns as arrays (texts as objects, None if missing).
    categories: levels of each categorical column, from `learn_categories` (unknown levels get the next code).
    history: float64 (n_rows, n_history_features) from fraud.history.replay.
    """
    parts = []
    for column in schema.features:
        values = rows[column.name]
        if column.kind == "categorical":
            levels = pd.Index(categories[column.name], dtype=object)
            codes = levels.get_indexer(pd.Index(np.asarray(values, dtype=object), dtype=object)).astype(np.float64)
            codes[codes < 0] = len(levels)
            parts.append(codes[:, None])
        else:
            parts.append(np.asarray(values, dtype=np.float64)[:, None])
    if schema.timestamp and schema.timestamp.calendar:
        times = zone_of(schema).local_us(np.asarray(rows[schema.timestamp.name], dtype="datetime64[us]"))
        days = np.where(np.isnat(times), np.nan, microseconds_since_epoch(times) / MICROSECONDS_A_DAY)
        parts.append(calendar(days, schema.timestamp.calendar))
    return np.concatenate([*parts, history], axis=1)


def calendar(days: np.ndarray, parts: tuple[str, ...]) -> np.ndarray:
    """Calendar features of days since 1970: float64 (n_rows, width). Cyclic parts are sine and cosine.

    days: in the schema's time zone (fraud.days.Zone.local_us), float64 (n_rows,). Night is 22:00 to 06:00.
    """
    hour = (days % 1.0) * 24.0
    weekday = (np.floor(days) + 3.0) % 7.0  # 1970-01-01 was a Thursday; Monday is 0
    values = {
        "hour": _cycle(hour / 24.0),
        "weekday": _cycle(weekday / 7.0),
        "weekend": [(weekday >= 5).astype(np.float64)],
        "night": [((hour >= 22.0) | (hour < 6.0)).astype(np.float64)],
    }
    return np.stack([value for part in parts for value in values[part]], axis=1)


def learn_categories(rows: pd.DataFrame, schema: Schema) -> dict[str, tuple[str, ...]]:
    """Levels of each categorical column: those in `rows`, most frequent first, then the schema's others."""
    levels = {}
    for column in schema.features:
        if column.kind == "categorical":
            counts = rows[column.name].value_counts()
            seen = [str(level) for level in counts.index]
            levels[column.name] = tuple(seen) + tuple(level for level in column.categories if level not in set(seen))
    return levels


def fit(raw: np.ndarray, schema: Schema, categories: dict[str, tuple[str, ...]], config: FeatureConfig) -> FeatureMap:
    """Fit centres, scales, typical values and category tables on raw rows, float64 (n_rows, n_raw).

    Raises DataError if there is no row.
    """
    names, columns = raw_names(schema)
    is_head_only = _matches(names, config.head_only)
    if len(raw) == 0:
        raise DataError("no row to fit the features on: give more data or a larger split.train")
    n = len(names)
    kinds = np.zeros(n, dtype=np.int64)
    center, scale, typical = np.zeros(n), np.ones(n), np.zeros(n)
    missing = np.full(n, -1, dtype=np.int64)
    starts = np.zeros(n + 1, dtype=np.int64)
    offsets, levels = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    width = 1 + config.max_categories
    tables: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    by_name = {column.name: column for column in schema.features}
    of_history = dict(zip(feature_names(schema), feature_transforms(schema), strict=True))
    for j, name in enumerate(names):
        column = by_name.get(name)
        outputs = 1
        if column and column.kind == "categorical":
            kinds[j] = kernels.LOOKUP
            levels[j] = len(categories[name])
            offsets[j] = sum(len(table) for table in tables)
            counts = np.bincount(raw[:, j].astype(np.int64), minlength=int(levels[j]) + 1).astype(np.float64)
            tables.append(_category_table(counts, width))
            shares.append(counts / counts.sum())
            typical[j] = float(counts.argmax())
            outputs = 1 + min(config.max_categories, int(levels[j]))
        else:
            kinds[j] = _KINDS[column.transform if column else of_history.get(name, "none")]
            center[j], scale[j], typical[j] = _scaling(raw[:, j], int(kinds[j]), config.scaling)
            if column and column.nullable:
                missing[j] = starts[j] + 1
                outputs = 2
        if is_head_only[j]:
            missing[j], outputs = -1, 0
        starts[j + 1] = starts[j] + outputs
    return FeatureMap(
        names=tuple(names), columns=tuple(columns), categories=categories, kinds=kinds, center=center, scale=scale,
        typical=typical, missing_output=missing, starts=starts, offsets=offsets, levels=levels, clip=config.clip,
        tables=np.concatenate(tables) if tables else np.zeros((1, width), dtype=np.float32),
        shares=np.concatenate(shares) if shares else np.zeros(1),
    )  # fmt: skip


def _matches(names: list[str], patterns: tuple[str, ...]) -> list[bool]:
    """Mask of names that match a pattern. Raises ConfigError if a pattern matches none, or if all names match."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"features.head_only={pattern!r} matches no raw feature{closest(pattern, names) or ';'} "
                f"they are {', '.join(names)}"
            )
    is_match = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    if all(is_match):
        raise ConfigError("features.head_only matches every raw feature: leave some to the detectors")
    return is_match


def _cycle(turn: np.ndarray) -> list[np.ndarray]:
    return [np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]


def _scaling(values: np.ndarray, kind: int, scaling: str) -> tuple[float, float, float]:
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return 0.0, 1.0, 0.0
    typical = float(np.median(known))
    if kind == kernels.LOG:
        known = np.log1p(np.maximum(known, 0.0))
    elif kind == kernels.SIGNED_LOG:
        known = np.sign(known) * np.log1p(np.abs(known))
    with np.errstate(over="ignore", invalid="ignore"):
        center, scale = float(known.mean()), float(known.std())
    quartiles = np.percentile(known, [25, 50, 75])
    if scaling == "robust" or not np.isfinite(scale) or not np.isfinite(center):
        center, scale = float(quartiles[1]), float(quartiles[2] - quartiles[0]) / 1.349
        # If most values are equal, the interquartile range is 0: use the standard deviation.
        scale = scale or float(known.std())
    # A constant column scales by 1: its output is the difference from the constant.
    return center, scale if np.isfinite(scale) and scale > 1e-12 * max(1.0, abs(center)) else 1.0, typical


def _category_table(counts: np.ndarray, width: int) -> np.ndarray:
    """Outputs of each level (last row: unknown): scaled surprise, then an indicator per frequent level."""
    n_levels = len(counts) - 1
    surprise = -np.log((counts + 0.5) / (counts.sum() + 0.5 * (n_levels + 1)))
    share = counts / max(counts.sum(), 1.0)
    mean = float((share * surprise).sum())
    spread = float(np.sqrt((share * (surprise - mean) ** 2).sum()))
    table = np.zeros((n_levels + 1, width), dtype=np.float32)
    table[:, 0] = (surprise - mean) / (spread if spread > 1e-9 else 1.0)
    shown = min(width - 1, n_levels)
    table[np.arange(shown), 1 + np.arange(shown)] = 1.0
    return table
