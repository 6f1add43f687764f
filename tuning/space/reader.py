"""Read a search space. A setting that is impossible or has no effect is refused with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fraud.configuration import Allowed, Count, Number, allowed, fields
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.features import FeatureConfig
from fraud.detectors.forest import TREES_A_GROUP, ForestConfig
from fraud.errors import ConfigError
from fraud.training.config import TrainConfig
from tuning.space import values as forms
from tuning.space.definition import ARCHITECTURE, COVERED, Space
from tuning.space.nodes import Node, compose
from tuning.space.thresholds import read_judge, read_thresholds
from tuning.space.values import Parameter

DEFAULT = Path(__file__).parents[1] / "spaces" / "default.yaml"
_SETTINGS = {
    section: {name: allowed(cls, name) for name in fields(cls)}
    for section, cls in (("features", FeatureConfig), ("forest", ForestConfig), ("autoencoder", AutoencoderConfig))
}
_SHAPE = {name: Allowed(Count) for name in ARCHITECTURE}
_FOREST_WEIGHT = Allowed(Annotated[Number, Field(ge=0, le=1)])
_ONLY_CHOICES = {
    "features": "transformed data is shared by all trials, so a range is not allowed: use choice",
    "forest.n_estimators": "one fit covers every size named, so a range is not allowed: use choice",
    "autoencoder.components": "one fit covers every number named, so a range is not allowed: use choice",
}
_DEFAULT_WEIGHTS = tuple(step / 20 for step in range(21))


def load(path: str | Path | None, base: TrainConfig) -> Space:
    """Read a file; None reads the default space. Raises ConfigError as `read` does, and when there is no file."""
    file = DEFAULT if path is None else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text: a search space is a YAML file") from None
    except OSError as error:
        raise ConfigError(f"no search space {str(file)!r} ({error.strerror}): name a YAML file") from None
    return read(text, file.name, base)


def read(text: str, name: str, base: TrainConfig) -> Space:
    """Read YAML text; what it does not name comes from `base`.

    Raises ConfigError with name and line for what is unknown, of the wrong type, impossible, or without effect.
    """
    sections = compose(text, name).mapping((*_SETTINGS, "forest_weight", "threshold"))
    nodes: dict[str, Node] = {}
    settings: dict[str, Parameter] = {}
    for section, known in _SETTINGS.items():
        if section in sections:
            known = known | _SHAPE if section == "autoencoder" else known
            for key, node in sections[section].mapping(known).items():
                nodes[node.name], settings[node.name] = node, _setting(node, section, known[key])
    _check_architecture(settings, nodes)
    return Space(
        name=name,
        text=text,
        settings=tuple(parameter for dotted, parameter in settings.items() if dotted not in COVERED),
        forest_sizes=_forest_sizes(settings, nodes, base),
        score_kinds=_score_kinds(settings, nodes, base),
        epochs=_epochs(settings, nodes, base),
        forest_weights=_weights(sections.get("forest_weight"), base),
        thresholds=read_thresholds(sections.get("threshold"), base.threshold),
        judge=read_judge(sections.get("threshold"), base.threshold),
    )


def _setting(node: Node, section: str, allowed: Allowed) -> Parameter:
    if node.name == "forest.contamination":
        raise node.error(
            "changes no score, only the threshold: put it under threshold, contamination: {choice: [0.001, 0.01]}"
        )
    only_choices = _ONLY_CHOICES.get(section) or _ONLY_CHOICES.get(node.name, "")
    return forms.parameter(node, allowed, only_choices=only_choices)


def _check_architecture(settings: dict[str, Parameter], nodes: dict[str, Node]) -> None:
    """Refuse impossible shapes, and shape settings without effect."""
    depth, width, latent = (settings.get(f"autoencoder.{key}") for key in ARCHITECTURE)
    named = [parameter for parameter in (depth, width, latent) if parameter]
    if not named:
        return
    if "autoencoder.hidden" in settings:
        also = " and ".join(parameter.name.split(".")[1] for parameter in named)
        raise nodes["autoencoder.hidden"].error(f"sets the same as {also} (line {named[0].line}): keep one of the two")
    if not depth or not latent:
        missing = "depth" if not depth else "latent"
        raise nodes[named[0].name].error(f"has no effect without {missing}: depth, width and latent go together")
    if depth.largest == 1:
        if width:
            raise nodes[width.name].error("has no effect with depth 1, where the latent layer is the only one")
    elif not width:
        raise nodes[depth.name].error("more than one layer needs width, the first layer's")
    elif latent.largest > width.smallest:
        raise nodes[latent.name].error(
            f"{latent.largest} is wider than the narrowest width, {width.smallest} (line {width.line}): the latent "
            "layer is the narrowest"
        )


def _forest_sizes(settings: dict[str, Parameter], nodes: dict[str, Node], base: TrainConfig) -> tuple[int, ...]:
    name = "forest.n_estimators"
    if name not in settings:
        return (base.forest.n_estimators,)
    sizes = tuple(sorted(settings[name].choices))
    for size in sizes[:-1]:
        if size % TREES_A_GROUP:
            raise nodes[name].error(
                f"{size} is not a multiple of {TREES_A_GROUP}: all sizes come from one fit, whose trees are grown in "
                f"groups of {TREES_A_GROUP}"
            )
    return sizes


def _score_kinds(
    settings: dict[str, Parameter], nodes: dict[str, Node], base: TrainConfig
) -> tuple[dict[str, Any], ...]:
    score, components = settings.get("autoencoder.score"), settings.get("autoencoder.components")
    rows = settings.get("autoencoder.mixture_rows")
    kinds = score.choices if score else (base.autoencoder.score,)
    for unused in (components, rows):
        if unused and "density" not in kinds:
            raise nodes[unused.name].error(
                f"has no effect without the score 'density', and the scores are {', '.join(kinds)}: remove it"
            )
    if rows and not rows.is_fixed:
        raise nodes[rows.name].error("only limits the time of a fit and is not searched: give one number")
    counts = components.choices if components else (base.autoencoder.components,)
    return tuple(
        {"autoencoder.score": kind} | ({"autoencoder.components": count} if kind == "density" else {})
        for kind in kinds
        for count in (counts if kind == "density" else counts[:1])
    )


def _epochs(settings: dict[str, Parameter], nodes: dict[str, Node], base: TrainConfig) -> int:
    name = "autoencoder.epochs"
    if name not in settings:
        return base.autoencoder.epochs
    if not settings[name].is_fixed:
        raise nodes[name].error("give one number, the most epochs: training passes through every smaller number")
    return int(settings[name].choices[0])


def _weights(node: Node | None, base: TrainConfig) -> tuple[float, ...]:
    if node is None:
        return _DEFAULT_WEIGHTS if base.forest_weight is None else (base.forest_weight,)
    return tuple(sorted(forms.values(node, _FOREST_WEIGHT)))
