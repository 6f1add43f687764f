"""Training configuration: one YAML, read strictly into frozen dataclasses beside the code they configure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field

from fraud.configuration import Number, Whole, configuration, read_yaml
from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.features import FeatureConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import ConfigError
from fraud.thresholds.selection import ThresholdConfig

T = TypeVar("T")
SHIPPED = Path(__file__).parents[1] / "configs"


@configuration()
class TrainConfig:
    """Configuration of a training. Each section is documented on its class.

    seed: seeds the forest, the autoencoder, the head, the bootstrap. alert_budget: share of rows that analysts can
    review, for the metric recall_at_budget and the default threshold without labels. forest_weight: weight of the
    forest's evidence against the autoencoder's; None: the best on validation labels, or 0.5 without labels.
    """

    seed: Whole = 7
    alert_budget: Annotated[Number, Field(gt=0, lt=1)] = 0.01
    forest_weight: Annotated[Number, Field(ge=0, le=1)] | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    forest: ForestConfig = field(default_factory=ForestConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    threshold: ThresholdConfig = field(default_factory=lambda: ThresholdConfig(policy="best_f1"))

    @classmethod
    def load(cls, path_or_name: str | None) -> TrainConfig:
        """Read a YAML file or a shipped one (`shipped_configs`); None gives the defaults.

        Raises ConfigError naming the key.
        """
        if path_or_name is None:
            return cls()
        path = Path(path_or_name)
        if not path.suffix:
            path = SHIPPED / f"{path_or_name}.yaml"
        try:
            raw = read_yaml(path.read_text())
        except FileNotFoundError:
            known = ", ".join(shipped_configs())
            raise ConfigError(f"no configuration {path_or_name!r}: give a YAML file or one of {known}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from None
        return from_mapping(cls, raw or {}, where=path.name)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict, for `from_mapping`."""
        return dataclasses.asdict(self)

    def flat(self) -> dict[str, Any]:
        """Flat dict with dotted keys, for MLflow parameters."""
        return _flatten(self.to_dict())


def shipped_configs() -> tuple[str, ...]:
    """Names of the configurations in the package, sorted."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def configure(path_or_name: str | None, seed: int | None, overrides: Sequence[str]) -> TrainConfig:
    """Merge the YAML, then `--set section.key=value`, then `--seed`. Raises ConfigError naming the key."""
    raw = TrainConfig.load(path_or_name).to_dict()
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: write section.key=value, e.g. --set autoencoder.epochs=5")
        *sections, key = path.strip().split(".")
        values = raw
        for section in sections:
            values = values.setdefault(section, {})
            if not isinstance(values, dict):
                raise ConfigError(f"--set {override}: {section!r} is a value, not a section")
        try:
            values[key] = read_yaml(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override}: {text!r} is not a YAML value; quote it") from None
    if seed is not None:
        raw["seed"] = seed
    return from_mapping(TrainConfig, raw, where="--set" if overrides else "configuration")


def from_mapping(cls: type[T], raw: object, where: str = "configuration") -> T:
    """Make a configuration from a mapping. Raises ConfigError; the message begins with `where`."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, got {raw!r}")
    try:
        return cls(**{str(key): value for key, value in raw.items()})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
