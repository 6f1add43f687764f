"""Nothing that chooses anything sees the test window: with other rows and labels there, the detector is bit for bit the
same. Here the whole pipeline at once: categories, entity history with delayed labels, a density score, the head.

The detector's history is left out: it is the entities' state at the end of the data, what serving goes on from, and
rightly holds the test window's transactions. No array that scores is learnt from it (`test_features_look_back_only`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pytest

from fraud.data.simulation import cards
from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.base import Fitted
from fraud.detectors.calibration import Tail
from fraud.detectors.features import FeatureConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring.detector import Detector
from fraud.training import fitting
from fraud.training.config import TrainConfig
from fraud.training.fitting import Evaluation

BASE = Schema.load("handbook").to_dict()
CHANNEL = {"name": "CHANNEL", "kind": "categorical", "example": "web", "description": "Where the card was used."}
PAIR = {"entity": "CUSTOMER_ID", "of": "TERMINAL_ID", "windows": ["30d"], "statistics": ["first_seen", "distinct"]}
SCHEMA = Schema.from_dict(BASE | {"columns": [*BASE["columns"], CHANNEL], "history": [*BASE["history"], PAIR]})
CONFIG = TrainConfig(
    split=SplitConfig(history=0.3, train=0.4, validation=0.15, test=0.15),
    features=FeatureConfig(head_only=("frauds by *", "risk by CUSTOMER_ID *", "TX_AMOUNT max by *")),
    forest=ForestConfig(n_estimators=25),
    autoencoder=AutoencoderConfig(hidden=(12, 4), epochs=2, batch_size=256, score="density", components=3),
    head=HeadConfig(use="always", members=2, iterations=20),
)
NOT_LEARNT = {"history", "schema"}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Card transactions with a categorical column."""
    frame = cards(10_000, seed=3)
    frame["CHANNEL"] = np.random.default_rng(0).choice(["shop", "web", "atm"], len(frame), p=[0.7, 0.2, 0.1])
    return validate(frame, SCHEMA).rows


@pytest.fixture(scope="module")
def honest(rows: pd.DataFrame) -> tuple[Detector, Evaluation]:
    """The detector of `rows` as they are."""
    return fitting.fit_locally(rows, SCHEMA, CONFIG)


def scrambled(rows: pd.DataFrame, where: np.ndarray) -> pd.DataFrame:
    """The rows at positions `where` with flipped labels, other amounts, a new level, other cards and terminals."""
    rng = np.random.default_rng(9)
    changed = rows.copy()
    labels, amounts = changed["TX_FRAUD"].to_numpy().copy(), changed["TX_AMOUNT"].to_numpy().copy()
    labels[where] = 1 - labels[where]
    amounts[where] = rng.lognormal(8.0, 3.0, len(where))
    changed["TX_FRAUD"], changed["TX_AMOUNT"] = labels, amounts
    for name in ("CUSTOMER_ID", "TERMINAL_ID", "CHANNEL"):
        values = changed[name].to_numpy(dtype=object).copy()
        values[where] = "never seen" if name == "CHANNEL" else rng.permutation(values[where])
        changed[name] = pd.array(values, dtype=rows[name].dtype)
    return changed


def learnt(part: object, name: str = "detector") -> Iterator[tuple[str, object]]:
    """Every leaf of a detector, arrays and settings, with its path; what is not learnt is left out."""
    if dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            if field.name not in NOT_LEARNT:
                yield from learnt(getattr(part, field.name), f"{name}.{field.name}")
    elif isinstance(part, tuple) and all(isinstance(component, Fitted) for component in part):
        for component in part:
            yield from learnt(component, f"{name}.{component.name}")
    elif isinstance(part, Mapping) and all(isinstance(tail, Tail) for tail in part.values()):
        for key, tail in part.items():
            yield from learnt(tail, f"{name}.{key}")
    else:
        yield name, part


def differing(one: Detector, other: Detector) -> list[str]:
    """Paths at which two detectors are not bit for bit the same."""
    theirs = dict(learnt(other))
    assert theirs.keys() == dict(learnt(one)).keys()
    return [
        name
        for name, value in learnt(one)
        if not (
            value.dtype == theirs[name].dtype and value.tobytes() == theirs[name].tobytes()  # type: ignore[attr-defined]
            if isinstance(value, np.ndarray)
            else value == theirs[name]
        )
    ]


def test_whatever_comes_after_validation_leaves_the_detector_as_it_is(
    rows: pd.DataFrame, honest: tuple[Detector, Evaluation]
) -> None:
    detector, evaluation = honest
    split = fitting.prepare(rows, SCHEMA, CONFIG).split
    later = np.arange(split.validation[-1] + 1, len(rows))  # the delay before the test window as well
    assert set(split.test) < set(later)
    changed, judged = fitting.fit_locally(scrambled(rows, later), SCHEMA, CONFIG)
    assert differing(changed, detector) == []
    np.testing.assert_array_equal(judged.validation_scores, evaluation.validation_scores)
    assert judged.metrics != evaluation.metrics
    learnt_names = {name for name, _ in learnt(detector)}
    for name in (
        "features.center", "features.tables", "features.starts", "components.forest.nodes",
        "components.autoencoder.weights", "components.autoencoder.factors", "components.head.values",
        "calibration.forest_weight", "calibration.head_weight", "calibration.final.knots", "threshold.value",
    ):  # fmt: skip
        assert f"detector.{name}" in learnt_names


def test_the_check_would_see_a_leak(rows: pd.DataFrame, honest: tuple[Detector, Evaluation]) -> None:
    """The same change to a few validation rows moves weights, calibration, threshold and head, and no detector."""
    split = fitting.prepare(rows, SCHEMA, CONFIG).split
    frauds = split.validation[rows["TX_FRAUD"].to_numpy()[split.validation] == 1]
    changed, _ = fitting.fit_locally(scrambled(rows, frauds[::2]), SCHEMA, CONFIG)
    differences = differing(changed, honest[0])
    for name in (
        "calibration.detectors.forest.knots", "calibration.final.knots", "threshold.value", "components.head.values",
    ):  # fmt: skip
        assert f"detector.{name}" in differences
    assert not [name for name in differences if name.startswith(("detector.features", "detector.components.forest"))]


def test_features_look_back_only(rows: pd.DataFrame) -> None:
    """No raw feature of a row, history and delayed fraud rates included, changes with a later row."""
    prepared = fitting.prepare(rows, SCHEMA, CONFIG)
    end = int(prepared.split.validation[-1]) + 1
    changed = fitting.prepare(scrambled(rows, np.arange(end, len(rows))), SCHEMA, CONFIG)
    np.testing.assert_array_equal(changed.raw[:end], prepared.raw[:end])
    assert not np.array_equal(changed.raw[prepared.split.test], prepared.raw[prepared.split.test])
    cut = fitting.replay(rows.iloc[:end], SCHEMA)[0]
    np.testing.assert_array_equal(cut, prepared.raw[:end, -cut.shape[1] :])
