"""Read the values of a setting: choice, range, grid or a single value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from fraud.configuration import Allowed, Number, Whole, shortened
from tuning.space.nodes import Node

_WHOLE_RANGES = ("int", "log_int")
RANGES = ("uniform", "log", *_WHOLE_RANGES)
LARGEST_GRID = 5_000
_LARGEST_WHOLE = 2**31 - 1

_WHOLE, _NUMBER = Allowed(Whole), Allowed(Number)


@dataclass(frozen=True)
class Parameter:
    """One setting of the space.

    name: dotted, as in the training configuration, e.g. "autoencoder.lr". kind "choice": one of `choices`, JSON values
    (a list stays a list); a single one is fixed. "float", "int": from low to high, both included, by their logarithm
    when `log`. line: of the file, for messages.
    """

    name: str
    kind: Literal["choice", "float", "int"]
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    line: int = 0

    @property
    def is_fixed(self) -> bool:
        return len(self.choices) == 1

    @property
    def smallest(self) -> Any:
        """The least value it can take (of numbers)."""
        return self.low if self.low is not None else min(self.choices)

    @property
    def largest(self) -> Any:
        """The greatest value it can take (of numbers)."""
        return self.high if self.high is not None else max(self.choices)


def parameter(node: Node, allowed: Allowed, *, only_choices: str = "") -> Parameter:
    """Read a setting to sample.

    only_choices: why ranges are refused, where they are. Raises ConfigError with the line of the wrong value.
    """
    if not node.is_mapping:
        return Parameter(node.name, "choice", (_value(node, allowed),), line=node.line)
    form, content = _form(node, ("choice", *RANGES))
    if form == "choice":
        return Parameter(node.name, "choice", _choices(content, allowed), line=node.line)
    if only_choices:
        raise content.error(only_choices)
    low, high = _ends(content, _exactly(content, 2, "[low, high]"), form, allowed)
    kind: Literal["int", "float"] = "int" if form.endswith("int") else "float"
    return Parameter(node.name, kind, low=low, high=high, log=form.startswith("log"), line=node.line)


def values(node: Node, allowed: Allowed) -> tuple[Any, ...]:
    """Read a setting of which every value is tried: bare, choice, {grid: [low, high, count]}, or a range with steps.

    Raises ConfigError with the line of the wrong value.
    """
    if not node.is_mapping:
        return (_value(node, allowed),)
    form, content = _form(node, ("choice", "grid", *RANGES), beside="steps")
    if form == "choice":
        return _choices(content, allowed)
    if form == "grid":
        form = "uniform" if float in allowed.number_types else "int"
        *ends, count = _exactly(content, 3, "[low, high, count]")
    else:
        ends = _exactly(content, 2, "[low, high]")
        steps = node.mapping(("steps", form)).get("steps")
        if steps is None:
            raise content.error(
                f"every value is tried here: add the number of steps, {{{form}: [low, high], steps: 20}}"
            )
        count = steps
    n_steps: int = _value(count, _WHOLE)
    if not 2 <= n_steps <= LARGEST_GRID:
        raise count.error(f"{n_steps} steps: give 2 to {LARGEST_GRID:,}")
    low, high = _ends(content, ends, form, allowed)
    steps_between = tuple(dict.fromkeys(_between(low, high, n_steps, form)))
    if len(steps_between) < n_steps:
        raise content.error(f"{n_steps} steps do not fit between {low} and {high}: give {len(steps_between)} or fewer")
    return steps_between


def _value(node: Node, allowed: Allowed) -> Any:
    """The value as the configuration stores it; a tuple as a list, as JSON has it."""
    raw = node.value()
    if int in allowed.number_types and isinstance(raw, int) and abs(raw) > _LARGEST_WHOLE:
        raise node.error(f"{shortened(raw)} is too large")
    try:
        value = allowed.take(raw)
    except ValueError:
        remedy = f"; for several values write {{choice: {shortened(raw)}}}"
        is_one_value = isinstance(raw, list) and "list" not in allowed.words
        raise node.error(f"{shortened(raw)} must be {allowed.words}{remedy if is_one_value else ''}") from None
    return list(value) if isinstance(value, tuple) else value


def _form(node: Node, forms: tuple[str, ...], beside: str = "") -> tuple[str, Node]:
    """The name of the form that a mapping uses, and its content."""
    children = node.mapping((*forms, beside) if beside else forms)
    named = [name for name in children if name != beside]
    if len(named) != 1:
        raise node.error(f"give one of {', '.join(forms)}" + (f", not {' and '.join(named)}" if named else ""))
    if beside in children and named[0] not in RANGES:
        raise children[beside].error(f"belongs to a range ({', '.join(RANGES)}): remove it")
    return named[0], replace(children[named[0]], name=node.name)


def _choices(node: Node, allowed: Allowed) -> tuple[Any, ...]:
    items = node.items()
    if not items:
        raise node.error("empty choice: list at least one value")
    choices: dict[str, Any] = {}
    for item in items:
        value = _value(item, allowed)
        if repr(value) in choices:
            raise item.error(f"{shortened(value)} is listed twice: keep one")
        choices[repr(value)] = value
    return tuple(choices.values())


def _exactly(node: Node, count: int, shape: str) -> list[Node]:
    items = node.items()
    if len(items) != count:
        raise node.error(f"{shape} belongs here, not a list of {len(items)}")
    return items


def _ends(node: Node, ends: list[Node], form: str, allowed: Allowed) -> tuple[float, float]:
    forms = RANGES if float in allowed.number_types else _WHOLE_RANGES if allowed.number_types else ()
    if form not in forms:
        remedy = f"use {' or '.join(forms)}" if forms else "use choice"
        raise node.error(f"{form} does not suit {allowed.words}: {remedy}")
    low, high = (_value(end, _WHOLE if form in _WHOLE_RANGES else _NUMBER) for end in ends)
    if not low < high:
        raise node.error(f"low {low:g} is not below high {high:g}")
    if form.startswith("log") and low <= 0:
        raise node.error(f"low {low:g} has no logarithm: give a low above 0")
    for end, value in zip(ends, (low, high), strict=True):
        try:
            allowed.take(value)
        except ValueError:
            raise end.error(f"{value} must be {allowed.words}") from None
    return low, high


def _between(low: float, high: float, count: int, form: str) -> list[float]:
    shares = [step / (count - 1) for step in range(count)]
    if form.startswith("log"):
        inner = [math.exp(math.log(low) * (1 - share) + math.log(high) * share) for share in shares[1:-1]]
    else:
        inner = [low * (1 - share) + high * share for share in shares[1:-1]]
    if form.endswith("int"):
        return [low, *(round(value) for value in inner), high]
    return [low, *(float(f"{value:.6g}") for value in inner), high]
