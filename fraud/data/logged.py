"""Load transactions and log duration, warnings and refused rows."""

from __future__ import annotations

import logging

from fraud.cli import stage
from fraud.counts import counted
from fraud.data import tables
from fraud.schema import Schema, Validated


def load(path: str, schema: Schema, logger: logging.Logger, destination: str = "quarantine") -> Validated:
    """`tables.load`, logging duration, warnings, the number of refused rows and the most common reasons.

    destination: where the refused rows go, for the log.
    """
    with stage(f"reading {path}", logger) as done:
        checked = tables.load(path, schema)
        total = len(checked.rows) + len(checked.quarantine)
        done(counted(total, "row"))
    if len(checked.quarantine):
        counts = checked.quarantine.groupby(["column", "reason"]).size().sort_values(ascending=False)
        reasons = "; ".join(f"{column}: {reason} ({n:,})" for (column, reason), n in counts.head(3).items())
        refused = f"{len(checked.quarantine):,}"
        logger.warning("%s of %s rows refused into %s: %s", refused, f"{total:,}", destination, reasons)
    for warning in checked.warnings:
        logger.warning("%s", warning)
    return checked
