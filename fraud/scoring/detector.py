"""The fitted model as plain arrays: features, detectors, calibration and threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fraud.detectors.autoencoder_score import Autoencoder
from fraud.detectors.base import Fitted, column_of
from fraud.detectors.calibration import Calibration
from fraud.detectors.features import FeatureMap
from fraud.detectors.forest import Forest
from fraud.detectors.head import Head
from fraud.history.state import HistoryState
from fraud.schema import Schema
from fraud.thresholds.selection import Threshold

JOINED, LABEL_LIGHT = "joined", "label_light"


@dataclass(frozen=True)
class Detector:
    """A fitted model. `fraud.scoring.engine.Engine` scores with it; `fraud.scoring.bundle` saves and loads it.

    history: one state per entry of schema.history, at the end of the training data. components: the fitted detectors in
    the order of fraud.detectors.registry: forest, autoencoder, extra ones, and the supervised head if there are enough
    labels. They determine the output columns.
    """

    schema: Schema
    features: FeatureMap
    history: tuple[HistoryState, ...]
    components: tuple[Fitted, ...]
    calibration: Calibration
    threshold: Threshold

    @property
    def forest(self) -> Forest:
        return cast(Forest, self.components[0])

    @property
    def autoencoder(self) -> Autoencoder:
        return cast(Autoencoder, self.components[1])

    @property
    def without_labels(self) -> tuple[Fitted, ...]:
        """The components that are not fitted on labels."""
        return tuple(component for component in self.components if not component.needs_labels)

    @property
    def head(self) -> Head | None:
        """The supervised head, or None."""
        last = self.components[-1]
        return last if isinstance(last, Head) else None

    @property
    def score_columns(self) -> tuple[str, ...]:
        """The score column of each component."""
        return tuple(column_of(component.name) for component in self.components)

    @property
    def evidence_names(self) -> tuple[str, ...]:
        """Column names of `Engine.evidence`, in order of calculation; the last one decides.

        With a head, "label_light" is the joint evidence of the components without labels.
        """
        names = tuple(component.name for component in self.without_labels)
        return (*names, JOINED) if self.head is None else (*names, LABEL_LIGHT, self.head.name, JOINED)
