"""The demo's label step: label transactions of a week ago as frauds, and the next score rises.

For schemas that count known frauds of an entity (`risk`, `frauds`), such as the handbook's terminals.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.local.sample import request_from

if TYPE_CHECKING:
    import pandas as pd

    from fraud.schema import Schema

FEWEST, MOST = 3, 10  # transactions to label as frauds
WITHIN = dt.timedelta(days=7)  # before the label delay


@dataclass(frozen=True)
class LabelScenario:
    """The entity to label. request: its next transaction, an hour after the data end. ids: transactions to label."""

    entity: str
    value: str
    request: dict[str, Any]
    ids: list[str]


def find_scenario(rows: pd.DataFrame, day: Path, schema: Schema) -> LabelScenario | None:
    """Choose the entity with the most legitimate transactions in the week before the label delay.

    None if no entity has FEWEST. rows: canonical; day: file of the last day, template of the request.
    """
    from fraud.history.definition import plans

    counting = [plan for plan in plans(schema) if plan.keeps_frauds]
    if not counting or schema.timestamp is None or schema.id is None:
        return None
    plan = max(counting, key=lambda plan: sum(len(e.windows) for e in plan.entries if "risk" in e.statistics))
    now = rows[schema.timestamp.name].max() + dt.timedelta(hours=1)
    known = now - dt.timedelta(microseconds=plan.delay)
    is_near = (rows[schema.timestamp.name] >= known - WITHIN) & (rows[schema.timestamp.name] < known)
    if schema.label is not None and schema.label.name in rows:
        is_near &= rows[schema.label.name] != 1
    near = rows[is_near & rows[plan.column].notna()]
    counts = near[plan.column].value_counts()
    if not len(counts) or counts.iloc[0] < FEWEST:
        return None
    value = str(counts.index[0])
    ids = near.loc[near[plan.column] == value, schema.id.name].astype(str).tolist()[:MOST]
    request = request_from(day, schema)
    request |= {plan.column: value, schema.id.name: "demo-labels", schema.timestamp.name: now.isoformat()}
    return LabelScenario(entity=plan.column, value=value, request=request, ids=ids)


def labels_csv(scenario: LabelScenario, *, is_fraud: bool) -> str:
    """A CSV that labels the transactions."""
    return "id,is_fraud\n" + "".join(f"{row_id},{int(is_fraud)}\n" for row_id in scenario.ids)
