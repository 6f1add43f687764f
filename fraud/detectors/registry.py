"""The list of detectors, in the order of their scores in every output."""

from __future__ import annotations

from fraud.detectors.autoencoder_score import Autoencoder
from fraud.detectors.base import Fitted, column_of
from fraud.detectors.forest import Forest
from fraud.detectors.head import Head

# A new detector goes before the head, which reads what the first two say.
DETECTORS: tuple[type[Fitted], ...] = (Forest, Autoencoder, Head)
_FITTED_BY_NAME = (Forest, Autoencoder, Head)  # in fraud/training/fitting.py, each with settings of its own


def score_columns(*, with_optional: bool = True) -> tuple[str, ...]:
    """The score column of every detector, or of those that every model has."""
    return tuple(column_of(cls.name) for cls in DETECTORS if with_optional or not cls.is_optional)


def further() -> tuple[type[Fitted], ...]:
    """Detectors beside the shipped ones."""
    return tuple(cls for cls in DETECTORS if cls not in _FITTED_BY_NAME)
