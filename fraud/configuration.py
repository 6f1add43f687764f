"""Configuration classes: frozen dataclasses checked by pydantic, with uniform error messages; and their YAML.

A field's annotation is the only definition of its allowed values. pydantic checks it, and `Allowed` describes it in
messages.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, cast, dataclass_transform, get_args, get_origin

import pydantic
import yaml
from pydantic.fields import FieldInfo

from fraud.errors import ConfigError, closest

T = TypeVar("T")

# Strict: no text for a number, no true for 1.
Whole = Annotated[int, pydantic.Strict()]
Number = Annotated[float, pydantic.Strict()]
Flag = Annotated[bool, pydantic.Strict()]
Count = Annotated[Whole, pydantic.Field(ge=1)]
Share = Annotated[Number, pydantic.Field(gt=0, le=1)]

_RULES = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
# Bounded, so that a long run of digits is not searched in quadratic time.
_EXPONENT = re.compile(r"[-+]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})[eE][-+]?\d{1,5}\Z")
_NOUNS = {int: "whole number", float: "number", str: "text"}


class Loader(yaml.SafeLoader):
    """Safe YAML 1.1 that also reads 1e-3 as a number, as YAML 1.2 does."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class declares it like this
        first: [*known, ("tag:yaml.org,2002:float", _EXPONENT)] if first in "-+.0123456789" else known
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(text: str) -> Any:
    """Parse YAML text. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=Loader)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, pydantic.Field))
def configuration(section: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class a frozen, keyword-only dataclass that pydantic checks.

    section: of the YAML, for messages ("forest"). The constructor raises ConfigError for an unknown key or a value that
    is not allowed. It accepts mappings for sections and lists for tuples.
    """

    def decorate(cls: type[T]) -> type[T]:
        checked = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_RULES)(cls)
        check = checked.__init__

        def make(self: T, **values: Any) -> None:
            try:
                check(self, **values)
            except pydantic.ValidationError as error:
                raise ConfigError(_message(checked, section, values, error)) from None

        checked.__init__ = make  # type: ignore[method-assign, assignment]
        return cast(type[T], checked)

    return decorate


class Allowed:
    """The values that an annotation allows.

    words: description for messages, "a number in (0, 1]". number_types: int and float, if allowed.
    """

    def __init__(self, annotation: Any) -> None:
        alternatives = _alternatives(annotation, ())
        parts = [_words(kind, limits) for kind, limits in alternatives]
        self.words = " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
        self.number_types = {kind for kind, _ in alternatives} & {int, float}
        self._adapter = pydantic.TypeAdapter(annotation, config=_RULES)

    def take(self, value: object) -> Any:
        """Validate and convert a value. Raises ValueError."""
        return self._adapter.validate_python(value)


def fields(cls: type) -> dict[str, FieldInfo]:
    """The settings of a configuration class by name."""
    return cast(dict[str, FieldInfo], cls.__pydantic_fields__)  # type: ignore[attr-defined]


@functools.cache
def allowed(cls: type, name: str) -> Allowed:
    """The allowed values of a setting."""
    field = fields(cls)[name]
    return Allowed(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)


def _message(cls: type, section: str, values: Mapping[str, Any], error: pydantic.ValidationError) -> str:
    """Describe the first error, unknown keys first: key, value, allowed values, default."""
    unknown = ("unexpected_keyword_argument", "invalid_key")
    mistakes = error.errors(include_url=False)
    location = next((m for m in mistakes if m["type"] in unknown), mistakes[0])["loc"]
    path, value = [section] if section else [], cast(Any, values)
    for part in location:
        known = fields(cls)
        if part not in known:
            near = closest(str(part), known) or f"; known keys: {', '.join(known)}"
            return f"{': '.join([*path, ''])}unknown key {str(part)!r}{near}"
        field, value = known[str(part)], value[part]
        path.append(str(part))
        if not dataclasses.is_dataclass(field.annotation):
            break
        cls = cast(type, field.annotation)
    else:
        return f"{'.'.join(path)}: expected a mapping of settings, got {shortened(value)}"
    default = _plain(field.get_default(call_default_factory=True))
    return f"{'.'.join(path)}={shortened(value)} must be {allowed(cls, path[-1]).words}; the default is {default}"


def _alternatives(annotation: Any, constraints: Iterable[Any]) -> list[tuple[Any, list[Any]]]:
    """The types of a union, each with its constraints."""
    if get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        return _alternatives(annotation, [*inner, *constraints])
    if get_origin(annotation) in (Union, types.UnionType):
        return [pair for part in get_args(annotation) for pair in _alternatives(part, constraints)]
    flat = [part for limit in constraints for part in (limit.metadata if isinstance(limit, FieldInfo) else [limit])]
    return [(annotation, flat)]


def _words(kind: Any, limits: Sequence[Any]) -> str:
    if kind is types.NoneType:
        return "null"
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else repr(choices[0])
    if get_origin(kind) is tuple:
        item, *others = get_args(kind)
        ((item, item_limits),) = _alternatives(item, ())
        if item not in _NOUNS:
            return f"a list, each {_words(item, item_limits)}"
        how_many = "a list of" if Ellipsis in others else f"{1 + len(others)}"
        return f"{how_many} {_NOUNS[item]}s{_bounds(item_limits)}"
    if any(getattr(limit, "min_length", 0) for limit in limits):
        return f"a {_NOUNS[kind]} that is not empty"
    bounds = _bounds(limits)
    return f"a {'finite ' if kind is float and ' in ' not in bounds else ''}{_NOUNS[kind]}{bounds}"


def _bounds(limits: Sequence[Any]) -> str:
    bounds = {
        name: getattr(limit, name) for limit in limits for name in ("gt", "ge", "lt", "le") if hasattr(limit, name)
    }
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if low is None:
        return ""
    if high is None:
        return f" of {low:,} or more" if "ge" in bounds else f" above {low:,}"
    return f" in {'[' if 'ge' in bounds else '('}{low:,}, {high:,}{']' if 'le' in bounds else ')'}"


def shortened(value: object) -> str:
    """The value as text, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(value: Any) -> str:
    return "null" if value is None else repr(list(value) if isinstance(value, tuple) else value)
