"""Explains one score: the contribution of every column, their sum (the evidence) and the typical evidence."""

from __future__ import annotations

from typing import Any

from fraud.errors import DataError
from serve_app.model.state import MOST_REASONS, ServedModel
from serve_app.request.problems import Rejected, problem


def explain(model: ServedModel, transaction: dict[str, object]) -> dict[str, Any]:
    """Score a canonical transaction without learning it; the content of models.Explanation. Raises Rejected (422)."""
    try:
        explanation = model.engine.explain(transaction)
    except DataError as error:
        raise Rejected(422, problem("unscorable", str(error), "correct the field that is named")) from None
    columns = [vars(reason) for reason in explanation.columns]
    return {
        **model.content_of(explanation.answer, transaction),
        "reasons": [column for column in columns if column["contribution"] > 0][:MOST_REASONS],
        "evidence": explanation.evidence,
        "typical_evidence": explanation.typical_evidence,
        "columns": columns,
    }
