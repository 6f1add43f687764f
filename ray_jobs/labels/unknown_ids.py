"""Compare the ids of new labels with the transactions that are known here; report those that match none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fraud.data import tables
from fraud.data.files import pieces
from fraud.errors import DataError
from fraud.history.snapshots.days import Snapshots
from fraud.labels.store import ID, id_of
from fraud.schema import Schema
from fraud.scoring import decided
from fraud.settings import Settings

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class KnownTransactions:
    """Where transactions are known: a decision log or scored files, the entity history, and files of transactions."""

    schema: Schema
    settings: Settings
    decisions: str
    data: str | None = None

    def report(self, ids: pd.Series) -> tuple[str, bool]:
        """One line about ids (index: row number in the label file), and whether some match no transaction."""
        unknown, compared = ids.drop_duplicates(), []
        for name, find in (
            (self.data, self._in_data), (self.decisions, self._in_decisions), ("", self._in_history)
        ):  # fmt: skip
            if name is None:
                continue
            try:
                known = find(unknown.tolist())
            except (DataError, OSError):  # an OSError: a store of history that cannot be reached
                continue
            if known is not None:
                compared.append(name or f"the entity history in {self.settings.history}")
                unknown = unknown[~unknown.isin(known)]
        if not compared:
            return (
                f"no id was compared with a transaction: there are no decisions in {self.decisions} and no entity "
                "history with ids; --data FILE names transactions to compare with",
                False,
            )
        total, where = ids.nunique(), ", ".join(compared)
        if not len(unknown):
            return f"every id is a known transaction ({where})", False
        examples = ", ".join(f"{text} (row {row})" for row, text in unknown.iloc[:_SHOWN].items())
        remedy = "is it the id of the transaction, as scored? " if len(unknown) == total else ""
        return (
            f"{len(unknown):,} of {total:,} ids are in no decision and no known transaction (compared with {where}): "
            f"{examples}{', …' if len(unknown) > _SHOWN else ''}; {remedy}they wait for their transaction",
            True,
        )

    def _in_data(self, ids: Sequence[str]) -> set[str]:
        assert self.data is not None
        name, requested, known = id_of(self.schema), set(ids), set()
        for file, frame in pieces(self.data, tables.CHUNK_ROWS, (name,)):
            if name not in frame:
                raise DataError(f"{file} has no column {name!r}")
            known |= requested.intersection(frame[name].astype("str"))
        return known

    def _in_decisions(self, ids: Sequence[str]) -> set[str]:
        return decided.known_ids(self.decisions, self.schema, ids)

    def _in_history(self, ids: Sequence[str]) -> set[str] | None:
        """Those in the daily snapshots; None if these hold no ids."""
        if not self.schema.history:
            return None
        snapshots = Snapshots.open(self.settings, self.schema)
        counting = [plan for plan in snapshots.plans if plan.keeps_frauds]
        day, known, left = snapshots.newest_day(), set[str](), list(ids)
        if day is None or not counting:
            return None
        # A look-up reads the days that one day remembers: step back until the first day.
        first, step = snapshots.days()[0], dt.timedelta(days=min(snapshots.memory_days(plan) for plan in counting))
        while left and day >= first:
            known.update(snapshots.find(left, day)[ID].astype("str"))
            left, day = [one for one in left if one not in known], day - step
        return known
