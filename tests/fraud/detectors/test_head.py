"""The supervised head: scikit-learn's own answer from flat arrays, fitted only where labels allow, honest in time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.lib.recfunctions import rename_fields
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud.detectors import head
from fraud.detectors.calibration import to_score
from fraud.detectors.head import HeadConfig
from fraud.errors import BundleError, ConfigError, DataError, LibraryChangedError
from fraud.schema import Schema
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.training import fitting
from fraud.training.config import TrainConfig, from_mapping
from tests.fraud.conftest import SMALL, Fitted
from tests.fraud.scoring.test_bundle import rewrite

SCHEMA = Schema.load("transactions")
QUICK = HeadConfig(members=2, iterations=30)
WITHOUT = replace(SMALL, head=HeadConfig(use="never"))


def awkward_rows(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with missing values, ties, infinities, extremes and codes, and labels that depend on them."""
    X = rng.normal(size=(n, 7))
    X[:, 1] = np.round(X[:, 1], 1)
    X[:, 2] = rng.integers(0, 9, n)
    X[:, 3] = np.where(rng.random(n) < 0.01, np.inf, X[:, 3])
    X[:, 4] *= 1e12
    X[:, 6] = 3.0
    y = (X[:, 0] + (X[:, 2] == 4) + rng.normal(size=n) > 2.5).astype(np.int8)
    X[rng.random((n, 7)) < 0.08] = np.nan
    X[y == 1, 5] = np.where(rng.random((y == 1).sum()) < 0.7, np.nan, 0.0)
    return X, y


@pytest.mark.parametrize("leaves", [2, 8, 31])
def test_flat_trees_answer_as_scikit_learn(rng: np.random.Generator, leaves: int) -> None:
    X, y = awkward_rows(rng, 3000)
    members = [
        HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=leaves, max_features=0.5, early_stopping=False, random_state=seed
        ).fit(X, y)
        for seed in (0, 1)
    ]
    exported = head.merge([head.export(member) for member in members])
    fresh = np.concatenate([awkward_rows(rng, 1003)[0], np.full((1, 7), np.nan), np.full((1, 7), -np.inf)])
    prior = np.log(y.mean() / (1 - y.mean()))
    expected = np.mean([member.decision_function(fresh) for member in members], axis=0) - prior
    np.testing.assert_allclose(exported.score(fresh), expected, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(exported.score(fresh[:1]), exported.score(fresh)[:1])
    assert exported.score(fresh[:0]).shape == (0,)


def test_members_fitted_apart_make_the_same_head(rng: np.random.Generator) -> None:
    X, y = awkward_rows(rng, 2000)
    fitted = head.fit(X, y, QUICK, seed=3)
    apart = head.merge([head.fit_member(X, y, QUICK, 3, member) for member in range(QUICK.members)])
    np.testing.assert_array_equal(fitted.score(X), apart.score(X))
    assert not np.array_equal(head.fit(X, y, QUICK, seed=4).score(X), fitted.score(X))


@pytest.fixture
def after_fit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """Has scikit-learn's boosting changed once it is fitted, as a later version might keep it."""
    fit = HistGradientBoostingClassifier.fit

    def change(how: Callable[[Any], None]) -> None:
        def fitted(self: Any, *arguments: Any) -> Any:
            fit(self, *arguments)
            how(self)
            return self

        monkeypatch.setattr(HistGradientBoostingClassifier, "fit", fitted)

    return change


def test_renamed_trees_are_refused(rng: np.random.Generator, after_fit: Callable) -> None:
    after_fit(lambda boosting: vars(boosting).update(trees=vars(boosting).pop("_predictors")))
    with pytest.raises(LibraryChangedError, match=r"scikit-learn .* keeps the trees .*'_predictors'"):
        head.fit(*awkward_rows(rng, 2000), QUICK, 0)


@pytest.mark.parametrize("name", ["num_threshold", "missing_go_to_left", "is_leaf", "value", "depth"])
def test_a_renamed_field_of_a_node_is_refused(rng: np.random.Generator, after_fit: Callable, name: str) -> None:
    def rename(boosting: Any) -> None:
        for (predictor,) in boosting._predictors:
            predictor.nodes = rename_fields(predictor.nodes, {name: "other"})

    after_fit(rename)
    with pytest.raises(LibraryChangedError, match=f"writes the nodes of a tree in another way .*{name}"):
        head.fit(*awkward_rows(rng, 2000), QUICK, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda nodes: nodes["value"].__imul__(0.99),
        lambda nodes: nodes["missing_go_to_left"].__ixor__(1),
        lambda nodes: nodes["num_threshold"].__isub__(0.5),
        lambda nodes: nodes["feature_idx"].__setitem__(..., nodes["feature_idx"][::-1].copy()),
    ],
)
def test_trees_that_mean_something_else_are_refused(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], None]
) -> None:
    def exported(fitted: object) -> head.Member:
        trees = [nodes.copy() for nodes in export(fitted).nodes]
        for nodes in trees:
            change(nodes)
        return head.Member(trees, export(fitted).n_features)

    export = head.export
    monkeypatch.setattr(head, "export", exported)
    with pytest.raises(LibraryChangedError, match="answers otherwise than its exported trees"):
        head.fit(*awkward_rows(rng, 2000), QUICK, 0)


def test_unknown_labels_are_left_out(rng: np.random.Generator) -> None:
    X, y = awkward_rows(rng, 2000)
    padded = np.concatenate([X, rng.normal(size=(300, 7))]), np.concatenate([y, np.full(300, -1, np.int8)])
    np.testing.assert_array_equal(head.fit(*padded, QUICK, 0).score(X), head.fit(X, y, QUICK, 0).score(X))
    with pytest.raises(DataError, match=r"labelled frauds and labelled legitimate rows.*head\.use"):
        head.fit(X, np.where(y == 1, -1, 0).astype(np.int8), QUICK, 0)


def test_the_head_adds_to_the_joined_score(five_columns: Fitted) -> None:
    detector, metrics = five_columns.detector, five_columns.evaluation.metrics
    assert detector.head is not None
    assert metrics["joined"]["average_precision"] > metrics["label_light"]["average_precision"]
    gained = metrics["joined"]["average_precision"] - metrics["label_light"]["average_precision"]
    assert metrics["head"]["average_precision_gained"] == gained
    assert metrics["head"]["weight"] == detector.calibration.head_weight > 0


def test_one_row_at_a_time_equals_the_batch(five_columns: Fitted) -> None:
    engine, rows = five_columns.engine, five_columns.rows.tail(1500)
    batch = engine.score_frame(rows)
    singly = [engine.score_row(record) for record in rows.to_dict("records")]
    assert list(batch.columns) == ["score", "forest_score", "autoencoder_score", "head_score", "is_fraud"]
    np.testing.assert_array_equal([s.score for s in singly], batch["score"])
    np.testing.assert_array_equal([s.scores["head_score"] for s in singly], batch["head_score"])


def test_reasons_go_through_the_head(five_columns: Fitted) -> None:
    """Contributions divide the joined evidence, head included, in a request and in a batch."""
    engine = five_columns.engine
    request = {"amount": 220.0, "hour": 3.0, "distance": 12.0, "device_score": 0.92, "country_mismatch": 1.0}
    _, reasons = engine.score_and_explain(request)
    raw = engine.encode_row(request)[None]
    before, typical = engine.evidence(raw), engine.evidence(engine.detector.features.typical[None])
    assert engine.contributions(raw).sum() == pytest.approx(before[0, -1] - typical[0, -1], abs=1e-9)
    assert engine.contributions(raw).sum() != pytest.approx(before[0, 2] - typical[0, 2], abs=0.01)
    assert engine.score_raw(raw)[0, 0] == to_score(before[:, -1])[0]
    (batch,) = engine.reasons(pd.DataFrame([request]), top=1)
    assert batch[0].column == reasons[0].column
    assert batch[0].contribution == reasons[0].contribution


def test_without_labels_and_with_few_there_is_no_head(five_columns: Fitted) -> None:
    """Nothing changes without a head: the detector is the one that a configuration with head.use=never gives."""
    rows = five_columns.rows
    few = rows.copy()
    train = few.index[: round(0.6 * len(few))]
    frauds = train[few.loc[train, "is_fraud"] == 1]
    few.loc[frauds[49:], "is_fraud"] = np.int8(-1)
    for training_rows, expected in ((rows.drop(columns="is_fraud"), 0), (few, 1)):
        detector, evaluation = fitting.fit_locally(training_rows, SCHEMA, SMALL)
        plain, without = fitting.fit_locally(training_rows, SCHEMA, WITHOUT)
        assert detector.head is None and "head" not in detector.calibration.detectors
        warnings = [w for w in evaluation.warnings if "no supervised head is fitted" in w]
        assert len(warnings) == expected and all("49 labelled frauds" in w for w in warnings)
        assert not any("head" in w for w in without.warnings)
        scores = Engine(detector).score_frame(rows.head(200))
        pd.testing.assert_frame_equal(scores, Engine(plain).score_frame(rows.head(200)))
        one = Engine(detector).score_row(rows.iloc[0].to_dict())
        assert "head_score" not in scores and "head_score" not in one.scores
        assert not {"head", "label_light"} & set(evaluation.metrics)


def test_the_label_light_score_is_the_one_without_a_head(five_columns: Fitted) -> None:
    _, without = fitting.fit_locally(five_columns.rows, SCHEMA, WITHOUT)
    np.testing.assert_array_equal(without.scores["joined"], five_columns.evaluation.scores["label_light"])
    shared = ("average_precision", "roc_auc")
    for name in shared:
        assert without.metrics["joined"][name] == five_columns.evaluation.metrics["label_light"][name]


def test_always_fits_with_few_frauds_and_refuses_none(five_columns: Fitted) -> None:
    always = replace(SMALL, head=replace(QUICK, use="always", min_frauds=10_000))
    assert fitting.fit_locally(five_columns.rows, SCHEMA, always)[0].head is not None
    with pytest.raises(DataError, match=r"head\.use='always'"):
        fitting.fit_locally(five_columns.rows.drop(columns="is_fraud"), SCHEMA, always)


def test_the_refit_learns_validation_rows_and_moves_neither_threshold_nor_calibration(five_columns: Fitted) -> None:
    once, evaluation = fitting.fit_locally(
        five_columns.rows, SCHEMA, replace(SMALL, head=replace(SMALL.head, refit=False))
    )
    refitted = five_columns.detector
    assert once.threshold == refitted.threshold
    assert once.calibration.head_weight == refitted.calibration.head_weight
    np.testing.assert_array_equal(evaluation.validation_scores, five_columns.evaluation.validation_scores)
    assert once.head is not None and refitted.head is not None
    assert not np.array_equal(once.head.values, refitted.head.values)
    validation = five_columns.rows.iloc[round(0.6 * len(five_columns.rows)) : round(0.75 * len(five_columns.rows))]
    frauds = validation[validation["is_fraud"] == 1]
    before, after = (Engine(d).score_frame(frauds)["head_score"].mean() for d in (once, refitted))
    assert after > before


def test_the_test_window_leaves_every_array_of_the_head_alone(five_columns: Fitted) -> None:
    rows = five_columns.rows.copy()
    tail = rows.index[-round(0.25 * len(rows)) :]
    rows.loc[tail, "is_fraud"] = 1 - rows.loc[tail, "is_fraud"]
    rows.loc[tail, "amount"] = 999_999.0
    changed, _ = fitting.fit_locally(rows, SCHEMA, SMALL)
    ours, theirs = changed.head, five_columns.detector.head
    assert ours is not None and theirs is not None
    for field in dataclasses.fields(theirs):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    tails = [(d.calibration.detectors["head"], d.calibration.final) for d in (changed, five_columns.detector)]
    for mine, other in zip(*tails, strict=True):
        assert mine is not None and other is not None
        np.testing.assert_array_equal(mine.knots, other.knots)
        np.testing.assert_array_equal(mine.evidence, other.evidence)
    assert changed.calibration.head_weight == five_columns.detector.calibration.head_weight


@pytest.mark.parametrize("with_head", [True, False])
def test_a_bundle_brings_the_head_back(five_columns: Fitted, tmp_path: Path, with_head: bool) -> None:
    detector = five_columns.detector
    if not with_head:
        bare = replace(detector.calibration, final=None, head_weight=0.0)
        detector = replace(detector, components=detector.without_labels, calibration=bare)
    bundle.save(tmp_path / "bundle", detector)
    loaded = bundle.load(tmp_path / "bundle").detector
    assert (loaded.head is not None) is with_head
    rows = five_columns.rows.head(300)
    pd.testing.assert_frame_equal(Engine(loaded).score_frame(rows), Engine(detector).score_frame(rows))


@pytest.mark.parametrize(
    ("array", "index", "value", "part"),
    [
        ("head.nodes", 0, 0xFFFFF << 12, "head"),
        ("head.nodes", 0, 4000, "head"),
        ("head.nodes", -1, 0xFFFFFFFF << 32, "head"),
        ("head.roots", 1, 2**31, "head"),
        ("head.roots", 0, 1, "head"),
        ("head.starts", -1, 10**6, "head"),
        ("head.starts", 0, -5, "head"),
        ("head.starts", 2, 10**6, "head"),
        ("head.values", 0, np.nan, "head"),
        ("calibration.head.knots", 0, 1e9, "calibration"),
        ("calibration.final.knots", 0, 1e9, "calibration"),
    ],
)
def test_tampered_arrays_are_refused(
    five_columns: Fitted, tmp_path: Path, array: str, index: int, value: float, part: str
) -> None:
    bundle.save(tmp_path, five_columns.detector)
    arrays = load_file(tmp_path / "arrays.safetensors")
    arrays[array] = arrays[array].copy()
    arrays[array][index] = value
    save_file(arrays, tmp_path / "forged")
    content = (tmp_path / "forged").read_bytes()
    (tmp_path / "forged").unlink()
    rewrite(tmp_path, "arrays.safetensors", content)
    with pytest.raises(BundleError, match=f"its {part} arrays"):
        bundle.load(tmp_path)


@pytest.mark.parametrize("key", ['"head.members": 5', '"has_head": true'])
def test_settings_that_contradict_the_arrays_are_refused(five_columns: Fitted, tmp_path: Path, key: str) -> None:
    bundle.save(tmp_path, five_columns.detector)
    text = (tmp_path / "detector.json").read_text()
    assert key in text
    name = key.split(":")[0]
    rewrite(tmp_path, "detector.json", text.replace(key, f"{name}: 0" if "members" in key else '"x": 1').encode())
    with pytest.raises(BundleError, match="malformed"):
        bundle.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"use": "on"}, {"min_frauds": 0}, {"members": 0}, {"members": True}, {"normals": -1}, {"iterations": 0},
        {"learning_rate": 0.0}, {"max_leaf_nodes": 1}, {"min_samples_leaf": 0}, {"l2_regularization": -1.0},
        {"max_features": 0.0},
    ],
)  # fmt: skip
def test_impossible_settings_name_themselves(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        from_mapping(TrainConfig, {"head": wrong})


def test_too_many_features_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2,048 features.*head\.use"):
        head.merge([head.Member([], 2049)])
