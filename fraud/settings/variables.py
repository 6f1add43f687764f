"""Base classes of settings groups: frozen pydantic dataclasses with one environment variable per field."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from fraud.errors import ConfigError

# A value may contain a secret, so pydantic's messages must not show it.
CONFIG = ConfigDict(hide_input_in_errors=True)
_SHOWN = 40  # characters of a wrong value in a message
_NUMBERS = (int, float, dt.timedelta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variable:
    """The environment variable of a field, in the field's `Annotated`.

    meaning: its effect. accepts: valid values, if type and bounds do not show them. default: shown instead of the
    field's default. readers: shown instead of the group's READERS.
    """

    name: str
    meaning: str
    unit: str = ""
    accepts: str = ""
    default: str = ""
    readers: str = ""
    is_secret: bool = False


class BaseGroup:
    """Base of all groups. TITLE: heading in docs/settings.md; READERS: programs that read the variables."""

    TITLE: ClassVar[str]
    READERS: ClassVar[str]

    @classmethod
    def variables(cls) -> dict[str, tuple[FieldInfo, Variable]]:
        """Each field that has a variable."""
        if not is_pydantic_dataclass(cls):
            raise TypeError(f"{cls.__name__} is not a pydantic dataclass")
        marked = {
            name: (field, [entry for entry in field.metadata if isinstance(entry, Variable)])
            for name, field in cls.__pydantic_fields__.items()
        }
        return {name: (field, entries[0]) for name, (field, entries) in marked.items() if entries}

    @classmethod
    def texts(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Values from the environment by field; an empty variable counts as not set."""
        values = {name: environment.get(variable.name) or "" for name, (_, variable) in cls.variables().items()}
        return {name: text for name, text in values.items() if text}

    @classmethod
    def checked(cls, texts: Mapping[str, str], **derived: Any) -> Self:
        """Build the group. Raises ConfigError naming the variable, its value unless secret, and what it accepts."""
        try:
            return cls(**{**texts, **derived})
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
        field, variable = cls.variables()[name]
        if variable.is_secret:
            raise ConfigError(f"{variable.name} is wrong: set it to {accepted(field, variable)}")
        fault = "is not" if field.annotation in _NUMBERS else "is unknown: set it to"
        raise ConfigError(f"{variable.name}={texts[name][:_SHOWN]!r} {fault} {accepted(field, variable)}")


class SettingsGroup(BaseGroup):
    """A group that depends only on the environment."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read `environment` (default os.environ). Raises ConfigError naming the invalid variable."""
        return cls.checked(cls.texts(os.environ if environment is None else environment))


def accepted(field: FieldInfo, variable: Variable) -> str:
    """Description of valid values, for messages and the page."""
    if variable.accepts:
        return variable.accepts
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    if field.annotation is bool:
        return "0 or 1"
    if field.annotation in (int, float):
        number = "a whole number" if field.annotation is int else "a number"
        unit = f" of {variable.unit}" if variable.unit else ""
        bounds = {key: getattr(entry, key) for entry in field.metadata for key in ("ge", "le") if hasattr(entry, key)}
        return f"{number}{unit} from {bounds['ge']:,} to {bounds['le']:,}"
    return "text"


def _zero_or_one(value: object) -> object:
    if isinstance(value, str) and value not in ("0", "1"):
        raise ValueError(value)
    return value


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


Flag = Annotated[bool, BeforeValidator(_zero_or_one)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
