"""Configuration classes: what they refuse, how they say it, and that they survive copies, JSON and Ray's pickles."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field
from ray import cloudpickle

from fraud.configuration import Allowed, Count, Flag, Number, Share, Whole, allowed, configuration, read_yaml
from fraud.errors import ConfigError
from fraud.training.config import TrainConfig, from_mapping


@configuration("inner")
class Inner:
    size: Count = 3
    rows: Count | Share | Literal["auto"] = "auto"
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (4, 2)
    is_on: Flag = False

    def __post_init__(self) -> None:
        if self.size > 100:
            raise ConfigError(f"inner.size={self.size} is more than the widths {self.widths} can take")


@configuration()
class Outer:
    seed: Whole = 7
    weight: Annotated[Number, Field(ge=0, lt=1)] | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_mappings_become_sections_and_lists_tuples() -> None:
    config = from_mapping(Outer, {"weight": 0, "inner": {"widths": [9], "rows": 0.5}})
    assert config == Outer(weight=0.0, inner=Inner(widths=(9,), rows=0.5))
    assert (type(config.weight), type(Inner(rows=1).rows), type(Inner(rows=1.0).rows)) == (float, int, float)
    assert from_mapping(Outer, json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sed": 1}, "file: unknown key 'sed'; did you mean 'seed'"),
        ({"inner": {"zzz": 1, "size": 0}}, "file: inner: unknown key 'zzz'; known keys: size, rows, widths, is_on"),
        ({1: 2}, "file: unknown key '1'"),
        ({"inner": {1: 2}}, "file: inner: unknown key '1'"),
        ({"inner": None}, "file: inner: expected a mapping of settings, got None"),
        ([], "file: expected a mapping of settings, got []"),
        ({"seed": True}, "file: seed=True must be a whole number; the default is 7"),
        ({"seed": 7.0}, "file: seed=7.0 must be a whole number"),
        ({"seed": "7"}, "file: seed='7' must be a whole number"),
        ({"weight": 1}, "file: weight=1 must be a number in [0, 1) or null; the default is null"),
        ({"weight": float("nan")}, "weight=nan must be a number in [0, 1)"),
        ({"weight": 10**400}, "... must be a number in [0, 1)"),
        ({"inner": {"size": 0}}, "inner.size=0 must be a whole number of 1 or more; the default is 3"),
        ({"inner": {"rows": 1.5}}, "inner.rows=1.5 must be a whole number of 1 or more, a number in (0, 1] or 'auto'"),
        (
            {"inner": {"widths": [3, 0]}},
            "widths=[3, 0] must be a list of whole numbers of 1 or more; the default is",
        ),
        ({"inner": {"widths": []}}, "inner.widths=[] must be"),
        ({"inner": {"is_on": 1}}, "inner.is_on=1 must be true or false"),
        ({"inner": {"size": 101}}, "file: inner.size=101 is more than the widths"),
    ],
)
def test_a_mistake_names_file_key_value_range_and_default(raw: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, raw, where="file")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


def test_the_class_itself_refuses_too() -> None:
    for make in (lambda: Inner(size=0), lambda: dataclasses.replace(Inner(), size=0), lambda: Inner(typo=1)):  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match="inner"):
            make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Inner().size = 4  # type: ignore[misc]


def test_configurations_survive_rays_pickles() -> None:
    config = from_mapping(TrainConfig, {"forest": {"max_samples": 64}, "autoencoder": {"hidden": [5]}})
    copy = cloudpickle.loads(cloudpickle.dumps(config))
    assert copy == config and hash(copy) == hash(config)
    with pytest.raises(ConfigError, match=r"forest\.n_estimators"):
        dataclasses.replace(copy.forest, n_estimators=0)


def test_what_is_allowed_in_words() -> None:
    assert allowed(Outer, "weight").words == "a number in [0, 1) or null"
    assert allowed(Inner, "rows").number_types == {int, float}
    assert allowed(Inner, "is_on").number_types == set()
    assert Allowed(Annotated[Number, Field(gt=0)]).words == "a finite number above 0"
    assert Allowed(tuple[Literal["a", "b"], ...]).words == "a list, each one of a, b"
    assert Allowed(tuple[str, ...]).words == "a list of texts"


def test_yaml_numbers_with_an_exponent() -> None:
    assert read_yaml("[1e-3, -2E+4, .5e1, 7e0]") == [0.001, -20000.0, 5.0, 7.0]
    assert read_yaml("['1e-3', 1e, e5, 0x1e, 2018-01-02e3]") == ["1e-3", "1e", "e5", 30, "2018-01-02e3"]
    assert read_yaml("9" * 4000 + "e") == "9" * 4000 + "e"
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.system [ls]")


def test_serving_does_not_load_the_training_configuration() -> None:
    code = "import sys, serve_app.app; sys.exit('fraud.training.config' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
