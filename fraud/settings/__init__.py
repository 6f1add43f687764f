"""All environment variables: names, meanings and validation.

A group is a frozen pydantic dataclass. `python -m fraud.settings --write` writes docs/settings.md.
"""

from fraud.settings.locations import Settings
from fraud.settings.process import TELEMETRY_OFF, git_commit, turn_telemetry_off

__all__ = ["TELEMETRY_OFF", "Settings", "git_commit", "turn_telemetry_off"]
