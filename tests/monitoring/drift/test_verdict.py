"""The statistics of drift: what moves is found and named, what does not move never alarms, at any size."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fraud.data.simulation import transactions
from fraud.errors import ConfigError
from monitoring.drift.verdict import (
    ColumnVerdict,
    DriftLimits,
    Finding,
    corrected,
    judge,
    population_stability_index,
    worst,
)

FIVE = {
    "amount": "numeric",
    "hour": "numeric",
    "distance": "numeric",
    "device_score": "numeric",
    "country_mismatch": "boolean",
}


def one(old: object, new: object, kind: str):
    """The verdict on one column."""
    return judge(pd.DataFrame({"x": old}), pd.DataFrame({"x": new}), {"x": kind})[0]


def levels(old: pd.DataFrame, new: pd.DataFrame) -> dict[str, str]:
    return {column.column: column.level for column in judge(old, new, FIVE)}


@pytest.mark.parametrize("rows", [300, 2_000, 20_000])
def test_no_alarm_between_two_seeds(rows: int):
    for seed in range(8):
        result = levels(transactions(rows, seed=seed), transactions(rows, seed=100 + seed))
        assert set(result.values()) == {"ok"}, (seed, result)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_injected_drift_is_found_in_the_columns_that_moved(seed: int):
    result = levels(transactions(5_000, seed=seed), transactions(5_000, seed=50 + seed, drift=2.0))
    assert result["device_score"] == result["amount"] == result["hour"] == "drift"
    assert result["distance"] == result["country_mismatch"] == "ok"


def test_a_tiny_shift_of_a_huge_sample_is_significant_and_still_ok():
    rng = np.random.default_rng(0)
    result = one(rng.normal(size=200_000), rng.normal(0.03, 1, 200_000), "numeric")
    assert result.findings[0].p_adjusted < 1e-6
    assert result.level == "ok"


def test_a_large_effect_in_a_handful_of_rows_is_not_yet_drift():
    rng = np.random.default_rng(0)
    result = one(rng.normal(size=12), rng.normal(0.7, 1, 12), "numeric")
    assert result.findings[0].effects["psi"] > 0.25
    assert result.level == "ok"


def test_half_a_standard_deviation_is_drift_by_both_measures():
    rng = np.random.default_rng(0)
    result = one(rng.normal(size=50_000), rng.normal(0.55, 1, 50_000), "numeric")
    effects = result.findings[0].effects
    assert result.drifted and effects["psi"] > 0.25 and effects["ks"] > 0.2
    assert "median" in result.change


def test_missing_values_are_a_change_of_their_own():
    rng = np.random.default_rng(0)
    values = rng.normal(size=5_000)
    gaps = np.where(rng.random(5_000) < 0.2, np.nan, rng.normal(size=5_000))
    result = one(values, gaps, "numeric")
    assert result.level == "drift"
    assert result.findings[0].level == "ok", "the values that are there did not move"
    assert result.decisive.what == "missing" and "missing 0.00% → " in result.change


def test_new_categories_are_named_and_expected_ones_are_forgiven():
    rng = np.random.default_rng(0)
    tail = [f"m{i}" for i in range(3_000)]
    result = one(rng.choice(tail, 4_000), rng.choice(tail, 4_000), "categorical")
    unseen = result.findings[2]
    assert unseen.effects["share"] > 0.1, "a long tail always brings values the reference lacked"
    assert unseen.level == "ok"
    fresh = one(
        rng.choice(["a", "b"], 4_000), rng.choice(["a", "b", "newcomer"], 4_000, p=[0.45, 0.45, 0.1]), "categorical"
    )
    assert fresh.findings[2].level == "drift" and "newcomer" in fresh.change


def test_a_rare_flag_that_triples_is_a_warning_though_its_psi_is_small():
    rng = np.random.default_rng(0)
    result = one((rng.random(10_000) < 0.02) * 1.0, (rng.random(10_000) < 0.06) * 1.0, "boolean")
    assert result.findings[0].effects["psi"] < 0.1
    assert result.level == "warning" and result.change.startswith("yes 1.9% → ")


@pytest.mark.parametrize(
    ("old", "new", "kind", "level"),
    [
        ([1.0] * 500, [1.0] * 500, "numeric", "ok"),
        ([1.0] * 500, [0.0] * 500, "numeric", "drift"),
        ([1.0] * 500, [2.0] * 500, "numeric", "drift"),
        ([np.nan] * 500, [np.nan] * 500, "numeric", "ok"),
        ([np.nan] * 500, [1.0] * 500, "numeric", "drift"),
        (["a"] * 500, ["a"] * 500, "categorical", "ok"),
        (["a"] * 500, ["b"] * 500, "categorical", "drift"),
        ([None] * 500, ["b"] * 500, "categorical", "drift"),
        ([0.0] * 500, [1.0] * 500, "boolean", "drift"),
        ([0.0] * 499 + [1e15], [0.0] * 499 + [-1e15], "numeric", "ok"),
    ],
)
def test_constant_and_empty_columns(old: list, new: list, kind: str, level: str):
    result = one(old, new, kind)
    assert result.level == level
    assert result.to_dict()["drifted"] is (level == "drift")


def adjusted_together(p_values: np.ndarray) -> np.ndarray:
    """The corrected p-values of columns with one finding each."""
    columns = [
        ColumnVerdict(str(i), "numeric", (Finding("distribution", "ks", {}, {}, float(p), "drift", "moved"),))
        for i, p in enumerate(p_values)
    ]
    return np.array([column.findings[0].p_adjusted for column in corrected(columns, DriftLimits())])


def test_p_values_are_corrected_for_the_number_of_columns():
    # The example of Benjamini & Hochberg (1995), section 3.2, first four of fifteen.
    p = np.array(
        [
            0.0001,
            0.0004,
            0.0019,
            0.0095,
            0.0201,
            0.0278,
            0.0298,
            0.0344,
            0.0459,
            0.3240,
            0.4262,
            0.5719,
            0.6528,
            0.7590,
            1.0,
        ]
    )
    adjusted = adjusted_together(p)
    assert (adjusted < 0.05).sum() == 4
    assert adjusted[:4] == pytest.approx([0.0015, 0.0030, 0.0095, 0.035625])
    assert adjusted == pytest.approx(adjusted_together(p[::-1])[::-1])
    assert (adjusted >= p).all() and (np.diff(adjusted) >= 0).all()
    assert adjusted_together(np.array([])).size == 0


def test_population_stability_index():
    assert population_stability_index(np.array([10, 20]), np.array([10, 20])) == 0
    assert population_stability_index(np.array([500, 500]), np.array([300, 700])) == pytest.approx(0.169, abs=0.002)
    assert np.isfinite(population_stability_index(np.array([0, 100]), np.array([100, 0])))


def test_worst_of_levels():
    assert worst([]) == "ok"
    assert worst(["ok", "warning", "ok"]) == "warning"


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"psi": (0.3, 0.1)}, {"share": (0, 0.1)}, {"bins": 1}])
def test_limits_are_checked(wrong: dict):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DriftLimits(**wrong)
