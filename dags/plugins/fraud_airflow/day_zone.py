"""The time zone of the DAGs' days: FRAUD_DAY_ZONE, an IANA name (default: UTC)."""

from __future__ import annotations

import os
import zoneinfo

VARIABLE = "FRAUD_DAY_ZONE"


def day_zone() -> str:
    """The zone's name. Raises ValueError for an unknown zone."""
    name = os.environ.get(VARIABLE) or "UTC"
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{VARIABLE}={name!r} is no time zone: use an IANA name such as Europe/Berlin") from None
    return name


def day_of(instant: str) -> str:
    """The template expression for the day of `instant`, itself a template expression."""
    zone = day_zone()
    return f"{instant} | ds" if zone == "UTC" else f"{instant}.astimezone(macros.dateutil.tz.gettz({zone!r})) | ds"
