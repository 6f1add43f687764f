"""Generate docs/settings.md: one table per settings group."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from pydantic.fields import FieldInfo

from fraud.settings.external import ImageSettings, PipelineSettings, SchedulerSettings
from fraud.settings.locations import DataStores, Settings
from fraud.settings.operations import AlertChannels, MonitoringSettings, StackSettings
from fraud.settings.serving import (
    AccessLogSettings,
    BatchLimits,
    DecisionSettings,
    KeySettings,
    LabelFeedSettings,
    RequestLimits,
    ServedModelSettings,
    ShadowSettings,
    TraceSettings,
    WatchSettings,
)
from fraud.settings.variables import BaseGroup, Variable, accepted

GROUPS: tuple[type[BaseGroup], ...] = (
    Settings,
    DataStores,
    ServedModelSettings,
    KeySettings,
    RequestLimits,
    BatchLimits,
    DecisionSettings,
    ShadowSettings,
    WatchSettings,
    LabelFeedSettings,
    AccessLogSettings,
    TraceSettings,
    AlertChannels,
    MonitoringSettings,
    StackSettings,
    PipelineSettings,
    SchedulerSettings,
    ImageSettings,
)
_HEAD = """# Settings

Written by `python -m fraud.settings --write`; change `fraud/settings/` instead. Each setting is an environment
variable; an empty one counts as not set. A wrong value stops the command with the variable, the value and what it
accepts.
"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *(line for group in GROUPS for line in _table(group))])


def names() -> set[str]:
    """Names of all variables."""
    return {variable.name for group in GROUPS for _, variable in group.variables().values()}


def _table(group: type[BaseGroup]) -> Iterator[str]:
    yield f"## {group.TITLE}\n"
    about = inspect.cleandoc(group.__doc__ or "").partition("\n")[0]
    yield f"{about}\n"
    yield _row(("variable", "default", "accepts", "what it does", "read by"))
    yield _row(["---"] * 5)
    for field, variable in group.variables().values():
        yield _row(
            (
                f"`{variable.name}`",
                _default(field, variable),
                accepted(field, variable),
                variable.meaning,
                variable.readers or group.READERS,
            )
        )
    yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _default(field: FieldInfo, variable: Variable) -> str:
    if variable.default:
        return variable.default
    if isinstance(field.default, bool):
        return str(int(field.default))
    if isinstance(field.default, float):
        return f"`{field.default:g}`"
    return f"`{field.default}`" if field.default or field.default == 0 else "empty"
