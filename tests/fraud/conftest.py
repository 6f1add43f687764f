"""Two small fitted detectors, made once a session: the five columns, and cards with entity history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from fraud.data.simulation import cards, transactions
from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring.detector import Detector
from fraud.scoring.engine import Engine
from fraud.training import fitting
from fraud.training.config import TrainConfig
from fraud.training.fitting import Evaluation

SMALL = TrainConfig(
    forest=ForestConfig(n_estimators=50),
    autoencoder=AutoencoderConfig(epochs=4, batch_size=128),
    head=HeadConfig(iterations=50),
)


@dataclass(frozen=True)
class Fitted:
    """A detector with the rows it was made from."""

    rows: pd.DataFrame
    detector: Detector
    evaluation: Evaluation

    @property
    def engine(self) -> Engine:
        """A fresh engine."""
        return Engine(self.detector)


@pytest.fixture(scope="session")
def five_columns() -> Fitted:
    """A detector fitted on 8,000 synthetic transactions."""
    schema = Schema.load("transactions")
    rows = validate(transactions(8000, seed=1), schema).rows
    return Fitted(rows, *fitting.fit_locally(rows, schema, SMALL))


@pytest.fixture(scope="session")
def card_rows() -> pd.DataFrame:
    """12,000 canonical card transactions with customers, terminals and labels."""
    return validate(cards(12_000, seed=1), Schema.load("handbook")).rows


@pytest.fixture(scope="session")
def card_detector(card_rows: pd.DataFrame) -> Fitted:
    """A detector with entity history fitted on `card_rows`."""
    config = TrainConfig(
        forest=SMALL.forest,
        autoencoder=SMALL.autoencoder,
        head=SMALL.head,
        split=SplitConfig(history=0.3, train=0.4, validation=0.15, test=0.15, delay_days=7),
    )
    return Fitted(card_rows, *fitting.fit_locally(card_rows, Schema.load("handbook"), config))


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)
