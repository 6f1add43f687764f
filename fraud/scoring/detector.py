"""The fitted model: everything that turns a transaction into a score and a decision, as plain arrays."""

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
    """A fitted model. `fraud.scoring.engine.Engine` scores with it, `fraud.scoring.bundle` saves and loads it.

    history: one state per entry of schema.history, as known at the end of the training data. components: the fitted
    detectors in the order of fraud.detectors.registry: forest, autoencoder, further ones, and the supervised head where
    labels suffice. Every output's columns follow from them.
    """

    schema: Schema
    features: FeatureMap
    history: tuple[HistoryState, ...]
    components: tuple[Fitted, ...]
    calibration: Calibration
    threshold: Threshold

    @property
    def forest(self) -> Forest:
        """The isolation forest."""
        return cast(Forest, self.components[0])

    @property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder."""
        return cast(Autoencoder, self.components[1])

    @property
    def without_labels(self) -> tuple[Fitted, ...]:
        """The components that no label has taught."""
        return tuple(component for component in self.components if not component.needs_labels)

    @property
    def head(self) -> Head | None:
        """The supervised head, None without one."""
        last = self.components[-1]
        return last if isinstance(last, Head) else None

    @property
    def score_columns(self) -> tuple[str, ...]:
        """The score column of each component."""
        return tuple(column_of(component.name) for component in self.components)

    @property
    def evidence_names(self) -> tuple[str, ...]:
        """Names of the columns of `Engine.evidence`, in the order of calculation; the last one decides.

        With a head, "label_light" is what the components without labels say together.
        """
        names = tuple(component.name for component in self.without_labels)
        return (*names, JOINED) if self.head is None else (*names, LABEL_LIGHT, self.head.name, JOINED)
