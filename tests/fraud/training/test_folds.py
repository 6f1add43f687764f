"""The windows of a search: those of a training and earlier ones, and nothing of the test window."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fraud.data import simulation
from fraud.errors import DataError
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.training import fitting, folds
from fraud.training.config import TrainConfig, from_mapping

SCHEMA = Schema.load("transactions")
CONFIG = from_mapping(TrainConfig, {"features": {"clip": 4.0, "scaling": "robust"}, "forest": {"n_estimators": 25}})


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return validate(simulation.transactions(3000, seed=5, fraud_rate=0.03), SCHEMA).rows


def test_the_newest_fold_is_what_a_training_sees(rows: pd.DataFrame):
    prepared = fitting.prepare(rows, SCHEMA, CONFIG)
    (fold,) = folds.prepare(rows, SCHEMA, CONFIG)
    expected = fitting.Fold.of(prepared)
    assert fold.categories == expected.categories
    for name in ("raw_train", "raw_validation", "train_labels", "validation_labels"):
        np.testing.assert_array_equal(getattr(fold, name), getattr(expected, name))
    matrices = folds.matrices(fold, CONFIG)
    np.testing.assert_array_equal(matrices.x_fit, prepared.x_fit)
    np.testing.assert_array_equal(matrices.x_trimmed, prepared.x_fit)
    np.testing.assert_array_equal(matrices.x_quiet, prepared.x_validation)
    np.testing.assert_array_equal(
        matrices.x_validation, prepared.features.transform(prepared.raw[prepared.split.validation])
    )
    assert len(matrices.x_quiet) == (matrices.labels != 1).sum() < len(matrices.x_validation)


def test_history_of_entities_is_that_of_a_training(card_rows: pd.DataFrame):
    schema = Schema.load("handbook")
    config = from_mapping(
        TrainConfig, {"split": {"history": 0.3, "train": 0.4, "validation": 0.15, "test": 0.15, "delay_days": 7}}
    )
    expected = fitting.Fold.of(fitting.prepare(card_rows, schema, config))
    (fold,) = folds.prepare(card_rows, schema, config)
    np.testing.assert_array_equal(fold.raw_train, expected.raw_train)
    np.testing.assert_array_equal(fold.raw_validation, expected.raw_validation)


def test_the_test_window_does_not_matter(rows: pd.DataFrame):
    test = fitting.prepare(rows, SCHEMA, CONFIG).split.test
    altered = rows.copy()
    altered.loc[altered.index[test], "amount"] *= 1000
    altered.loc[altered.index[test], "is_fraud"] = 1 - altered.loc[altered.index[test], "is_fraud"]
    for fold, other in zip(
        folds.prepare(rows, SCHEMA, CONFIG, 3), folds.prepare(altered, SCHEMA, CONFIG, 3), strict=True
    ):
        one, two = folds.matrices(fold, CONFIG), folds.matrices(other, CONFIG)
        for name in ("x_fit", "x_trimmed", "x_validation", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_earlier_folds_are_older_windows_each_with_its_own_preprocessing(rows: pd.DataFrame):
    newest, older = folds.prepare(rows, SCHEMA, CONFIG, 2)
    test = len(fitting.prepare(rows, SCHEMA, CONFIG).split.test)
    raw_of = {
        name: np.concatenate([fold.raw_train, fold.raw_validation]) for name, fold in [("n", newest), ("o", older)]
    }
    n = len(older.raw_validation)
    last = raw_of["n"][: len(raw_of["n"]) - test]
    np.testing.assert_array_equal(older.raw_validation, last[-n:])
    assert abs(n - len(newest.raw_validation)) <= 2, "no clock: the windows are counted in rows"
    assert not np.array_equal(
        folds.fit_features(newest, CONFIG).transform(newest.raw_validation),
        folds.fit_features(older, CONFIG).transform(newest.raw_validation),
    )


def test_too_many_folds_are_refused_by_number(rows: pd.DataFrame):
    with pytest.raises(DataError, match=r"of fold \d.*ask for fewer folds"):
        folds.prepare(rows, SCHEMA, CONFIG, 50)


def test_without_labels_the_autoencoder_gets_what_a_training_would_give_it(rows: pd.DataFrame):
    from fraud.detectors import forest

    unlabelled = validate(simulation.transactions(3000, seed=5).drop(columns="is_fraud"), SCHEMA).rows
    config = dataclasses.replace(CONFIG, forest=dataclasses.replace(CONFIG.forest, contamination=0.2))
    prepared = fitting.prepare(unlabelled, SCHEMA, config)
    trimmed = fitting.trim(prepared, forest.fit(prepared.x_fit, config.forest, config.seed), config)
    matrices = folds.matrices(folds.prepare(unlabelled, SCHEMA, config)[0], config)
    np.testing.assert_array_equal(matrices.x_trimmed, trimmed)
    assert len(matrices.x_trimmed) == pytest.approx(0.8 * len(matrices.x_fit), abs=1)
    assert matrices.labels is None and matrices.x_quiet is matrices.x_validation
