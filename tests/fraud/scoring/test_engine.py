"""The engine answers as scikit-learn and torch do, row by row and in batches, and names the planted reason."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import IsolationForest

from fraud.detectors import autoencoder, autoencoder_score, calibration, features, forest
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.calibration import to_score
from fraud.detectors.features import FeatureConfig
from fraud.errors import DataError
from fraud.history.replay import replay
from fraud.schema import Column, Schema
from fraud.schema.validation import validate
from fraud.scoring.detector import Detector
from fraud.scoring.engine import Engine
from fraud.thresholds.selection import Threshold
from tests.fraud.conftest import Fitted

MIXED = Schema(
    name="mixed",
    columns=(
        Column(name="when", kind="timestamp", calendar=("hour", "night")),
        Column(name="amount", kind="numeric", minimum=0, transform="log"),
        Column(name="balance", kind="numeric", transform="signed_log", nullable=True),
        Column(name="constant", kind="numeric"),
        Column(name="shop", kind="categorical", nullable=True),
        Column(name="abroad", kind="boolean", nullable=True),
    ),
)


def mixed_frame(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Rows with ties, missing values, unseen categories, zeros and extremes."""
    frame = pd.DataFrame(
        {
            "when": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 10**7, n), unit="s"),
            "amount": np.round(rng.gamma(1.0, 80.0, n)),
            "balance": np.where(rng.random(n) < 0.1, np.nan, rng.normal(0, 1e3, n)),
            "constant": np.full(n, 3.0),
            "shop": rng.choice(["a", "b", "c", "d"], n, p=[0.6, 0.3, 0.09, 0.01]),
            "abroad": rng.choice([True, False, None], n, p=[0.1, 0.85, 0.05]),
        }
    )
    odd = rng.integers(0, n, n // 20)
    frame.loc[odd, "amount"] = rng.choice([0.0, 1e-9, 1e9, 1e14], len(odd))
    frame.loc[rng.integers(0, n, n // 50), "balance"] = rng.choice([-1e14, 1e14, 0.0])
    frame.loc[rng.integers(0, n, n // 50), "shop"] = rng.choice(["never seen", None])
    return validate(frame, MIXED).rows


@pytest.fixture(scope="module")
def reference() -> tuple[Detector, IsolationForest, torch.nn.Module, features.FeatureMap]:
    """A detector on mixed columns together with the scikit-learn and torch models that it was made from."""
    rows = mixed_frame(np.random.default_rng(5), 3000)
    categories = features.learn_categories(rows, MIXED)
    raw = features.raw_features(rows, MIXED, categories, np.empty((len(rows), 0)))
    mapping = features.fit(raw, MIXED, categories, FeatureConfig())
    X = mapping.transform(raw)
    trees = IsolationForest(n_estimators=60, max_samples=512, random_state=0).fit(X)
    config = AutoencoderConfig(hidden=(8, 4), epochs=3, activation="elu")
    training = autoencoder.Training(X.shape[1], config)
    while not training.is_finished:
        training.run_epoch(torch.from_numpy(X), torch.from_numpy(X))
    training.plain_module.load_state_dict(training.best_weights)
    grown, exported = forest.flatten(trees), autoencoder_score.export(training.best_weights, X, config)
    calibrated = calibration.fit({part.name: part.score(X) for part in (grown, exported)}, None)
    template = _threshold(0.4)
    detector = Detector(MIXED, mapping, (), (grown, exported), calibrated, template)
    return detector, trees, training.plain_module.eval(), mapping


def _threshold(value: float) -> Threshold:
    return Threshold(value, "alert_budget", {}, {}, {}, (value, value))


@pytest.mark.slow
def test_a_hundred_thousand_rows_equal_scikit_learn_and_torch(
    reference: tuple[Detector, IsolationForest, torch.nn.Module, features.FeatureMap],
) -> None:
    """Same features in, the library models' answer out: forest within 1e-12, autoencoder within 1e-4 relative."""
    detector, trees, module, mapping = reference
    engine = Engine(detector)
    rows = mixed_frame(np.random.default_rng(6), 100_000)
    raw = engine.raw(rows)
    X = mapping.transform(raw)
    np.testing.assert_allclose(detector.forest.score(X), -trees.score_samples(X), rtol=0, atol=1e-12)
    with torch.no_grad():
        x = torch.from_numpy(X)
        latent = module[:3](x)
        deviation = torch.cat([module(x) - x, latent], dim=1).double().numpy()
    a = detector.autoencoder
    expected = np.log((((deviation - a.center) @ a.factors[0].astype(np.float64)) ** 2).mean(axis=1))
    np.testing.assert_allclose(a.score(X), expected, rtol=0, atol=1e-4)
    raw_scores = {"forest": -trees.score_samples(X), "autoencoder": expected}
    joint = detector.calibration.evidence(raw_scores)["joint"]
    scores = engine.score_frame(rows)
    np.testing.assert_allclose(scores["score"], to_score(joint), rtol=0, atol=1e-5)
    expected_decisions = to_score(joint) >= engine.threshold.value
    far = np.abs(to_score(joint) - engine.threshold.value) > 1e-5
    assert (scores["is_fraud"].to_numpy() == expected_decisions)[far].all()


def test_one_row_at_a_time_equals_the_batch(
    reference: tuple[Detector, IsolationForest, torch.nn.Module, features.FeatureMap],
) -> None:
    engine = Engine(reference[0])
    rows = mixed_frame(np.random.default_rng(7), 1500)
    batch = engine.score_frame(rows)
    records = rows.astype(object).where(rows.notna(), None).to_dict(orient="records")
    singly = [engine.score_row(record) for record in records]
    np.testing.assert_array_equal([s.score for s in singly], batch["score"])
    for name in ("forest_score", "autoencoder_score"):
        np.testing.assert_array_equal([s.scores[name] for s in singly], batch[name])


def test_the_seeds_request_is_suspicious_and_says_why(five_columns: Fitted) -> None:
    engine = five_columns.engine
    request = {"amount": 220, "hour": 3, "distance": 12, "device_score": 0.92, "country_mismatch": 1}
    answer, reasons = engine.score_and_explain(request)
    quiet = engine.score_row({"amount": 25, "hour": 14, "distance": 3, "device_score": 0.1, "country_mismatch": 0})
    assert answer.is_fraud
    assert not quiet.is_fraud
    assert answer.score > quiet.score
    assert reasons[0].column in ("device_score", "country_mismatch")
    assert reasons[0].contribution >= reasons[-1].contribution > 0
    assert answer == engine.score_row(request)


def test_reasons_name_the_planted_column(five_columns: Fitted) -> None:
    engine = five_columns.engine
    normal = five_columns.rows[five_columns.rows["is_fraud"] == 0].head(400)
    planted = normal.assign(device_score=1.0)
    suspicious = planted[engine.score_frame(planted)["is_fraud"].to_numpy()].head(100)
    assert len(suspicious) >= 50
    reasons = engine.reasons(suspicious, top=2)
    assert np.mean([of_row[0].column == "device_score" for of_row in reasons]) >= 0.9
    record = suspicious.iloc[0].to_dict()
    assert engine.score_and_explain(record, top=2)[1][0].column == reasons[0][0].column


def test_threshold_can_be_swapped_without_refitting(five_columns: Fitted) -> None:
    strict = Engine(five_columns.detector, threshold=replace(five_columns.detector.threshold, value=0.0))
    assert strict.score_frame(five_columns.rows.head(20))["is_fraud"].all()


def test_scores_keep_the_index_and_bounds(five_columns: Fitted) -> None:
    rows = five_columns.rows.iloc[50:80]
    scores = five_columns.engine.score_frame(rows)
    assert scores.index.equals(rows.index)
    values = scores[["score", "forest_score", "autoencoder_score"]].to_numpy()
    assert ((values >= 0) & (values <= 1)).all()
    assert scores["is_fraud"].dtype == bool


def test_history_of_single_requests_equals_the_frozen_batch(card_detector: Fitted) -> None:
    engine = card_detector.engine
    last = card_detector.rows["TX_DATETIME"].max()
    times = last + pd.to_timedelta(np.arange(1, 201), unit="h")
    rows = card_detector.rows.tail(200).assign(TX_DATETIME=times, TRANSACTION_ID=[f"new {i}" for i in range(200)])
    batch = engine.score_frame(rows, learn_history=False)
    singly = [engine.score_row(record).score for record in rows.to_dict("records")]
    np.testing.assert_array_equal(singly, batch["score"])


def test_rows_that_the_history_knows_are_not_counted_twice(card_detector: Fitted) -> None:
    """Scored again, the training file gives what a replay from nothing gives; newer rows go on from the state."""
    engine, rows = card_detector.engine, card_detector.rows
    known, _ = replay(rows, engine.schema)
    np.testing.assert_array_equal(engine.raw(rows)[:, -known.shape[1] :], known)
    assert "already holds the rows up to" in (engine.history_warning(rows) or "")
    newer = rows.tail(50).assign(TX_DATETIME=rows["TX_DATETIME"].max() + pd.Timedelta(days=1))
    continued, _ = replay(newer, engine.schema, card_detector.detector.history)
    np.testing.assert_array_equal(engine.raw(newer)[:, -known.shape[1] :], continued)
    assert engine.history_warning(newer) is None


def test_history_makes_an_unusual_amount_suspicious(card_detector: Fitted) -> None:
    engine = card_detector.engine
    row = card_detector.rows.iloc[-1].to_dict()
    row["TX_DATETIME"] = (row["TX_DATETIME"] + pd.Timedelta(hours=1)).isoformat()
    ordinary, _ = engine.score_and_explain(row)
    unusual, reasons = engine.score_and_explain(row | {"TX_AMOUNT": row["TX_AMOUNT"] * 20 + 500})
    assert unusual.score > ordinary.score
    assert reasons[0].column == "TX_AMOUNT"
    stranger = engine.score_row(row | {"CUSTOMER_ID": "never seen", "TERMINAL_ID": "never seen"})
    assert 0 <= stranger.score <= 1


def test_timestamps_in_any_form_mean_the_same(
    reference: tuple[Detector, IsolationForest, torch.nn.Module, features.FeatureMap],
) -> None:
    engine = Engine(reference[0])
    row = {"amount": 5, "balance": 1, "constant": 3, "shop": "a", "abroad": False}
    forms = [
        dt.datetime(2026, 5, 1, 22, 30),
        dt.datetime(2026, 5, 1, 22, 30, tzinfo=dt.UTC),
        "2026-05-01T22:30:00",
        "2026-05-02T00:30:00+02:00",
        "2026-05-01T22:30:00Z",
        dt.datetime(2026, 5, 1, 22, 30, tzinfo=dt.UTC).timestamp(),
    ]
    scores = {engine.score_row(row | {"when": form}).score for form in forms}
    assert len(scores) == 1


@pytest.mark.parametrize(("name", "value"), [("amount", "much"), ("when", "yesterday"), ("amount", [1])])
def test_unusable_values_name_the_column(
    reference: tuple[Detector, IsolationForest, torch.nn.Module, features.FeatureMap], name: str, value: object
) -> None:
    row = {"when": "2026-05-01", "amount": 5, "balance": 1, "constant": 3, "shop": "a", "abroad": False}
    with pytest.raises(DataError, match=f"column '{name}'"):
        Engine(reference[0]).score_row(row | {name: value})


def test_warming_up_compiles_without_changing_answers(five_columns: Fitted) -> None:
    engine = five_columns.engine
    before = engine.score_frame(five_columns.rows.head(5))
    engine.warm_up()
    pd.testing.assert_frame_equal(engine.score_frame(five_columns.rows.head(5)), before)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_row_has_the_hour_of_its_zone_alone_and_in_a_batch(card_detector: Fitted, zone: str) -> None:
    schema = replace(card_detector.detector.schema, day_zone=zone)
    engine = Engine(replace(card_detector.detector, schema=schema))
    rows = card_detector.rows.iloc[::500]
    names = card_detector.detector.features.names
    j = [names.index(name) for name in names if name.startswith("TX_DATETIME ")]

    batch = engine.raw(rows, learn_history=False)[:, j]

    alone = [engine.encode_row(row)[j] for row in rows.to_dict(orient="records")]
    assert np.array_equal(batch, np.array(alone))
    assert not np.array_equal(batch, card_detector.engine.raw(rows, learn_history=False)[:, j])
