"""Show the labels of the store."""

from __future__ import annotations

import pandas as pd

from fraud.counts import counted
from fraud.days import Zone
from fraud.labels.store import BY, IS_FRAUD, KNOWN_AT, REASON, SOURCE, LabelStore


def summary(store: LabelStore, zone: Zone) -> str:
    """Counts of the store's labels by source and by the day (in `zone`) on which they became known."""
    labels, retractions = store.read(), store.retractions()
    if not len(labels) and not len(retractions):
        return f"no labels in {store.url}: add some with `python -m ray_jobs.labels ingest FILE`\n"
    known_on = pd.Series(zone.day_of(labels[KNOWN_AT].to_numpy()).astype(str), index=labels.index)
    by_day = labels.groupby([known_on, SOURCE])[IS_FRAUD].agg(["size", "sum"])
    lines = [
        f"{day}  {source:<15} {counted(size, 'label'):>16} {counted(frauds, 'fraud'):>15}"
        for (day, source), (size, frauds) in zip(by_day.index, by_day.to_numpy().tolist(), strict=True)
    ]
    if len(retractions):
        retracted_on = zone.day_of(retractions[KNOWN_AT].to_numpy(dtype="datetime64[us]")).astype(str)
        for (day, by, reason), rows in retractions.groupby([retracted_on, BY, REASON]):
            lines.append(f"{day}  {'retracted':<15} {counted(len(rows), 'label'):>16} by {by}: {reason}")
    return "\n".join(
        [*lines, f"{counted(len(labels), 'id')}, {counted(int(labels[IS_FRAUD].sum()), 'fraud')} in {store.url}", ""]
    )
