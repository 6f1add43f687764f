"""The fitted detector: everything that turns a transaction into a score and a decision, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

from fraud.detectors.autoencoder_score import Autoencoder
from fraud.detectors.calibration import Calibration
from fraud.detectors.features import FeatureMap
from fraud.detectors.forest import Forest
from fraud.detectors.head import Head
from fraud.history.state import HistoryState
from fraud.schema import Schema
from fraud.thresholds.selection import Threshold


@dataclass(frozen=True)
class Detector:
    """A fitted detector. `fraud.scoring.engine.Engine(detector)` scores with it, `fraud.scoring.bundle` saves and
    loads it.

    history: one state per entry of schema.history, as known at the end of the training data. head: the supervised
    head, which reads raw features and the evidence of forest and autoencoder; None without enough labels.
    """

    schema: Schema
    features: FeatureMap
    history: tuple[HistoryState, ...]
    forest: Forest
    autoencoder: Autoencoder
    calibration: Calibration
    threshold: Threshold
    head: Head | None = None
