"""Compatibility of two schemas: does the new one accept every request that the old one accepts?"""

from __future__ import annotations

from fraud.counts import counted
from fraud.schema import Schema
from fraud.schema.columns import Column


def incompatibilities(new: Schema, old: Schema) -> list[str]:
    """Reasons why `new` would refuse requests that are valid for `old`; empty if compatible.

    A request has exactly the schema's inputs, nullable ones optionally (serve_app.request.models). So an added or
    removed column breaks callers, as a narrower range does. Descriptions, examples, transforms, histories may differ.
    """
    was, now = ({column.name: column for column in schema.inputs} for schema in (old, new))
    reasons = [f"asks for {name}" for name, column in now.items() if name not in was and not column.nullable]
    reasons += [f"no longer takes {name}" for name in was if name not in now]
    for name, column in now.items():
        if name in was:
            reasons += [f"{name} {reason}" for reason in _narrower(was[name], column)]
    return reasons


def _narrower(old: Column, new: Column) -> list[str]:
    if old.kind != new.kind:
        return [f"is {new.kind}, was {old.kind}"]
    reasons = []
    low, high = (old.bounds[0] >= new.bounds[0], old.bounds[1] <= new.bounds[1]) if old.kind == "numeric" else (1, 1)
    if not low:
        reasons.append(f"must be at least {new.bounds[0]:g}, was {old.bounds[0]:g}")
    if not high:
        reasons.append(f"must be at most {new.bounds[1]:g}, was {old.bounds[1]:g}")
    if new.integer and not old.integer:
        reasons.append("must be a whole number")
    if old.nullable and not new.nullable:
        reasons.append("may no longer be missing")
    if new.categories:
        lost = sorted(set(old.categories) - set(new.categories))
        if not old.categories:
            reasons.append("takes a closed list of values, took any")
        elif lost:
            reasons.append(f"no longer takes {', '.join(lost[:5])}")
    if new.first_day is not None and (old.first_day is None or old.first_day < new.first_day):
        reasons.append(f"must not be before {new.first_day}, was {old.first_day or 'open'}")
    if old.horizon_days > new.horizon_days:
        reasons.append(f"may lie {counted(new.horizon_days, 'day')} ahead at most, was {old.horizon_days:g}")
    if old.unit != new.unit:
        reasons.append(f"is in {new.unit or 'dates'}, was in {old.unit or 'dates'}")
    return reasons
