"""The entity history of a scoring job: where it begins, what it leaves, and what it says where it is not whole.

A day's rows see what a replay of everything up to that day would see: the transactions of all days before, from the
snapshots below FRAUD_HISTORY, and the frauds that the label store knew when the day began.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import os
import re
from typing import Any

import numpy as np
import pandas as pd

from fraud.errors import DataError
from fraud.history.label_intervals import label_intervals
from fraud.history.snapshots.build import build, sources_of
from fraud.history.snapshots.days import Snapshots
from fraud.history.snapshots.replay_start import ReplayStart
from fraud.history.snapshots.segments import Part
from fraud.history.state import KnownFrauds
from fraud.labels.store import ID, KNOWN_AT, LabelStore
from fraud.schema.zone import zone_of
from fraud.scoring.bundle import Bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from ray_jobs.score.output import Job

logger = logging.getLogger(__name__)

_DAY = dt.timedelta(days=1)


class HistoryOfJob:
    """What a scoring job knows of its rows' history. report: what its manifest says of it; warnings: for people."""

    def __init__(self, job: Job, loaded: Bundle, settings: Settings) -> None:
        self._job, self._detector, self._settings = job, loaded.detector, settings
        self._learnt_from = min((str(window["start"]) for window in loaded.manifest.get("windows") or []), default="")
        self.snapshots = Snapshots.open(settings, loaded.detector.schema)
        self.warnings: list[str] = []
        self.report: dict[str, Any] = {}
        self.parts: dict[dt.date, list[list[Part]]] = {}

    @property
    def leaves_days(self) -> bool:
        """Whether the job leaves the days that it scores: only where its output is a folder of days."""
        return self._job.is_partitioned

    @property
    def remembered(self) -> int:
        """About how many transactions each plan remembers, from the manifests."""
        day = self.snapshots.newest_day(self._job.date and self._job.date - _DAY)
        if day is None:
            return 0
        return max(self.snapshots.remembered_rows(plan, day) for plan in self.snapshots.plans)

    def begin(self, oldest: int) -> ReplayStart:
        """Where the replay begins; oldest: the time of the first row, microseconds since 1970.

        Raises DataError where the history up to the day before is not whole and --stale-history is not given.
        """
        snapshots = self.snapshots
        first = self._job.date or self._day_of(oldest)
        before = first - _DAY
        reason = self.snapshots.gap_before(before)
        carried = self._carried_to(before, oldest)
        if reason is not None and (carried is None or self._job.history_data) and self._build_missing(before):
            reason = self.snapshots.gap_before(before)
        ledger = self._ledger()
        labels = label_intervals(ledger)
        if reason is None:
            begins = snapshots.first_day(before)
            self.report |= {"through": before.isoformat(), "begins": begins.isoformat(), "is_stale": False,
                           "chain": snapshots.chain_of(before)}  # fmt: skip
            if (before - begins).days + 1 < snapshots.longest_memory_days - 1:
                self._warn(
                    f"the entity history begins on {begins}, {(first - begins).days} days before {first}; windows that "
                    f"reach further back (up to {snapshots.longest_memory_days - 1} days) see less than in training"
                )
            self._note_labels(ledger, first)
            frauds = self._frauds(ledger, before)
            return ReplayStart(snapshots=snapshots, through=before, frauds=frauds, labels=labels, has_earlier_days=True)
        if carried is None and not self._begins_here(first) and not self._job.stale_history:
            raise DataError(
                f"the entity history up to {before} is not whole ({reason}), so {first} would be scored as if its "
                f"customers had no past. Give the transactions of the days before with --history-data "
                f"'daily/*.parquet' (or `python -m ray_jobs.history build --data ... --through {before}`), or score "
                f"with what there is by --stale-history"
            )
        self._note_labels(ledger, first)
        newest = snapshots.newest_day(before)
        if self._job.stale_history and newest is not None:
            self.report |= {"through": newest.isoformat(), "begins": snapshots.first_day(newest).isoformat(),
                           "is_stale": True, "chain": snapshots.chain_of(newest)}  # fmt: skip
            self._warn(
                f"STALE HISTORY: {first} is scored with the entity history up to {newest}, as --stale-history asks; "
                f"{(before - newest).days} days are missing ({reason})"
            )
            frauds = self._frauds(ledger, newest)
            return ReplayStart(snapshots=snapshots, through=newest, frauds=frauds, labels=labels, has_earlier_days=True)
        if carried is not None:
            if carried < before and self._job.date is None:
                self._warn(
                    f"the model's own entity history ends on {carried}: the days between it and {first} are missing, "
                    "and the rows see less of their customers' past than in training; give --history-data"
                )
            self.report |= {"through": carried.isoformat(), "begins": None, "is_stale": carried != before,
                           "chain": "the model's own"}  # fmt: skip
            return ReplayStart(states=self._detector.history, frauds=self._frauds(ledger, before), labels=labels)
        self.report |= {"through": None, "begins": first.isoformat(), "is_stale": self._job.stale_history,
                       "chain": None}  # fmt: skip
        if warning := Engine(self._detector).history_warning(self._row_at(oldest)):
            self._warn(warning)
        if self._job.stale_history:
            self._warn(f"STALE HISTORY: {first} is scored without any entity history, as --stale-history asks")
        return ReplayStart(frauds=self._frauds(ledger, before), labels=labels)

    def publish(self) -> None:
        """Make the days that the job scored count. Raises DataError."""
        if not self.parts:
            return
        sources = sources_of(self._job.data)
        later: set[dt.date] = set()
        for day in sorted(self.parts):
            try:
                later |= set(self.snapshots.publish(day, self.parts[day], made_by="score", sources=sources))
            except DataError as error:
                if not self.report.get("is_stale"):
                    raise
                logger.warning("the history of %s is not kept: %s", day, error)
                continue
            self.snapshots.tidy(day)
        later -= set(self.parts)
        if later:
            logger.warning(
                "%s changed: the scores of %s to %s (%d days) were made with the older history; score them again",
                ", ".join(map(str, sorted(self.parts)))[:100], min(later), max(later), len(later),
            )  # fmt: skip

    def repair(self) -> None:
        """Leave the day of a job that was killed after it published its scores and before it left the history."""
        date = self._job.date
        if date is None or not self.leaves_days or self.snapshots.gap_before(date) is None:
            return
        if self.snapshots.gap_before(date - _DAY) is None or not self.snapshots.days():
            build(self.snapshots, self._job.data, date, since=date)
            logger.info("the history of %s was missing and is there now", date)

    def _build_missing(self, before: dt.date) -> bool:
        """Make the days before from the daily data, or earlier rows of the job's own file; say whether any was made."""
        path = self._job.history_data or (self._job.data if self._job.date else None)
        if path is None:
            return False
        try:
            built = build(self.snapshots, path, before)
        except DataError as error:
            logger.info("the days before cannot be made from %s: %s", path, error)
            return False
        logger.info("history made from %s: %d days, through %s", path, len(built.made), before)
        return bool(built.made or built.changed)

    def _carried_to(self, before: dt.date, oldest: int) -> dt.date | None:
        """The last day of the history that the model itself carries, where the rows follow it; None without one."""
        lasts = [state.last_time for state in self._detector.history if state.last_time is not None]
        if not lasts or self.snapshots.days() or max(lasts) >= oldest:
            return None
        return self._day_of(max(lasts))

    def _begins_here(self, first: dt.date) -> bool:
        """Whether the rows themselves are the beginning: no day was named, and neither the snapshots nor the model's
        training data go back further.
        """
        if self._job.date is not None or any(day < first for day in self.snapshots.days()):
            return False
        return not re.match(r"\d{4}-", self._learnt_from) or self._day_of_text(self._learnt_from) >= first

    def _frauds(self, ledger: pd.DataFrame | None, before: dt.date) -> tuple[KnownFrauds, ...]:
        """Frauds of the transactions remembered at the end of `before`; where a file holds remembered days, of those
        as well.
        """
        newest = before if self._job.date is not None else self.snapshots.newest_day()
        if newest is None:
            return tuple(KnownFrauds.join(()) for _ in self.snapshots.plans)
        return self.snapshots.known_frauds(newest, ledger, since=before)

    def _ledger(self) -> pd.DataFrame | None:
        """Every label of the store, or None where no history counts frauds or rows have no id."""
        if self._detector.schema.id is None or not any(plan.keeps_frauds for plan in self.snapshots.plans):
            return None
        return LabelStore.from_environment(self._settings, os.environ).ledger()

    def _note_labels(self, ledger: pd.DataFrame | None, first: dt.date) -> None:
        """Say in the report which labels were known when the first day began."""
        if ledger is None:
            self.report["labels"] = None
            return
        moment = np.datetime64(zone_of(self._detector.schema).start_of(first), "us")
        known = ledger[ledger[KNOWN_AT].to_numpy(dtype="datetime64[us]") <= moment]
        content = pd.util.hash_pandas_object(known, index=False).to_numpy().tobytes()
        newest = None if known.empty else pd.Timestamp(known[KNOWN_AT].max()).isoformat()
        self.report["labels"] = {"known_until": str(moment), "ids": int(known[ID].nunique()), "newest": newest,
                                 "fingerprint": hashlib.sha256(content).hexdigest()[:32]}  # fmt: skip

    def _day_of(self, time: int) -> dt.date:
        day: dt.date = zone_of(self._detector.schema).day_of(np.array([time]))[0].astype(dt.date)
        return day

    def _row_at(self, time: int) -> pd.DataFrame:
        timestamp = self._detector.schema.timestamp
        assert timestamp is not None  # Schema refuses a history without one
        return pd.DataFrame({timestamp.name: np.array([time], dtype="datetime64[us]")})

    def _day_of_text(self, text: str) -> dt.date:
        return self._day_of(int(np.datetime64(text, "us").astype(np.int64)))

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
