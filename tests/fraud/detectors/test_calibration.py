"""Calibration: a score is a rarity among normal rows, monotone, never saturated, joined as validation favours."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fraud.detectors import calibration
from fraud.errors import ConfigError, DataError


def test_evidence_is_the_rarity_among_normal_rows(rng: np.random.Generator) -> None:
    tail = calibration.fit_tail(rng.normal(size=50_000))
    fresh = np.sort(rng.normal(size=50_000))
    for share in (0.5, 0.1, 0.01, 0.001):
        cut = fresh[int(len(fresh) * (1 - share))]
        assert tail(np.array([cut]))[0] == pytest.approx(-np.log10(share), abs=0.12)


def test_evidence_rises_everywhere_and_goes_on_beyond_the_data(rng: np.random.Generator) -> None:
    tail = calibration.fit_tail(rng.exponential(size=2000))
    grid = np.linspace(-5, 100, 5000)
    evidence = tail(grid)
    assert (np.diff(evidence) >= 0).all()
    beyond = tail(np.array([20.0, 40.0, 80.0]))
    assert (np.diff(calibration.to_score(beyond)) > 0).all()
    # An exponential tail extends as itself: survival exp(-20) is 8.7 powers of ten.
    assert beyond[0] == pytest.approx(20 / np.log(10), rel=0.35)


@pytest.mark.parametrize("raw", [np.ones(500), np.array([3.0]), np.r_[np.zeros(990), np.ones(10)]])
def test_ties_and_tiny_samples_are_finite(raw: np.ndarray) -> None:
    tail = calibration.fit_tail(raw)
    scores = calibration.to_score(tail(np.array([-1e9, 0.0, 1.0, 3.0, 1e9])))
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores) >= 0).all()


def test_score_means_what_the_documentation_says() -> None:
    assert calibration.to_score(np.array([0.0, 1, 2, 3, 4])).round(2).tolist() == [0.0, 0.25, 0.4, 0.5, 0.57]


def pair(forest: np.ndarray, autoencoder: np.ndarray) -> dict[str, np.ndarray]:
    return {"forest": forest, "autoencoder": autoencoder}


def test_weight_follows_the_better_detector(rng: np.random.Generator) -> None:
    labels = (rng.random(5000) < 0.05).astype(np.int8)
    good = np.exp(rng.normal(size=5000) + 3 * labels)
    noise = rng.random(5000)
    assert calibration.fit(pair(noise, good), labels).forest_weight <= 0.1
    assert calibration.fit(pair(good / (1 + good), noise), labels).forest_weight >= 0.9


def test_joining_two_partial_detectors_beats_either(rng: np.random.Generator) -> None:
    labels = (rng.random(20_000) < 0.02).astype(np.int8)
    kind = rng.random(20_000) < 0.5
    forest = rng.normal(size=20_000) + 3.5 * labels * kind
    error = np.exp(rng.normal(size=20_000) + 3.5 * labels * ~kind)
    f, a, joint = calibration.fit(pair(forest, error), labels).evidence(pair(forest, error)).values()
    assert average_precision_score(labels, joint) > 1.3 * max(
        average_precision_score(labels, f), average_precision_score(labels, a)
    )


def test_without_labels_the_weight_is_one_half(rng: np.random.Generator) -> None:
    raw = rng.random(500)
    assert calibration.fit(pair(raw, raw + 1), None).forest_weight == 0.5
    assert calibration.fit(pair(raw, raw + 1), np.full(500, -1, dtype=np.int8)).forest_weight == 0.5
    assert calibration.fit(pair(raw, raw + 1), np.zeros(500, dtype=np.int8)).forest_weight == 0.5


def test_a_configured_weight_is_used(rng: np.random.Generator) -> None:
    labels = (rng.random(2000) < 0.05).astype(np.int8)
    forest, error = rng.normal(size=2000) + 3 * labels, rng.random(2000)
    calibrated = calibration.fit(pair(forest, error), labels, 0.3)
    assert calibrated.forest_weight == 0.3
    f, a, joint = calibrated.evidence(pair(forest, error)).values()
    # Calibrated anew for that weight: one normal row in a hundred is beyond evidence 2.
    assert (joint[labels == 0] >= 2.0).mean() == pytest.approx(0.01, abs=0.003)
    assert (np.diff(joint[np.argsort(0.3 * f + 0.7 * a)]) >= 0).all()
    assert calibration.fit(pair(forest, error), None, 1).forest_weight == 1.0
    for wrong in (-0.1, 1.01, float("nan")):
        with pytest.raises(ConfigError, match="forest_weight"):
            calibration.fit(pair(forest, error), labels, wrong)


def test_only_fraud_cannot_be_calibrated() -> None:
    with pytest.raises(DataError, match="no normal row"):
        calibration.fit(pair(np.ones(3), np.ones(3)), np.ones(3, dtype=np.int8))
