"""Configuration is read strictly: unknown keys, wrong types and ranges are named; what is shipped loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraud.errors import ConfigError
from fraud.training.config import SHIPPED, TrainConfig, configure, from_mapping


def test_defaults_are_the_seeds() -> None:
    config = TrainConfig.load(None)
    assert config.forest.contamination == 0.06
    assert config.autoencoder.hidden == (16, 8)


@pytest.mark.parametrize("name", sorted(p.stem for p in SHIPPED.glob("*.yaml")))
def test_every_shipped_configuration_loads(name: str) -> None:
    assert TrainConfig.load(name) != TrainConfig()


def test_yaml_overrides_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\nautoencoder: {hidden: [32, 4], lr: 1e-3, noise: 0}\nthreshold: {policy: alert_budget}\n")
    config = TrainConfig.load(str(path))
    assert config.seed == 3
    assert config.autoencoder.hidden == (32, 4)
    assert config.autoencoder.lr == 0.001  # YAML 1.1 reads 1e-3 as text
    assert config.autoencoder.noise == 0.0
    assert config.threshold.policy == "alert_budget"
    assert config.forest == TrainConfig().forest


def test_round_trip_and_flat_names() -> None:
    config = TrainConfig.load("handbook")
    assert from_mapping(TrainConfig, config.to_dict()) == config
    assert config.flat()["autoencoder.hidden"] == (64, 32, 16)
    assert config.flat()["split.delay_days"] == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forrest: {}", "unknown key 'forrest'; did you mean 'forest'"),
        ("forest: {n_trees: 5}", "forest: unknown key 'n_trees'"),
        ("forest: 5", "forest: expected a mapping"),
        ("autoencoder: {lr: fast}", "autoencoder.lr='fast' must be a finite number above 0; the default is 0.001"),
        ("forest: {bootstrap: 3}", "forest.bootstrap=3 must be true or false"),
        ("autoencoder: {epochs: many}", "autoencoder.epochs='many' must be a whole number of 1 or more"),
        ("autoencoder: {epochs: true}", "autoencoder.epochs=True must be a whole number"),
        (
            "autoencoder: {hidden: []}",
            "autoencoder.hidden=[] must be a list of whole numbers of 1 or more; the default is [16, 8]",
        ),
        ("autoencoder: {hidden: [16, 0]}", "autoencoder.hidden=[16, 0] must be"),
        ("autoencoder: {noise: .inf}", "autoencoder.noise=inf must be a finite number"),
        ("head: {1: 2}", "head: unknown key '1'; known keys: use"),
        ("head:", "head: expected a mapping of settings, got None"),
        ("threshold: {policy: f1}", "threshold.policy='f1' must be one of f_beta"),
        ("threshold: {cost_false_positive: 0}", "bad.yaml: threshold.cost_false_positive=0 must be above"),
        ("forest_weight: 1.2", "forest_weight=1.2 must be a number in [0, 1] or null"),
        ("forest_weight: half", "bad.yaml: forest_weight='half' must be a number"),
        ("threshold: {contamination: 2}", "threshold.contamination=2 must be a number in (0, 1] or null"),
        ("alert_budget: 2", "alert_budget=2"),
        ("- a list", "expected a mapping"),
        ("a: [unclosed", "not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        TrainConfig.load(str(path))
    assert message in str(caught.value)


def test_missing_configuration_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="handbook"):
        TrainConfig.load("no-such-file.yaml")


def test_a_day_may_stand_without_quotes():
    days = {"train_start": "2018-05-30", "validation_start": "2018-06-04", "validation_end": "2018-06-06",
            "test_start": "2018-06-13", "test_end": "2018-06-20"}  # fmt: skip
    split = configure("handbook", None, [f"split.{name}={day}" for name, day in days.items()]).split
    assert {name: getattr(split, name) for name in days} == days
