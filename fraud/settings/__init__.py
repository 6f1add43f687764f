"""Every environment variable that we read: which there are, what they mean, and what a value must be.

A group is a frozen pydantic dataclass. `python -m fraud.settings` writes docs/settings.md.
"""

from fraud.settings.places import Settings
from fraud.settings.process import TELEMETRY_OFF, git_commit, turn_telemetry_off

__all__ = ["TELEMETRY_OFF", "Settings", "git_commit", "turn_telemetry_off"]
