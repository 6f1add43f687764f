"""Features: transforms, scaling, missing values and categories, including those never seen in training."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fraud.detectors import features
from fraud.detectors.features import FeatureConfig, FeatureMap
from fraud.errors import ConfigError, DataError
from fraud.schema import Column, Schema
from fraud.schema.validation import validate

SCHEMA = Schema(
    name="mixed",
    columns=(
        Column(name="when", kind="timestamp", calendar=("hour", "weekday", "weekend", "night")),
        Column(name="amount", kind="numeric", minimum=0, transform="log"),
        Column(name="balance", kind="numeric", transform="signed_log", nullable=True),
        Column(name="constant", kind="numeric"),
        Column(name="shop", kind="categorical", nullable=True),
        Column(name="abroad", kind="boolean"),
    ),
)


def frame(rng: np.random.Generator, n: int = 500) -> pd.DataFrame:
    return validate(
        pd.DataFrame(
            {
                "when": pd.Timestamp("2026-01-03 02:00") + pd.to_timedelta(np.arange(n), unit="h"),
                "amount": rng.gamma(2, 50, n),
                "balance": np.where(np.arange(n) % 10 == 0, np.nan, rng.normal(0, 1000, n)),
                "constant": np.full(n, 7.0),
                "shop": rng.choice(["a", "b", "c"], n, p=[0.7, 0.25, 0.05]),
                "abroad": rng.random(n) < 0.2,
            }
        ),
        SCHEMA,
    ).rows


def fitted(rows: pd.DataFrame, config: FeatureConfig | None = None) -> tuple[FeatureMap, np.ndarray]:
    categories = features.learn_categories(rows, SCHEMA)
    raw = features.raw_features(rows, SCHEMA, categories, np.empty((len(rows), 0)))
    return features.fit(raw, SCHEMA, categories, config or FeatureConfig()), raw


def test_training_rows_come_out_standardised(rng: np.random.Generator) -> None:
    rows = frame(rng)
    mapping, raw = fitted(rows)
    X = mapping.transform(raw)
    assert X.dtype == np.float32
    assert X.shape == (500, mapping.n_outputs)
    amount = X[:, mapping.starts[mapping.names.index("amount")]]
    expected = np.log1p(rows["amount"])
    np.testing.assert_allclose(amount, (expected - expected.mean()) / expected.std(ddof=0), atol=1e-5)
    assert X[:, mapping.starts[mapping.names.index("constant")]].tolist() == [0.0] * 500


def test_robust_scaling_ignores_outliers(rng: np.random.Generator) -> None:
    rows = frame(rng)
    rows.loc[:4, "amount"] = 1e12
    standard, raw = fitted(rows)
    robust, _ = fitted(rows, FeatureConfig(scaling="robust"))
    j = standard.names.index("amount")
    assert robust.scale[j] < standard.scale[j]
    assert robust.center[j] == pytest.approx(float(np.median(np.log1p(raw[:, j]))))


def test_missing_value_is_the_mean_and_is_marked(rng: np.random.Generator) -> None:
    mapping, raw = fitted(frame(rng))
    X = mapping.transform(raw[:2])  # row 0 lacks its balance
    at = mapping.starts[mapping.names.index("balance")]
    assert X[0, at : at + 2].tolist() == [0.0, 1.0]
    assert X[1, at + 1] == 0.0


def test_unseen_category_is_the_most_surprising_and_has_no_indicator(rng: np.random.Generator) -> None:
    rows = frame(rng)
    mapping, _ = fitted(rows)
    new = rows.head(4).assign(shop=["a", "c", "never seen", None])
    raw = features.raw_features(new, SCHEMA, mapping.categories, np.empty((4, 0)))
    at = mapping.starts[mapping.names.index("shop")]
    surprise, *indicators = mapping.transform(raw)[:, at : at + 4].T
    assert surprise[0] < surprise[1] < surprise[2] == surprise[3]
    assert np.array(indicators).T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_only_the_most_frequent_categories_get_an_indicator(rng: np.random.Generator) -> None:
    rows = frame(rng)
    mapping, _ = fitted(rows, FeatureConfig(max_categories=1))
    assert mapping.starts[mapping.names.index("shop") + 1] - mapping.starts[mapping.names.index("shop")] == 2
    assert mapping.categories["shop"][0] == "a"


def test_extreme_values_are_clipped_not_overflown(rng: np.random.Generator) -> None:
    mapping, raw = fitted(frame(rng), FeatureConfig(clip=8))
    raw = raw[:2].copy()
    raw[0, mapping.names.index("amount")] = 1e300
    raw[1, mapping.names.index("constant")] = -1e300
    X = mapping.transform(raw)
    assert np.isfinite(X).all()
    assert np.abs(X[1, mapping.starts[mapping.names.index("constant")]]) == 8
    assert X[0, mapping.starts[mapping.names.index("amount")]] == 8


def test_huge_training_values_still_give_a_scale() -> None:
    schema = Schema(name="huge", columns=(Column(name="x", kind="numeric"),))
    raw = np.array([[1e300], [2e300], [-1e300], [0.0]])
    mapping = features.fit(raw, schema, {}, FeatureConfig())
    assert np.isfinite(mapping.transform(raw)).all()


def test_calendar_is_cyclic() -> None:
    saturday_2am = np.array([20456 + 2 / 24])  # 2026-01-03
    hour_sin, hour_cos, day_sin, day_cos, weekend, night = features.calendar(
        saturday_2am, ("hour", "weekday", "weekend", "night")
    )[0]
    assert (weekend, night) == (1.0, 1.0)
    assert math.atan2(hour_sin, hour_cos) == pytest.approx(2 * math.pi * 2 / 24)
    assert math.atan2(day_sin, day_cos) % (2 * math.pi) == pytest.approx(2 * math.pi * 5 / 7)


def test_no_row_is_refused() -> None:
    schema = Schema(name="x", columns=(Column(name="x", kind="numeric"),))
    with pytest.raises(DataError, match="no row"):
        features.fit(np.empty((0, 1)), schema, {}, FeatureConfig())


@pytest.mark.parametrize(("name", "value"), [("scaling", "minmax"), ("clip", 0), ("max_categories", -1)])
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"features.{name}={value!r}"):
        FeatureConfig(**{name: value})


@pytest.mark.parametrize(
    ("zone", "time", "hour", "weekend", "night"),
    [
        ("UTC", "2026-03-28T23:30", 23.5, 1.0, 1.0),
        ("Europe/Berlin", "2026-03-28T23:30", 0.5, 1.0, 1.0),
        ("Europe/Berlin", "2026-03-29T01:00", 3.0, 1.0, 1.0),  # 02:00 is left out
        ("Europe/Berlin", "2026-10-25T00:30", 2.5, 1.0, 1.0),  # 02:30 comes twice
        ("Europe/Berlin", "2026-10-25T01:30", 2.5, 1.0, 1.0),
        ("Asia/Tokyo", "2026-03-27T15:30", 0.5, 1.0, 1.0),
        ("America/New_York", "2026-03-28T03:30", 23.5, 0.0, 1.0),
        ("America/New_York", "2026-03-29T15:30", 11.5, 1.0, 0.0),
    ],
)
def test_calendar_features_follow_the_clocks_of_the_zone(
    zone: str, time: str, hour: float, weekend: float, night: float
) -> None:
    when = Column(name="when", kind="timestamp", calendar=("hour", "weekend", "night"))
    schema = Schema(name="local", columns=(when,), day_zone=zone)
    rows = validate(pd.DataFrame({"when": [time]}), schema).rows

    sine, cosine, *rest = features.raw_features(rows, schema, {}, np.empty((1, 0)))[0]

    assert math.atan2(sine, cosine) % (2 * math.pi) == pytest.approx(2 * math.pi * hour / 24)
    assert rest == [weekend, night]
