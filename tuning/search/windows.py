"""Read a sweep's data: the folds to search on, and the inputs of threshold policies."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud.cli import stage
from fraud.data import logged
from fraud.data.splits import split_by_time
from fraud.errors import ConfigError
from fraud.training import fitting, folds
from tuning.request import SweepRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Windows:
    """The folds of the data. days, amounts: as in Shared."""

    folds: list[fitting.Fold]
    days: float | None
    amounts: dict[str, np.ndarray]


def read(request: SweepRequest) -> Windows:
    """Read and check the data, and cut out the windows to search on. Raises FraudError."""
    checked = logged.load(request.data, request.schema, logger)
    with stage("windows and history", logger) as done:
        prepared = folds.prepare(checked.rows, request.schema, request.config, request.folds)
        done(f"{len(prepared[0].raw_train):,} training and {len(prepared[0].raw_validation):,} validation rows")
    return Windows(prepared, *_validation_window(request, checked.rows))


def _validation_window(request: SweepRequest, rows: pd.DataFrame) -> tuple[float | None, dict[str, np.ndarray]]:
    """Length in days of the newest validation window, and the amounts there that threshold policies ask for."""
    times = fitting.times_of(rows, request.schema)
    part = split_by_time(times, fitting.split_config(request.schema, request.config), len(rows)).validation
    columns = {config.amount_column for config in request.space.thresholds if config.amount_column}
    for column in sorted(columns - set(rows.columns)):
        raise ConfigError(f"threshold amount_column={column!r} is not a column of schema {request.schema.name!r}")
    amounts = {column: rows[column].to_numpy(dtype=np.float64)[part] for column in columns}
    days = None if times is None else max(float(np.ptp(times[part].astype(np.int64))) / 86_400e6, 1e-9)
    return days, amounts
