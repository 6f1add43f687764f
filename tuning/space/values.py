"""The forms in which a search space gives values, read and checked one by one: choice, ranges, grids, a bare value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fraud.errors import ConfigError
from tuning.space.nodes import Node

RANGES = ("uniform", "log", "int", "log_int")
LARGEST_GRID = 5_000
_LARGEST_WHOLE = 2**31 - 1

# Raises ConfigError where the configuration refuses a value.
Check = Callable[[Any], object]


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
        """Whether there is nothing to choose."""
        return len(self.choices) == 1

    @property
    def smallest(self) -> Any:
        """The least value it can take (of numbers)."""
        return self.low if self.low is not None else min(self.choices)

    @property
    def largest(self) -> Any:
        """The greatest value it can take (of numbers)."""
        return self.high if self.high is not None else max(self.choices)


@dataclass(frozen=True)
class Type:
    """What a setting's values are. words: for messages; take: the value as the configuration wants it, or ValueError.

    ranges: the forms of RANGES that make sense for it.
    """

    words: str
    take: Callable[[Any], Any]
    ranges: tuple[str, ...] = ()


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    if abs(value) > _LARGEST_WHOLE:
        raise OverflowError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _list_of(take: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def each(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError
        return [take(item) for item in value]

    return each


def _rows(value: Any) -> int | float | str:
    if isinstance(value, str):
        return value
    return _whole(value) if isinstance(value, int) else _number(value)


WHOLE = Type("a whole number", _whole, ("int", "log_int"))
NUMBER = Type("a finite number", _number, RANGES)
ROWS = Type("a count, a share or 'auto'", _rows, RANGES)
TEXT = Type("a text", _text)
FLAG = Type("true or false", _flag)
WHOLES = Type("a list of whole numbers, such as [16, 8]", _list_of(_whole))
TEXTS = Type("a list of texts", _list_of(_text))


def optional(type_: Type) -> Type:
    """The same, or null."""
    return Type(f"{type_.words} or null", lambda value: None if value is None else type_.take(value), type_.ranges)


def parameter(node: Node, type_: Type, check: Check, *, only_choices: str = "") -> Parameter:
    """Read a setting to sample.

    only_choices: why ranges are refused, where they are. Raises ConfigError with the line of the wrong value.
    """
    if not node.is_mapping:
        return Parameter(node.name, "choice", (_value(node, type_, check),), line=node.line)
    form, given = _form(node, ("choice", *RANGES))
    if form == "choice":
        return Parameter(node.name, "choice", _choices(given, type_, check), line=node.line)
    if only_choices:
        raise given.error(only_choices)
    low, high = _ends(given, _exactly(given, 2, "[low, high]"), form, type_, check)
    kind: Literal["int", "float"] = "int" if form.endswith("int") else "float"
    return Parameter(node.name, kind, low=low, high=high, log=form.startswith("log"), line=node.line)


def values(node: Node, type_: Type, check: Check) -> tuple[Any, ...]:
    """Read a setting of which every value is tried: bare, choice, {grid: [low, high, count]}, or a range with steps.

    Raises ConfigError with the line of the wrong value.
    """
    if not node.is_mapping:
        return (_value(node, type_, check),)
    form, given = _form(node, ("choice", "grid", *RANGES), beside="steps")
    if form == "choice":
        return _choices(given, type_, check)
    if form == "grid":
        form = "int" if type_.take is _whole else "uniform"
        *ends, count = _exactly(given, 3, "[low, high, count]")
    else:
        ends = _exactly(given, 2, "[low, high]")
        steps = node.mapping(("steps", form)).get("steps")
        if steps is None:
            raise given.error(f"every value is tried here: say how many, {{{form}: [low, high], steps: 20}}")
        count = steps
    how_many: int = _value(count, WHOLE, _take_any)
    if not 2 <= how_many <= LARGEST_GRID:
        raise count.error(f"{how_many} steps: give 2 to {LARGEST_GRID:,}")
    low, high = _ends(given, ends, form, type_, check)
    found = tuple(dict.fromkeys(_between(low, high, how_many, form)))
    if len(found) < how_many:
        raise given.error(f"{how_many} steps do not fit between {low} and {high}: give {len(found)} or fewer")
    return found


def _value(node: Node, type_: Type, check: Check) -> Any:
    raw = node.value()
    try:
        value = type_.take(raw)
    except OverflowError:
        raise node.error(f"{_short(raw)} is too large") from None
    except ValueError:
        remedy = f"; for several values write {{choice: {_short(raw)}}}" if isinstance(raw, list) else ""
        raise node.error(f"{_short(raw)} has the wrong type, it must be {type_.words}{remedy}") from None
    try:
        check(value)
    except ConfigError as error:
        raise node.error(str(error).removeprefix(f"{node.name}=")) from None
    return value


def _take_any(_: Any) -> None:
    """Where the value's own check comes later."""


def _form(node: Node, forms: tuple[str, ...], beside: str = "") -> tuple[str, Node]:
    found = node.mapping((*forms, beside) if beside else forms)
    named = [name for name in found if name != beside]
    if len(named) != 1:
        raise node.error(f"give one of {', '.join(forms)}" + (f", not {' and '.join(named)}" if named else ""))
    if beside in found and named[0] not in RANGES:
        raise found[beside].error(f"belongs to a range ({', '.join(RANGES)}): remove it")
    return named[0], Node(node.file, node.name, found[named[0]].line, found[named[0]].yaml)


def _choices(node: Node, type_: Type, check: Check) -> tuple[Any, ...]:
    items = node.items()
    if not items:
        raise node.error("empty choice: list at least one value")
    found: dict[str, tuple[Any, Node]] = {}
    for item in items:
        value = _value(item, type_, check)
        if repr(value) in found:
            raise item.error(f"{_short(value)} is listed twice: keep one")
        found[repr(value)] = value, item
    return tuple(value for value, _ in found.values())


def _exactly(node: Node, count: int, shape: str) -> list[Node]:
    items = node.items()
    if len(items) != count:
        raise node.error(f"{shape} belongs here, not a list of {len(items)}")
    return items


def _ends(node: Node, ends: list[Node], form: str, type_: Type, check: Check) -> tuple[float, float]:
    if form not in type_.ranges:
        remedy = f"use {' or '.join(type_.ranges)}" if type_.ranges else "use choice"
        raise node.error(f"{form} does not suit {type_.words}: {remedy}")
    wanted = WHOLE if form.endswith("int") else NUMBER
    low, high = (_value(end, wanted, _take_any) for end in ends)
    if not low < high:
        raise node.error(f"low {low:g} is not below high {high:g}")
    if form.startswith("log") and low <= 0:
        raise node.error(f"low {low:g} has no logarithm: give a low above 0")
    return _value(ends[0], wanted, check), _value(ends[1], wanted, check)


def _between(low: float, high: float, count: int, form: str) -> list[float]:
    shares = [step / (count - 1) for step in range(count)]
    if form.startswith("log"):
        inner = [math.exp(math.log(low) * (1 - share) + math.log(high) * share) for share in shares[1:-1]]
    else:
        inner = [low * (1 - share) + high * share for share in shares[1:-1]]
    if form.endswith("int"):
        return [low, *(round(value) for value in inner), high]
    return [low, *(float(f"{value:.6g}") for value in inner), high]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
