"""Read a search space and refuse what cannot be, or would do nothing, with the line of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fraud.detectors.forest import TREES_A_GROUP
from fraud.errors import ConfigError
from fraud.training.config import TrainConfig
from tuning.space import values as forms
from tuning.space.definition import ARCHITECTURE, COVERED, Space
from tuning.space.nodes import Node, compose
from tuning.space.thresholds import read_judge, read_thresholds
from tuning.space.values import FLAG, NUMBER, ROWS, TEXT, TEXTS, WHOLE, WHOLES, Check, Parameter, Type

DEFAULT = Path(__file__).parents[1] / "spaces" / "default.yaml"
_SETTINGS: dict[str, dict[str, Type]] = {
    "features": {"scaling": TEXT, "clip": NUMBER, "max_categories": WHOLE, "head_only": TEXTS},
    "forest": {"n_estimators": WHOLE, "max_samples": ROWS, "max_features": NUMBER, "bootstrap": FLAG},
    "autoencoder": {
        "hidden": WHOLES, "depth": WHOLE, "width": WHOLE, "latent": WHOLE, "activation": TEXT, "dropout": NUMBER,
        "noise": NUMBER, "mask": NUMBER, "lr": NUMBER, "weight_decay": NUMBER, "batch_size": WHOLE, "epochs": WHOLE,
        "patience": WHOLE, "score": TEXT, "components": WHOLE, "mixture_rows": WHOLE,
    },
}  # fmt: skip
_ONLY_CHOICES = {
    "features": "transformed data is shared by all trials, so a range has no place here: use choice",
    "forest.n_estimators": "one fit covers every size named, so a range has no place here: use choice",
    "autoencoder.components": "one fit covers every number named, so a range has no place here: use choice",
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
    nodes = {
        f"{section}.{key}": node
        for section, known in _SETTINGS.items()
        if section in sections
        for key, node in _named(sections[section], known).items()
    }
    found = {dotted: _setting(node, base) for dotted, node in nodes.items()}
    _check_architecture(found, nodes)
    return Space(
        name=name,
        text=text,
        settings=tuple(parameter for dotted, parameter in found.items() if dotted not in COVERED),
        forest_sizes=_forest_sizes(found, nodes, base),
        score_kinds=_score_kinds(found, nodes, base),
        epochs=_epochs(found, nodes, base),
        forest_weights=_weights(sections.get("forest_weight"), base),
        thresholds=read_thresholds(sections.get("threshold"), base.threshold),
        judge=read_judge(sections.get("threshold"), base.threshold),
    )


def _named(section: Node, known: dict[str, Type]) -> dict[str, Node]:
    found = section.mapping((*known, "contamination") if section.name == "forest" else known)
    if "contamination" in found:
        raise found["contamination"].error(
            "moves no score, it only moves the cut: name it under threshold, contamination: {choice: [0.001, 0.01]}"
        )
    return found


def _setting(node: Node, base: TrainConfig) -> Parameter:
    section, key = node.name.split(".")
    why = _ONLY_CHOICES.get(section) or _ONLY_CHOICES.get(node.name, "")
    return forms.parameter(node, _SETTINGS[section][key], _check(section, key, base), only_choices=why)


def _check(section: str, key: str, base: TrainConfig) -> Check:
    """What refuses a value as the training configuration does."""
    if section == "autoencoder" and key in ARCHITECTURE:
        return _at_least_one
    part: Any = getattr(base, section)
    return lambda value: replace(part, **{key: value})


def _at_least_one(value: int) -> None:
    if value < 1:
        raise ConfigError(f"{value} must be 1 or more")


def _check_architecture(found: dict[str, Parameter], nodes: dict[str, Node]) -> None:
    """Refuse shapes that cannot be built and settings of the shape that would do nothing."""
    depth, width, latent = (found.get(f"autoencoder.{key}") for key in ARCHITECTURE)
    named = [parameter for parameter in (depth, width, latent) if parameter]
    if not named:
        return
    if "autoencoder.hidden" in found:
        also = " and ".join(parameter.name.split(".")[1] for parameter in named)
        raise nodes["autoencoder.hidden"].error(f"says the same as {also} (line {named[0].line}): keep one of the two")
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


def _forest_sizes(found: dict[str, Parameter], nodes: dict[str, Node], base: TrainConfig) -> tuple[int, ...]:
    name = "forest.n_estimators"
    if name not in found:
        return (base.forest.n_estimators,)
    sizes = tuple(sorted(found[name].choices))
    for size in sizes[:-1]:
        if size % TREES_A_GROUP:
            raise nodes[name].error(
                f"{size} is no multiple of {TREES_A_GROUP}: all sizes come from one fit, whose trees are grown in "
                f"groups of {TREES_A_GROUP}"
            )
    return sizes


def _score_kinds(found: dict[str, Parameter], nodes: dict[str, Node], base: TrainConfig) -> tuple[dict[str, Any], ...]:
    score, components = found.get("autoencoder.score"), found.get("autoencoder.components")
    rows = found.get("autoencoder.mixture_rows")
    kinds = score.choices if score else (base.autoencoder.score,)
    for idle in (components, rows):
        if idle and "density" not in kinds:
            raise nodes[idle.name].error(
                f"has no effect without the score 'density', and the scores are {', '.join(kinds)}: remove it"
            )
    if rows and not rows.is_fixed:
        raise nodes[rows.name].error(
            "it bounds how long a fit takes, it is no choice between detectors: give one number"
        )
    counts = components.choices if components else (base.autoencoder.components,)
    return tuple(
        {"autoencoder.score": kind} | ({"autoencoder.components": count} if kind == "density" else {})
        for kind in kinds
        for count in (counts if kind == "density" else counts[:1])
    )


def _epochs(found: dict[str, Parameter], nodes: dict[str, Node], base: TrainConfig) -> int:
    name = "autoencoder.epochs"
    if name not in found:
        return base.autoencoder.epochs
    if not found[name].is_fixed:
        raise nodes[name].error("give the most, one number: training passes through every smaller one")
    return int(found[name].choices[0])


def _weights(node: Node | None, base: TrainConfig) -> tuple[float, ...]:
    if node is None:
        return _DEFAULT_WEIGHTS if base.forest_weight is None else (base.forest_weight,)
    return tuple(sorted(forms.values(node, NUMBER, _share)))


def _share(value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{value:g} must be in [0, 1]: 0 leaves the forest out, 1 the autoencoder")
