"""What a training does: one YAML, read strictly into frozen dataclasses that live beside the code they configure."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.features import FeatureConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import ConfigError
from fraud.thresholds.policies import is_number
from fraud.thresholds.selection import ThresholdConfig

T = TypeVar("T")
SHIPPED = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The whole configuration of a training; every part is documented on its own class.

    seed: seeds the forest, the autoencoder, the head, the bootstrap. alert_budget: share of rows that analysts can look
    at, for the metric recall_at_budget and the default threshold when there are no labels. forest_weight: weight of the
    forest's evidence beside the autoencoder's, in [0, 1]; None: the one that validation labels favour, else one half.
    """

    seed: int = 7
    alert_budget: float = 0.01
    forest_weight: float | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    forest: ForestConfig = field(default_factory=ForestConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    threshold: ThresholdConfig = field(default_factory=lambda: ThresholdConfig(policy="best_f1"))

    def __post_init__(self) -> None:
        if not 0 < self.alert_budget < 1:
            raise ConfigError(f"alert_budget={self.alert_budget!r} must be a share in (0, 1), e.g. 0.01")
        if self.forest_weight is not None and not (is_number(self.forest_weight) and 0 <= self.forest_weight <= 1):
            raise ConfigError(
                f"forest_weight={self.forest_weight!r} must be a number in [0, 1], or null for the best on validation"
            )

    @classmethod
    def load(cls, path_or_name: str | None) -> TrainConfig:
        """Read a YAML file, or a shipped one by name ("handbook", "ulb"); None gives the defaults.

        Raises ConfigError naming the key that is unknown or out of range.
        """
        if path_or_name is None:
            return cls()
        path = Path(path_or_name)
        if not path.suffix:
            path = SHIPPED / f"{path_or_name}.yaml"
        try:
            raw = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
            raise ConfigError(f"no configuration {path_or_name!r}: give a YAML file or one of {known}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from None
        return from_mapping(cls, raw or {}, where=path.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as `from_mapping` takes it."""
        return dataclasses.asdict(self)

    def flat(self) -> dict[str, Any]:
        """One level, dotted keys, for MLflow parameters."""
        return _flatten(self.to_dict())


def configure(path_or_name: str | None, seed: int | None, overrides: Sequence[str]) -> TrainConfig:
    """The YAML, then `--set section.key=value`, then `--seed`. Raises ConfigError naming the key."""
    raw = TrainConfig.load(path_or_name).to_dict()
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: write section.key=value, e.g. --set autoencoder.epochs=5")
        *sections, key = path.strip().split(".")
        place = raw
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {override}: {section!r} is a value, not a section")
        try:
            place[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override}: {text!r} is not a YAML value; quote it") from None
    if seed is not None:
        raw["seed"] = seed
    return from_mapping(TrainConfig, raw, where="--set" if overrides else "configuration")


def from_mapping(cls: type[T], raw: Mapping[str, Any], where: str = "configuration") -> T:
    """Build a (nested) frozen config dataclass; ConfigError on an unknown key or a value of the wrong type."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping of settings, got {raw!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(fields)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
        default = _default(fields[key])
        if dataclasses.is_dataclass(default):
            values[key] = from_mapping(type(default), value, where=f"{where}: {key}")
        elif isinstance(default, bool) is not isinstance(value, bool) and default is not None:
            raise ConfigError(f"{where}: {key}={value!r} has the wrong type; the default is {default!r}")
        elif isinstance(default, tuple) and isinstance(value, list):
            values[key] = tuple(value)
        elif isinstance(default, float) and isinstance(value, int | str):
            values[key] = _number(value, f"{where}: {key}")  # YAML reads 1e-3 as text
        else:
            # YAML reads an unquoted day as a date.
            values[key] = value.isoformat() if isinstance(value, dt.date) else value
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: a value has the wrong type ({error})") from None


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _number(value: int | str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{where}={value!r} is not a number") from None


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
