"""The whole account of one score: every column's contribution, which add up to the evidence, and what is typical."""

from __future__ import annotations

from typing import Any

from fraud.errors import DataError
from serve_app.model.state import MOST_REASONS, ServedModel
from serve_app.request.problems import Rejected, problem


def explain(model: ServedModel, transaction: dict[str, object]) -> dict[str, Any]:
    """Score one canonical transaction without a trace; the content of models.Explanation. Raises Rejected (422)."""
    try:
        found = model.engine.explain(transaction)
    except DataError as error:
        raise Rejected(422, problem("unscorable", str(error), "correct the field that is named")) from None
    columns = [vars(reason) for reason in found.columns]
    return {
        **model.content_of(found.answer, transaction),
        "reasons": [column for column in columns if column["contribution"] > 0][:MOST_REASONS],
        "evidence": found.evidence,
        "typical_evidence": found.typical_evidence,
        "columns": columns,
    }
