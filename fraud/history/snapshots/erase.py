"""Erase an entity from every day's snapshot."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fraud.counts import counted
from fraud.errors import ConfigError
from fraud.history.definition import EntityPlan, hashed
from fraud.history.snapshots import segments
from fraud.history.snapshots.days import Snapshots
from fraud.history.snapshots.manifest import DayManifest
from fraud.history.snapshots.segments import ENTITY


def erase(snapshots: Snapshots, column: str, value: str) -> list[str]:
    """Remove the entity `column`=`value`; return a report line per plan.

    Its own transactions are deleted. Where another entity's history stores it as a 32-bit hash (`of`), the hash becomes
    that of a missing value. Raises ConfigError for a column without history, DataError, StoreError.
    """
    named = {plan.column for plan in snapshots.plans} | {name for plan in snapshots.plans for name in plan.others}
    if column not in named or not value:
        raise ConfigError(
            f"--entity {column}={value}: give COLUMN=VALUE with a column that has history: {', '.join(sorted(named))}"
        )
    lines = []
    for plan in snapshots.plans:
        rows, days = 0, 0
        for day in snapshots.days():
            manifest = snapshots.read(plan, day)
            removed = 0 if manifest is None else _erase_day(snapshots, plan, manifest, column, value)
            rows, days = rows + removed, days + bool(removed)
        if plan.column == column:
            lines.append(
                f"snapshots by {plan.column}: {counted(rows, 'transaction')} of {value} removed from "
                f"{counted(days, 'day')}"
            )
        elif column in plan.others:
            lines.append(f"snapshots by {plan.column}: {column} {value} removed from {counted(rows, 'transaction')}")
    return lines


def _erase_day(snapshots: Snapshots, plan: EntityPlan, day: DayManifest, column: str, value: str) -> int:
    parts, changed = [], 0
    for part in day.parts:
        tables = {kind: snapshots.table(plan, day, part, kind) for kind in ("events", "ids") if part.file(kind)}
        events, rows = tables["events"], 0
        if plan.column == column:
            remaining = {kind: table.filter(pc.not_equal(pc.cast(table[ENTITY], pa.string()), value)) for kind, table in
                    tables.items()}  # fmt: skip
            rows = len(events) - len(remaining["events"])
            tables = {kind: _without_unused(table) for kind, table in remaining.items()}
        elif column in plan.others:
            name = f"hash {column}"
            matches = pc.equal(events[name], pa.scalar(hashed(value), pa.uint32()))
            rows = pc.sum(matches).as_py() or 0
            hashes = pc.if_else(matches, pa.scalar(0, pa.uint32()), events[name])
            tables["events"] = events.set_column(events.column_names.index(name), name, hashes)
        changed += rows
        if rows:
            part, contents = segments.pack(tables, plan, part.partition)
            snapshots.write_files(plan, day.day, contents)
        parts.append(part)
    if changed:
        snapshots.replace_parts(plan, day, parts)
        snapshots.tidy(day.day, older_than_s=0.0)
    return changed


def _without_unused(table: pa.Table) -> pa.Table:
    """The table with unused entities removed from its dictionary."""
    texts = pa.chunked_array([pa.array(segments.entity_texts(table), pa.string())])
    return table.set_column(table.column_names.index(ENTITY), ENTITY, texts.dictionary_encode())
