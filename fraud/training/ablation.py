"""Ablation: schemas that each lack one group of features, to measure its contribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fraud.detectors.features import raw_names
from fraud.errors import SchemaError
from fraud.schema import Schema
from fraud.schema.columns import Column, History


@dataclass(frozen=True)
class Group:
    """Features that are removed together.

    features: names of the removed features. schema: the schema without them, or None if nothing is left to learn from.
    """

    name: str
    features: tuple[str, ...]
    schema: Schema | None


def groups(schema: Schema) -> list[Group]:
    """All groups of a schema: each column (with the histories that need it), the calendar, each history entry."""
    lacking = []
    for column in schema.features:
        others = tuple(other for other in schema.columns if other.name != column.name)
        remaining = [entry for entry in schema.history if _stands_without(schema, others, entry)]
        name = column.name if len(remaining) == len(schema.history) else f"{column.name} and the histories of it"
        lacking.append(_group(schema, name, others, remaining))
    if schema.timestamp and schema.timestamp.calendar:
        plain = tuple(replace(c, calendar=()) if c.kind == "timestamp" else c for c in schema.columns)
        lacking.append(_group(schema, f"calendar of {schema.timestamp.name}", plain, schema.history))
    for index, entry in enumerate(schema.history):
        rest = schema.history[:index] + schema.history[index + 1 :]
        same = [other for other in schema.history if other.entity == entry.entity]
        number = f" ({same.index(entry) + 1} of {len(same)})" if len(same) > 1 else ""
        lacking.append(_group(schema, f"history of {entry.entity}{number}", schema.columns, rest))
    return lacking


def _group(schema: Schema, name: str, columns: tuple[Column, ...], history: Sequence[History]) -> Group:
    try:
        without = replace(schema, columns=columns, history=tuple(history))
    except SchemaError:
        return Group(name, tuple(raw_names(schema)[0]), None)
    left = set(raw_names(without)[0])
    return Group(name, tuple(feature for feature in raw_names(schema)[0] if feature not in left), without)


def _stands_without(schema: Schema, columns: tuple[Column, ...], entry: History) -> bool:
    """Whether a history entry is valid with these columns."""
    try:
        replace(schema, columns=columns, history=(entry,))
    except SchemaError:
        return False
    return True
