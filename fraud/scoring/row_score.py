"""The engine's results for one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fraud.scoring.reasons import Reason


@dataclass(frozen=True)
class RowScore:
    """Score and decision. Scores are in [0, 1), higher is more suspicious; is_fraud: score >= threshold.

    scores: of each detector, {"forest_score": ...}. is_history_live: False if the state store failed and the row was
    scored with the model's own history. is_changed: the id is in the history with another time or other values, so the
    row was not added. history_s: seconds that reading and extending the history took.
    """

    score: float
    is_fraud: bool
    scores: Mapping[str, float]
    is_history_live: bool = True
    is_changed: bool = False
    history_s: float = field(default=0.0, compare=False)


class HistoryRead(NamedTuple):
    """How a row's history was read; see RowScore."""

    is_live: bool
    is_changed: bool
    history_s: float = 0.0


NO_HISTORY = HistoryRead(is_live=True, is_changed=False)


@dataclass(frozen=True)
class Explanation:
    """Score and explanation of one row.

    evidence: of the row, in powers of ten; typical_evidence: of a typical row. columns: all columns, most suspicious
    first; their contributions add up to evidence - typical_evidence.
    """

    answer: RowScore
    evidence: float
    typical_evidence: float
    columns: list[Reason]
