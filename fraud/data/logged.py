"""Read a file of transactions and log what a long command says about it: seconds, warnings, refused rows."""

from __future__ import annotations

import logging

from fraud.cli import stage
from fraud.data import tables
from fraud.schema import Schema, Validated


def load(path: str, schema: Schema, logger: logging.Logger, kept_in: str = "quarantine") -> Validated:
    """`data.load`, logging how long it took, its warnings, how many rows were refused and the commonest reasons.

    kept_in: where the refused rows go, for the message.
    """
    with stage(f"reading {path}", logger) as done:
        checked = tables.load(path, schema)
        total = len(checked.rows) + len(checked.quarantine)
        done(f"{total:,} rows")
    if len(checked.quarantine):
        counts = checked.quarantine.groupby(["column", "reason"]).size().sort_values(ascending=False)
        reasons = "; ".join(f"{column}: {reason} ({n:,})" for (column, reason), n in counts.head(3).items())
        refused = f"{len(checked.quarantine):,}"
        logger.warning("%s of %s rows refused into %s: %s", refused, f"{total:,}", kept_in, reasons)
    for warning in checked.warnings:
        logger.warning("%s", warning)
    return checked
