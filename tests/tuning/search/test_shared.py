"""Data are transformed once for each preprocessing and fold, and every trial reads the same memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fraud.thresholds.selection import ThresholdConfig
from fraud.training import folds, label_free
from tests.tuning.small import BASE, SPACE, space, windows
from tuning.search.shared import Shared, Task, has_frauds, key_of, preprocessings, put_tasks, settings_text

WIDER = SPACE.replace("clip: {choice: [5, 10]}", "clip: {choice: [5, 10]}\n  scaling: {choice: [standard, robust]}")


def test_each_preprocessing_is_there_once_that_of_the_configuration_first():
    configs = preprocessings(space(WIDER), BASE, ["forest", "autoencoder"])
    settings = [(config.features.clip, config.features.scaling) for config in configs]
    assert settings[0] == (BASE.features.clip, BASE.features.scaling)
    assert sorted(settings) == sorted({*settings, *((c, s) for c in (5.0, 10.0) for s in ("standard", "robust"))})
    other = dataclasses.replace(BASE, features=dataclasses.replace(BASE.features, clip=7.5))
    assert [config.features.clip for config in preprocessings(space(base=other), other, ["forest"])] == [7.5, 5.0, 10.0]


def test_a_preprocessing_is_named_by_its_features_alone():
    assert key_of(BASE) == key_of(dataclasses.replace(BASE, seed=99))
    assert key_of(BASE) != key_of(dataclasses.replace(BASE, features=dataclasses.replace(BASE.features, clip=3.0)))
    assert key_of(space().configure(BASE, {"features.clip": 10})) == key_of(
        space().configure(BASE, {"features.clip": 10.0})
    )


@pytest.mark.ray
def test_objects_put_are_preprocessings_times_folds(ray_session: None, monkeypatch: pytest.MonkeyPatch):
    import ray

    count, put = [], ray.put
    monkeypatch.setattr(ray, "put", lambda value: count.append(type(value)) or put(value))
    configs = preprocessings(space(WIDER), BASE, ["forest", "autoencoder"])
    prepared = windows(n_folds=2)
    tasks = put_tasks(prepared, configs)
    assert count == [Task] * (len(configs) * 2)
    assert sorted(tasks) == sorted(key_of(config) for config in configs)

    task = ray.get(tasks[key_of(configs[1])][1])
    expected = folds.matrices(prepared[1], configs[1])
    for name in ("x_fit", "x_trimmed", "x_validation", "labels"):
        np.testing.assert_array_equal(getattr(task.matrices, name), getattr(expected, name))
    np.testing.assert_array_equal(task.x_judged, expected.x_validation)
    np.testing.assert_array_equal(task.labels, expected.labels)
    assert not task.x_judged.flags.writeable, "the object store's own memory, not a copy"
    again = ray.get(tasks[key_of(configs[1])][1])
    assert np.shares_memory(task.matrices.x_fit, again.matrices.x_fit)


@pytest.mark.ray
def test_without_labels_artificial_outliers_are_judged_by(ray_session: None):
    import ray

    unlabelled = windows(with_labels=False)
    assert not has_frauds(unlabelled)
    task = ray.get(put_tasks(unlabelled, [BASE])[key_of(BASE)][0])
    n = len(task.matrices.x_validation)
    np.testing.assert_array_equal(task.x_judged[:n], task.matrices.x_validation)
    assert not task.labels[:n].any() and task.labels[n:].all() and len(task.labels) > n
    expected, _ = label_free.synthetic_outliers(task.matrices.x_fit, task.matrices.x_validation, BASE.seed)
    np.testing.assert_array_equal(task.x_judged, expected)
    assert len(task.matrices.x_trimmed) < len(task.matrices.x_fit), "what the forest isolates best is left out"


@pytest.mark.ray
def test_one_fold_without_frauds_makes_the_objective_label_free_in_all(ray_session: None):
    import ray

    one, other = windows(n_folds=2)
    assert has_frauds([one, other])
    none = dataclasses.replace(other, validation_labels=np.zeros_like(other.validation_labels))
    assert not has_frauds([one, none])
    first, _ = ray.get(put_tasks([one, none], [BASE])[key_of(BASE)])
    assert len(first.labels) > len(one.raw_validation)


def test_policies_that_use_amounts_get_them():
    amounts = {"amount": np.arange(3.0)}
    shared = Shared(BASE, space(), {}, None, amounts, True, "", "cpu", 1)
    cost = ThresholdConfig(policy="cost", amount_column="amount")
    assert shared.amounts_of(cost) is amounts["amount"]
    assert shared.amounts_of(ThresholdConfig(policy="best_f1")) is None


def test_settings_in_words():
    words = settings_text({"autoencoder.lr": 0.00123456, "autoencoder.hidden": [8, 4], "forest.bootstrap": True})
    assert words == "lr 0.00123, hidden [8, 4], bootstrap True"
