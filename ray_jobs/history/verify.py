"""Whether the daily snapshots are what they say: every file by its hash, every day by the data it came from."""

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
    """What is wrong, a line each; empty where nothing is. path: daily data to make the days from once more."""
    days = [day for day in snapshots.days() if through is None or day <= through]
    if not days:
        return [f"{snapshots.url} holds no day of this history: `python -m ray_jobs.history build` makes them"]
    faults = []
    for day in days:
        try:
            if (reason := snapshots.gap_before(day)) is not None:
                faults.append(f"{day}: the history is not whole: {reason}")
            snapshots.check_files(day)
        except (DataError, pa.ArrowException) as error:
            faults.append(f"{day}: {error}")
    logger.info("%d days read", len(days))
    if path is None or faults:
        return faults
    with tempfile.TemporaryDirectory(prefix="fraud-history-") as folder:
        again = Snapshots(folder, snapshots.schema)
        build(again, path, days[-1], since=days[0], allow_empty=True)
        for day in days:
            for plan in snapshots.plans:
                kept, made = snapshots.read(plan, day), again.read(plan, day)
                if kept is not None and (made is None or made.fingerprint != kept.fingerprint):
                    rows = 0 if made is None else made.rows
                    faults.append(
                        f"{day}: the data give {rows:,} rows by {plan.column}, the snapshot holds other {kept.rows:,}: "
                        f"`python -m ray_jobs.history build --through {days[-1]} --data ...` makes it again"
                    )
                    break
    return faults
