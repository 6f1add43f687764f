"""A whole training without Ray: it detects, it never peeks at the test window, and poor data has a defined answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fraud.data.splits import SplitConfig
from fraud.detectors import forest
from fraud.errors import ConfigError, DataError
from fraud.schema import Schema
from fraud.scoring.engine import Engine
from fraud.thresholds.selection import ThresholdConfig
from fraud.training import fitting
from tests.fraud.conftest import SMALL, Fitted

SCHEMA = Schema.load("transactions")


def test_detectors_beat_chance_by_far(five_columns: Fitted) -> None:
    for name in ("forest", "autoencoder", "joined"):
        assert five_columns.evaluation.metrics[name]["roc_auc"] > 0.8
        assert five_columns.evaluation.metrics[name]["average_precision"] > 0.15  # frauds are 2 %
    low, high = five_columns.evaluation.intervals["joined"]
    assert low < five_columns.evaluation.metrics["joined"]["average_precision"] < high


def test_same_seed_same_detector(five_columns: Fitted) -> None:
    again, _ = fitting.fit_locally(five_columns.rows, SCHEMA, SMALL)
    rows = five_columns.rows.head(300)
    pd.testing.assert_frame_equal(Engine(again).score_frame(rows), five_columns.engine.score_frame(rows))
    other, _ = fitting.fit_locally(five_columns.rows, SCHEMA, dataclasses.replace(SMALL, seed=8))
    assert not Engine(other).score_frame(rows)["score"].equals(five_columns.engine.score_frame(rows)["score"])


def test_the_test_window_decides_nothing(five_columns: Fitted) -> None:
    """Turning the test window's labels and values upside down leaves every part of the detector as it was."""
    rows = five_columns.rows.copy()
    n_test = round(0.25 * len(rows))
    tail = rows.index[-n_test:]
    rows.loc[tail, "is_fraud"] = 1 - rows.loc[tail, "is_fraud"]
    rows.loc[tail, "amount"] = 999_999.0
    changed, evaluation = fitting.fit_locally(rows, SCHEMA, SMALL)
    assert changed.threshold == five_columns.detector.threshold
    assert changed.calibration.forest_weight == five_columns.detector.calibration.forest_weight
    head = five_columns.rows.head(300)
    pd.testing.assert_frame_equal(Engine(changed).score_frame(head), five_columns.engine.score_frame(head))
    assert evaluation.metrics["joined"] != five_columns.evaluation.metrics["joined"]


def test_frauds_are_not_learnt_as_normal(five_columns: Fitted) -> None:
    prepared = fitting.prepare(five_columns.rows, SCHEMA, SMALL)
    train = five_columns.rows["is_fraud"].to_numpy()[prepared.split.train]
    assert len(prepared.x_fit) == (train == 0).sum() < len(train)


def test_without_labels_a_share_is_trimmed_and_the_budget_decides(five_columns: Fitted) -> None:
    rows = five_columns.rows.drop(columns="is_fraud")
    prepared = fitting.prepare(rows, SCHEMA, SMALL)
    grown = forest.fit(prepared.x_fit, SMALL.forest, 0)
    trimmed = fitting.trim(prepared, grown, SMALL)
    assert len(trimmed) == pytest.approx(0.94 * len(prepared.x_fit), rel=0.01)
    assert grown.score(trimmed).max() < grown.score(prepared.x_fit).max()
    detector, evaluation = fitting.fit_locally(rows, SCHEMA, SMALL)
    assert detector.threshold.policy == "alert_budget"
    assert detector.threshold.achieved["alert_rate"] <= SMALL.alert_budget
    assert "average_precision" not in evaluation.metrics["joined"]
    assert any("no labelled fraud" in warning for warning in evaluation.warnings)
    # Label-free, it still ranks the frauds first.
    scores = Engine(detector).score_frame(five_columns.rows)["score"].to_numpy()
    fraud = five_columns.rows["is_fraud"].to_numpy() == 1
    assert (scores[fraud] > np.median(scores[~fraud])).mean() > 0.85


def test_the_forest_weight_and_the_largest_share_of_alerts_are_those_of_the_configuration(five_columns: Fitted) -> None:
    prepared = fitting.prepare(five_columns.rows, SCHEMA, SMALL)
    config = dataclasses.replace(
        SMALL, forest_weight=0.15, threshold=ThresholdConfig(policy="best_f1", contamination=0.004)
    )
    parts = five_columns.detector.forest, five_columns.detector.autoencoder
    detector, _ = fitting.assemble(prepared, *parts, config)
    assert detector.calibration.forest_weight == 0.15
    assert (
        0 < detector.threshold.achieved["alert_rate"] <= 0.004 < five_columns.detector.threshold.achieved["alert_rate"]
    )
    unlabelled = dataclasses.replace(prepared, labels=None)
    detector, _ = fitting.assemble(unlabelled, *parts, config)
    assert detector.calibration.forest_weight == 0.15
    assert detector.threshold.achieved["alert_rate"] <= 0.004 < SMALL.alert_budget


def test_all_legitimate_labels_work_like_no_frauds(five_columns: Fitted) -> None:
    detector, _ = fitting.fit_locally(five_columns.rows.assign(is_fraud=np.int8(0)), SCHEMA, SMALL)
    assert detector.threshold.policy == "alert_budget"


def test_all_fraud_is_refused(five_columns: Fitted) -> None:
    with pytest.raises(DataError, match=r"labelled fraud.*is_fraud"):
        fitting.prepare(five_columns.rows.assign(is_fraud=np.int8(1)), SCHEMA, SMALL)


def test_validation_rows_that_are_all_fraud_are_refused(five_columns: Fitted) -> None:
    rows = five_columns.rows.copy()
    n = len(rows)
    rows.iloc[int(0.59 * n) : int(0.76 * n), rows.columns.get_loc("is_fraud")] = 1
    with pytest.raises(DataError, match=r"validation rows are labelled fraud.*split\.validation"):
        fitting.prepare(rows, SCHEMA, SMALL)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_rows_are_refused(five_columns: Fitted, n: int) -> None:
    with pytest.raises(DataError):
        fitting.fit_locally(five_columns.rows.head(n), SCHEMA, SMALL)


def test_constant_columns_and_tiny_windows_still_fit(five_columns: Fitted) -> None:
    rows = five_columns.rows.head(60).assign(amount=10.0, hour=3.0, distance=1.0)
    detector, _ = fitting.fit_locally(rows, SCHEMA, SMALL)
    assert np.isfinite(Engine(detector).score_frame(five_columns.rows.head(50))["score"]).all()


def test_cost_threshold_uses_amounts(five_columns: Fitted) -> None:
    config = dataclasses.replace(SMALL, threshold=ThresholdConfig(policy="cost", amount_column="amount"))
    detector, _ = fitting.fit_locally(five_columns.rows, SCHEMA, config)
    assert detector.threshold.achieved["cost"] < detector.threshold.achieved["cost_without_alerts"]
    wrong = dataclasses.replace(SMALL, threshold=ThresholdConfig(policy="cost", amount_column="price"))
    with pytest.raises(ConfigError, match="price"):
        fitting.fit_locally(five_columns.rows, SCHEMA, wrong)


def test_history_windows_and_delay_are_kept(card_detector: Fitted, card_rows: pd.DataFrame) -> None:
    schema = Schema.load("handbook")
    assert schema.label_delay_days == 7  # the configuration need not repeat it
    config = dataclasses.replace(SMALL, split=SplitConfig(history=0.3, train=0.4, validation=0.15, test=0.15))
    prepared = fitting.prepare(card_rows, schema, config)
    ends = {window.name: pd.Timestamp(window.end) for window in prepared.windows}
    starts = {window.name: pd.Timestamp(window.start) for window in prepared.windows}
    assert starts["validation"] - ends["train"] >= pd.Timedelta(days=7)
    assert starts["test"] - ends["validation"] >= pd.Timedelta(days=7)
    assert card_detector.evaluation.metrics["joined"]["roc_auc"] > 0.7
    assert len(card_detector.detector.history) == 2
