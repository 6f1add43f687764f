"""Draw rows of a day for a person to review."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass

import pandas as pd

from fraud.data import filesystems, tables
from fraud.data.files import pieces
from fraud.data.spreadsheets import unescape
from fraud.errors import ConfigError, DataError
from fraud.labels.store import ID, IS_FRAUD, REVIEW, LabelStore
from fraud.schema import Schema
from fraud.scoring import decided

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows to draw from a day's decisions: `rows` at random, and `flagged` more from the alerts."""

    day: dt.date
    rows: int
    seed: int
    flagged: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.flagged < 0:
            raise ConfigError(f"--rows {self.rows} must be 1 or more, --flagged {self.flagged} 0 or more")


def draw(
    store: LabelStore,
    decisions: str,
    schema: Schema,
    sample: Sample,
    out: str,
    *,
    shown: str,
    model: str,
    force: bool = False,
) -> str:
    """Draw a day's rows for review, write a CSV with an empty label column; return the counts as text.

    shown: `out` as the user wrote it; model: the name of the model that decided. A sheet of these rows with verdicts
    stays as it is, with a warning. Raises ConfigError if `out` is another file and not `force`; ConfigError and
    DataError as fraud.scoring.decided.read and LabelStore.draw.
    """
    if not out.endswith(".csv"):
        raise ConfigError(f"--out {out!r} must end in .csv")
    day = sample.day
    rows = decided.read(decisions, schema, day=day, model=model)
    drawn = store.draw(rows, day, sample.rows, flagged=sample.flagged, seed=sample.seed)
    sheet = drawn[[ID]].assign(day=f"{day}", **{IS_FRAUD: ""})  # the score would bias the reviewer
    verdicts = 0 if force else _verdicts_in(out, sheet, shown)
    remedy = f"fill in {IS_FRAUD}, then: python -m ray_jobs.labels ingest {shown} --source {REVIEW}"
    if verdicts:
        logger.warning("%s has %d verdicts on these rows already and stays as it is; --force empties it", out, verdicts)
        return f"{verdicts:,} of {len(sheet):,} rows of {shown} have a verdict; {remedy}\n"
    tables.write_csv(sheet, out)
    n_rows = int(drawn["n_rows"].iloc[0])
    return f"{len(drawn):,} of {n_rows:,} rows of {day} → {out}\n{remedy}\n"


def _verdicts_in(out: str, sheet: pd.DataFrame, shown: str) -> int:
    """The number of verdicts in the file `out`; 0 without a file. Raises ConfigError if it is not this sheet."""
    filesystem, path = filesystems.of(out)
    if not filesystem.exists(path):
        return 0
    try:
        existing = pd.concat([frame for _, frame in pieces(out, None, (ID,))], ignore_index=True)
    except DataError:
        existing = pd.DataFrame()
    is_sheet = {ID, IS_FRAUD} <= set(existing.columns)
    if not is_sheet or set(existing[ID].astype("str").map(unescape)) != set(sheet[ID].astype("str")):
        raise ConfigError(
            f"--out {shown} exists and is not the sheet of these rows: name another file, or overwrite it with --force"
        )
    return int(existing[IS_FRAUD].notna().sum())
