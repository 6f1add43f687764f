"""Compare the labels that an evaluation uses with those of the label store."""

from __future__ import annotations

import os

import pandas as pd

from fraud.labels.store import ID, IS_FRAUD, LabelStore
from fraud.schema import Schema
from fraud.settings import Settings
from ray_jobs.evaluate.rows import labels_of


def compare(rows: pd.DataFrame, schema: Schema, data: str, settings: Settings) -> list[str]:
    """A doubt, if the label store knows the judged rows better than the data do. rows: canonical, the judged ones."""
    if schema.id is None or schema.label is None:
        return []
    store = LabelStore.from_environment(settings, os.environ)
    known = store.read()
    at = pd.Index(known[ID]).get_indexer(pd.Index(rows[schema.id.name]))
    theirs = known[IS_FRAUD].to_numpy(dtype=bool)[at[at >= 0]]
    n_other = int((labels_of(rows, schema)[at >= 0] != theirs).sum())
    if not n_other:
        return []
    return [
        f"{n_other:,} of the judged rows have another label in {store.url} than in the data, whose labels are used: "
        f"`python -m ray_jobs.labels join --keep-labels --as-of now --matured-days 0 --data {data} --out FILE.parquet` "
        "writes data with the store's labels"
    ]
