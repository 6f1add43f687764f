"""Checks of the decision log's settings that need a filesystem or a schema: the URL and the hidden columns."""

from __future__ import annotations

from collections.abc import Mapping

from fraud.data import filesystems
from fraud.errors import ConfigError, closest
from fraud.schema import Schema
from fraud.settings import Settings
from fraud.settings.serving import DECISIONS, HASH, OMIT, DecisionSettings


def read_settings(settings: Settings, environment: Mapping[str, str]) -> DecisionSettings:
    """Read the settings. Raises ConfigError, also if no installed filesystem supports the URL."""
    decisions = DecisionSettings.from_environment(settings, environment)
    if decisions.url is not None:
        try:
            filesystems.of(decisions.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{DECISIONS}={decisions.url!r}: {error}; install that filesystem's package or name a folder"
            ) from None
    return decisions


def check_columns(decisions: DecisionSettings, schema: Schema) -> None:
    """Raise ConfigError if a column to omit or hash is not an input. A typo would write card data."""
    names = [column.name for column in schema.inputs]
    for variable, hidden in ((OMIT, decisions.omitted), (HASH, decisions.hashed)):
        for name in hidden:
            if name not in names:
                remedy = closest(name, names) or f"; its inputs are {', '.join(names)}"
                raise ConfigError(f"{variable}: schema {schema.name!r} has no input {name!r}{remedy}")
