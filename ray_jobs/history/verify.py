"""Check daily snapshots: every file against its hash, every day against its source data."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile

import pyarrow as pa

from fraud.errors import DataError
from fraud.history.snapshots.build import build
from fraud.history.snapshots.days import Snapshots

logger = logging.getLogger(__name__)


def verify(snapshots: Snapshots, path: str | None, through: dt.date | None) -> list[str]:
    """Faults, one line each. path: daily data to rebuild the days from and compare; None skips that."""
    days = [day for day in snapshots.days() if through is None or day <= through]
    if not days:
        return [f"{snapshots.url} has no day of this history: build it with `python -m ray_jobs.history build`"]
    faults = []
    for day in days:
        try:
            if (reason := snapshots.gap_before(day)) is not None:
                faults.append(f"{day}: the history is incomplete: {reason}")
            snapshots.check_files(day)
        except (DataError, pa.ArrowException) as error:
            faults.append(f"{day}: {error}")
    logger.info("%d days read", len(days))
    if path is None or faults:
        return faults
    with tempfile.TemporaryDirectory(prefix="fraud-history-") as folder:
        rebuilt_snapshots = Snapshots(folder, snapshots.schema)
        build(rebuilt_snapshots, path, days[-1], since=days[0], allow_empty=True)
        for day in days:
            for plan in snapshots.plans:
                stored, rebuilt = snapshots.read(plan, day), rebuilt_snapshots.read(plan, day)
                if stored is not None and (rebuilt is None or rebuilt.fingerprint != stored.fingerprint):
                    rows = 0 if rebuilt is None else rebuilt.rows
                    faults.append(
                        f"{day}: the data give {rows:,} rows by {plan.column}, the snapshot {stored.rows:,} others: "
                        f"`python -m ray_jobs.history build --through {days[-1]} --data ...` rebuilds it"
                    )
                    break
    return faults
