"""The time zone of a schema's days, and whether the environment agrees with it."""

from __future__ import annotations

from fraud.days import Zone
from fraud.errors import ConfigError
from fraud.schema.contract import Schema


def zone_of(schema: Schema) -> Zone:
    """The zone in which the days of a schema's data begin and end."""
    return Zone(schema.day_zone)


def agreed(schema: Schema, day_zone: str) -> Zone:
    """The zone of a schema, where the environment names none or the same. Raises ConfigError where it names another.

    day_zone: `Settings.day_zone`, empty where FRAUD_DAY_ZONE is not set. It holds for a schema without a timestamp.
    """
    if schema.timestamp is None:
        return Zone(day_zone or schema.day_zone)
    if day_zone and day_zone != schema.day_zone:
        raise ConfigError(
            f"FRAUD_DAY_ZONE={day_zone!r} and day_zone {schema.day_zone!r} of schema {schema.name!r} differ: write "
            f"`day_zone: {day_zone}` into the schema and train with it, or set FRAUD_DAY_ZONE={schema.day_zone}"
        )
    return zone_of(schema)
