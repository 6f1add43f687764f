"""What the engine says of one row: the score, the decision, how its history was read, and the account of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fraud.scoring.reasons import Reason


@dataclass(frozen=True)
class RowScore:
    """One row's answer. Scores are in [0, 1), higher is more suspicious; is_fraud: score >= threshold.

    scores: what each detector alone says, {"forest_score": ...}. is_history_live: False where the state store failed,
    so that the row was scored with the model's own history. is_changed: the row's id was remembered before with another
    time or other values, so that this row was not.
    """

    score: float
    is_fraud: bool
    scores: Mapping[str, float]
    is_history_live: bool = True
    is_changed: bool = False


class HistoryRead(NamedTuple):
    """How a row's history was read; see RowScore."""

    is_live: bool
    is_changed: bool


LIVE, NOT_LIVE, CHANGED = HistoryRead(True, False), HistoryRead(False, False), HistoryRead(True, True)


@dataclass(frozen=True)
class Explanation:
    """One row's answer with the whole account of it.

    evidence: of the row, in powers of ten; typical_evidence: of a typical row. columns: every column, from the most to
    the least suspicious; their contributions add up to evidence - typical_evidence.
    """

    answer: RowScore
    evidence: float
    typical_evidence: float
    columns: list[Reason]
