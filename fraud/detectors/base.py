"""The interface of a fitted detector: a frozen dataclass of arrays that scores rows.

To add one, write a subclass of `Fitted` with a `fit`, and add it to fraud/detectors/registry.py. Training then fits it,
and its score is in the bundle, every answer and every table. Example: tests/fraud/detectors/hbos.py.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np


class Stored:
    """A frozen dataclass that a bundle saves field by field."""

    def arrays(self) -> dict[str, Any]:
        """{field: array or JSON value}."""
        return {name: getattr(self, name) for name in _field_names(type(self))}

    @classmethod
    def from_arrays(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `arrays`. Raises KeyError for a missing field."""
        return cls(**{name: values[name] for name in _field_names(cls)})


class Fitted(Stored, ABC):
    """A fitted detector.

    name: in configurations, bundles and metrics. title: in documentation. needs_labels: whether it learns from frauds;
    such a detector is last, since it reads the others' evidence. is_optional: whether a model may lack it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    example: ClassVar[float] = 0.95
    needs_labels: ClassVar[bool] = False
    is_optional: ClassVar[bool] = True

    @classmethod
    def fit(cls, X: np.ndarray, seed: int) -> Self:
        """Fit on rows not known as fraud, float32 (n_rows, n_inputs).

        Only for detectors that training knows only from the registry.
        """
        raise NotImplementedError(f"{cls.name} is fitted by a function of its own")

    @abstractmethod
    def score(self, X: np.ndarray) -> np.ndarray:
        """Raw score, float64 (n_rows,); higher is more suspicious. X: float32 (n_rows, n_inputs).

        A row's score must not depend on the other rows, to the last bit.
        """

    @abstractmethod
    def is_sound(self, n_inputs: int) -> bool:
        """Whether the arrays of a loaded bundle are consistent. Compiled loops do not check bounds."""


def column_of(name: str) -> str:
    """The output column of a detector's score."""
    return f"{name}_score"


def _field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]
