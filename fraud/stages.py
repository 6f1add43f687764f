"""What a long command says while it works: how long each stage took, and how many rows were refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fraud import data
from fraud.schema import Schema
from fraud.validation import Validated


@contextmanager
def stage(title: str, logger: logging.Logger) -> Iterator[Callable[[str], None]]:
    """Log how long a stage took; call the yielded function to add what it did."""
    started = time.perf_counter()
    note: list[str] = []
    yield note.append
    logger.info("%s: %.1f s", ", ".join([title, *note]), time.perf_counter() - started)


def load(path: str, schema: Schema, logger: logging.Logger, kept_in: str = "quarantine") -> Validated:
    """`data.load`, logging how long it took, its warnings, how many rows were refused and the commonest reasons.

    kept_in: where the refused rows go, for the message.
    """
    with stage(f"reading {path}", logger) as done:
        checked = data.load(path, schema)
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
