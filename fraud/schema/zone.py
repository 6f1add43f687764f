"""The time zone of a schema's days."""

from __future__ import annotations

from fraud.days import Zone
from fraud.errors import ConfigError
from fraud.schema.contract import Schema


def zone_of(schema: Schema) -> Zone:
    """The time zone of a schema's days."""
    return Zone(schema.day_zone)


def agreed(schema: Schema, day_zone: str) -> Zone:
    """The time zone of a schema. Raises ConfigError if FRAUD_DAY_ZONE is another.

    day_zone: `Settings.day_zone`, empty if FRAUD_DAY_ZONE is not set; used for a schema without a timestamp.
    """
    if schema.timestamp is None:
        return Zone(day_zone or schema.day_zone)
    if day_zone and day_zone != schema.day_zone:
        raise ConfigError(
            f"FRAUD_DAY_ZONE={day_zone!r} and day_zone {schema.day_zone!r} of schema {schema.name!r} differ: write "
            f"`day_zone: {day_zone}` into the schema and train with it, or set FRAUD_DAY_ZONE={schema.day_zone}"
        )
    return zone_of(schema)
