"""The search space of a sweep, and the configuration of a trial.

The YAML is described in docs/sweeps.md; tuning/space/reader.py reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fraud.errors import ConfigError
from fraud.thresholds.selection import ThresholdConfig
from fraud.training.config import TrainConfig, from_mapping
from tuning.record.journal import Detector
from tuning.space.values import Parameter

ARCHITECTURE = ("depth", "width", "latent")
# Settings whose values one fit covers: forest sizes, epochs, and kinds of score.
COVERED = ("forest.n_estimators", "autoencoder.epochs", "autoencoder.score", "autoencoder.components")


@dataclass(frozen=True)
class Space:
    """A checked search space.

    name: of its file; text: the YAML. settings: the features.*, forest.* and autoencoder.* settings that a fit takes,
    the fixed ones too. forest_sizes: numbers of trees, ascending; score_kinds: {"autoencoder.score": ..} with
    "autoencoder.components" for density; epochs: the most a network trains; forest_weights: of the join;
    thresholds: every policy x setting x contamination; judge: the policy whose optimum compares them.
    """

    name: str
    text: str
    settings: tuple[Parameter, ...]
    forest_sizes: tuple[int, ...]
    score_kinds: tuple[dict[str, Any], ...]
    epochs: int
    forest_weights: tuple[float, ...]
    thresholds: tuple[ThresholdConfig, ...]
    judge: ThresholdConfig

    def parameters_of(self, detector: Detector) -> tuple[Parameter, ...]:
        """The settings that a trial of this detector samples: of features and detector, with more than one value.

        Raises ConfigError when there is none.
        """
        sampled = tuple(p for p in self.settings if not p.is_fixed and p.name.split(".")[0] in ("features", detector))
        if not sampled:
            other = "forest" if detector == "autoencoder" else "autoencoder"
            raise ConfigError(
                f"{self.name}: nothing to search for the {detector}, one fit covers every setting named: give a "
                f"setting of {detector!r} or 'features' several values, or sweep with --detector {other}"
            )
        return sampled

    def preprocessings(self, detector: Detector) -> tuple[dict[str, Any], ...]:
        """Every combination of the features' sampled settings, dotted; one empty one if none is sampled."""
        sampled = [p for p in self.parameters_of(detector) if p.name.startswith("features.")]
        combinations = itertools.product(*(p.choices for p in sampled))
        return tuple({p.name: value for p, value in zip(sampled, chosen, strict=True)} for chosen in combinations)

    def configure(self, base: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
        """The configuration of a trial: `base`, the space's fixed values, then `params`.

        params: dotted settings of the configuration, and autoencoder.depth, width and latent, which become `hidden`.
        Settings that one fit covers default to the largest forest, all epochs, and the first kind of score.
        Raises ConfigError for a setting unknown or out of range.
        """
        values: dict[str, Any] = {p.name: p.choices[0] for p in self.settings if p.is_fixed}
        values["forest.n_estimators"] = self.forest_sizes[-1]
        values["autoencoder.epochs"] = self.epochs
        if "autoencoder.score" not in params:
            values |= self.score_kinds[0]
        values |= params
        shape = {key: values.pop(f"autoencoder.{key}", None) for key in ARCHITECTURE}
        if shape["depth"] and shape["latent"] and (shape["width"] or shape["depth"] == 1):
            values["autoencoder.hidden"] = hidden_layers(shape["depth"], shape["width"], shape["latent"])
        elif any(f"autoencoder.{key}" in params for key in ARCHITECTURE):
            named = ", ".join(key for key in ARCHITECTURE if shape[key])
            raise ConfigError(f"an autoencoder's shape needs depth, width and latent, not {named} alone")
        raw = base.to_dict()
        for name, value in values.items():
            *sections, key = name.split(".")
            settings = raw
            for section in sections:
                settings = settings.setdefault(section, {})
            settings[key] = value
        return from_mapping(TrainConfig, raw, where=self.name)


def hidden_layers(depth: int, width: int, latent: int) -> list[int]:
    """Widths of the hidden layers: geometric steps from `width` down to `latent`; with depth 1 the latent alone."""
    if depth == 1:
        return [latent]
    inner = (round(width * (latent / width) ** (step / (depth - 1))) for step in range(1, depth - 1))
    return [width, *inner, latent]
