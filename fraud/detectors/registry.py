"""All detectors, in the order of their output columns."""

from __future__ import annotations

from fraud.detectors.autoencoder_score import Autoencoder
from fraud.detectors.base import Fitted, column_of
from fraud.detectors.forest import Forest
from fraud.detectors.head import Head

# Add new detectors before the head, which reads the evidence of the first two.
DETECTORS: tuple[type[Fitted], ...] = (Forest, Autoencoder, Head)
_FITTED_BY_NAME = (Forest, Autoencoder, Head)  # in fraud/training/fitting.py, with their own settings


def score_columns(*, with_optional: bool = True) -> tuple[str, ...]:
    """The score columns of all detectors, or of those that every model has."""
    return tuple(column_of(cls.name) for cls in DETECTORS if with_optional or not cls.is_optional)


def extra_detectors() -> tuple[type[Fitted], ...]:
    """Detectors other than forest, autoencoder and head."""
    return tuple(cls for cls in DETECTORS if cls not in _FITTED_BY_NAME)
