"""The plan of each entity column: what is stored per transaction, and the names and transforms of its features.

A record has a fixed number of bytes. The format is the same in a state (fraud.history.state), a live store
(fraud.history.stores) and a day's snapshot (fraud.history.snapshots.days).
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fraud.schema import Schema
from fraud.schema.columns import WINDOWED, History

DAY = 86_400_000_000  # microseconds
# Records store numbers as float32 and clip them to this.
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
FRAUD_RECORD = np.dtype([("time", "<i8"), ("id", "<u4")])


@dataclass(frozen=True)
class EntityPlan:
    """What to store for one entity column, and the history entries computed from it.

    Schemas with equal plans can read each other's states.
    values: numeric columns stored with every event. others: columns stored as a 32-bit hash.
    capacity: events used per entity. delay: label delay, microseconds.
    """

    column: str
    entries: tuple[History, ...]
    values: tuple[str, ...]
    others: tuple[str, ...]
    capacity: int
    delay: int

    @cached_property
    def memory(self) -> int:
        """Age in microseconds beyond which an event is unused: the longest window plus the label delay."""
        longest = max((length for entry in self.entries for length in entry.lengths), default=0) or 30 * DAY
        return longest + (self.delay if self.keeps_frauds else 0)

    @property
    def store_capacity(self) -> int:
        """Events stored per entity: more than `capacity`, so that a late row still finds its own earlier events."""
        return self.capacity + max(8, self.capacity // 8)

    @cached_property
    def keeps_frauds(self) -> bool:
        """Whether any entry counts known frauds."""
        return any({"risk", "frauds"} & set(entry.statistics) for entry in self.entries)

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits. Plans with the same fingerprint store the same records and can share one live state."""
        content = (self.column, self.record.descr, self.capacity, self.memory, self.keeps_frauds)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    @cached_property
    def record(self) -> np.dtype:
        """One stored transaction: time (int64 microseconds), id (uint32 hash, 0 = none), then values and hashes."""
        return np.dtype(
            [("time", "<i8"), ("id", "<u4")]
            + [(f"value {name}", "<f4") for name in self.values]
            + [(f"hash {name}", "<u4") for name in self.others]
        )


def plans(schema: Schema) -> tuple[EntityPlan, ...]:
    """One plan for each entity column that has history, in the order of the schema's history."""
    entity_plans = []
    for column in dict.fromkeys(entry.entity for entry in schema.history):
        entries = tuple(entry for entry in schema.history if entry.entity == column)
        values = [name for entry in entries for name in ([entry.value] if entry.value else []) + list(entry.location)]
        others = [entry.of for entry in entries if entry.of]
        entity_plans.append(
            EntityPlan(
                column=column, entries=entries, values=tuple(dict.fromkeys(values)),
                others=tuple(dict.fromkeys(others)), capacity=schema.history_events,
                delay=round(schema.label_delay_days * DAY),
            )
        )  # fmt: skip
    return tuple(entity_plans)


def feature_names(schema: Schema) -> list[str]:
    """Names of the history features, in the column order of `replay`'s array."""
    return [name for plan in plans(schema) for entry in plan.entries for name in entry_names(entry)]


def feature_statistics(schema: Schema) -> list[tuple[History, str, str]]:
    """For each history feature its entry, statistic and window ("" where the statistic has none)."""
    return [
        (entry, statistic, window)
        for plan in plans(schema)
        for entry in plan.entries
        for statistic in entry.statistics
        for window in (entry.windows if statistic in WINDOWED else ("",))
    ]


def feature_columns(schema: Schema) -> list[str]:
    """For each history feature the column that explains it: the column it reads, or else the entity."""
    of_location = ("distance_from_last", "speed_from_last")
    return [
        entry.location[0] if statistic in of_location else _source_column(entry, statistic) or entry.entity
        for entry, statistic, _ in feature_statistics(schema)
    ]


def feature_transforms(schema: Schema) -> list[str]:
    """For each history feature the transform that suits its statistic: "none", "log" or "signed_log"."""
    transforms = dict.fromkeys(("sum", "mean", "max"), "signed_log")
    transforms |= dict.fromkeys(("risk", "first_seen", "zscore"), "none")
    return [transforms.get(statistic, "log") for _, statistic, _ in feature_statistics(schema)]


def entry_names(entry: History) -> list[str]:
    """Names of the features of one history entry, in their order."""
    names = []
    for statistic in entry.statistics:
        of = _source_column(entry, statistic)
        name = f"{of} {statistic} by {entry.entity}" if of else f"{statistic} by {entry.entity}"
        names += [f"{name} ({window})" for window in entry.windows] if statistic in WINDOWED else [name]
    return names


def _source_column(entry: History, statistic: str) -> str | None:
    """The `value` or `of` column that a statistic reads, if any."""
    if statistic in ("distinct", "first_seen"):
        return entry.of
    return entry.value if statistic in ("sum", "mean", "std", "max", "ratio", "zscore") else None


def hashed(value: object) -> int:
    """CRC-32 of a value's text, at least 1; 0 for a missing value. Stable across processes and versions."""
    if value is None or value != value:
        return 0
    return zlib.crc32(str(value).encode(errors="surrogatepass")) or 1
