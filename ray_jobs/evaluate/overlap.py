"""Find judged rows that the model was trained on: by its hashes of training rows, else by its training windows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from fraud.errors import DataError
from ray_jobs.evaluate.rows import TRAINING_WINDOWS, Model, Window, positions_of, times_of


@dataclass
class Overlap:
    """What is known of it. window: the rows to judge; left_out: rows less than asked for, because they were trained on.

    warnings: the figures are too good; doubts: they may be.
    """

    window: Window
    left_out: int = 0
    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def find(rows: pd.DataFrame, window: Window, model: Model, fingerprint: str, *, leave_out: bool) -> Overlap:
    """Compare the judged rows with the model's training rows.

    leave_out: remove training rows from the window; False: keep them, with a warning. Raises DataError if no row
    would be left.
    """
    overlap = Overlap(window)
    is_same_data = fingerprint == model.bundle.manifest.get("data_fingerprint")
    if window.is_test_window and is_same_data:
        return overlap  # the training itself kept these rows apart
    known = _by_hash(rows, model, overlap, leave_out=leave_out)
    _by_window(rows, model, overlap, known, is_same_data=is_same_data)
    return overlap


def _by_hash(rows: pd.DataFrame, model: Model, overlap: Overlap, *, leave_out: bool) -> np.ndarray:
    """Positions of the rows that equal a training row."""
    window, trained_on = overlap.window, model.trained_on
    if trained_on is None:
        return window.positions[:0]
    is_known, estimate = trained_on.among(rows.iloc[window.positions], model.schema)
    n_known, n_judged = int(is_known.sum()), len(window.positions)
    if not n_known:
        return window.positions[:0]
    if not trained_on.identifies:
        repeated = 1 - trained_on.distinct / trained_on.rows
        overlap.doubts.append(
            f"{n_known:,} of {n_judged:,} judged rows equal rows that {model.name} was trained on; {repeated:.0%} of "
            "its training rows repeat another one, so these may be other transactions"
        )
    elif not leave_out:
        overlap.warnings.append(
            f"{estimate:,.0f} of {n_judged:,} judged rows are rows that {model.name} was trained on, so the figures "
            "are too good; judge later rows"
        )
    elif n_known == n_judged:
        raise DataError(
            f"{model.name} was trained on every one of the {n_judged:,} rows to judge: give later rows (--data, "
            "--start), or judge them all the same with --include-training-rows"
        )
    else:
        overlap.window = replace(
            window, positions=window.positions[~is_known],
            source=f"{window.source}, less {n_known:,} rows that {model.name} was trained on",
        )  # fmt: skip
        overlap.left_out = n_known
        overlap.doubts.append(
            f"{n_known:,} of {n_judged:,} rows are left out, because {model.name} was trained on them "
            "(--include-training-rows judges them too)"
        )
        if not trained_on.is_complete:
            overlap.warnings.append(
                f"about {estimate - n_known:,.0f} of the judged rows are rows that {model.name} was trained on: it "
                f"keeps hashes of {len(trained_on.hashes) / trained_on.distinct:.0%} of them; judge later rows"
            )
    return window.positions[is_known]


def _by_window(
    rows: pd.DataFrame, model: Model, overlap: Overlap, known: np.ndarray, *, is_same_data: bool
) -> None:  # fmt: skip
    """Rows of the training windows, by time or row number. known: positions that `_by_hash` found."""
    times, positions = times_of(rows, model.schema), np.setdiff1d(overlap.window.positions, known)
    can_tell = model.trained_on is not None and model.trained_on.identifies and model.trained_on.is_complete
    windows = [model.windows[name] for name in TRAINING_WINDOWS if name in model.windows]
    if not can_tell and not is_same_data and (times is None or not windows):
        overlap.doubts.append(
            f"it cannot be ruled out that {model.name} was trained on some of these rows: "
            + ("the data have no timestamp" if times is None else "its manifest names no training window")
            + ", are not the file of its training, and it keeps no hashes that identify its training rows; judge rows "
            "that are surely later, or train it again"
        )
    for window in windows:
        n_shared = np.intersect1d(positions_of(window, times, len(rows), is_same_data), positions).size
        if not n_shared:
            continue
        where = (
            f"{n_shared:,} of the judged rows lie in the {window['name']} window of {model.name} "
            f"({window['start']} to {window['end']})"
        )
        if can_tell and not is_same_data:
            overlap.doubts.append(f"{where} and equal no training row: other transactions, or changed since")
        elif not overlap.warnings:
            overlap.warnings.append(
                f"{where}: the model was trained on them, so the figures are too good; judge later rows (--start)"
            )
