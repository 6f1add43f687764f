"""The content of an answer, made from what the engine says of one row; without reasons, which the caller adds."""

from __future__ import annotations

from typing import Any

from fraud.engine import RowScore
from serve_app.state import NO_LIVE_HISTORY, ServedModel


def content_of(model: ServedModel, found: RowScore, row_id: object) -> dict[str, Any]:
    """The content of models.BatchAnswer, as `ServedModel.answer` gives it. row_id: its id column's value."""
    content: dict[str, Any] = {
        "score": found.score,
        "is_fraud": bool(found.is_fraud),
        "threshold": model.engine.threshold.value,
        "forest_score": found.forest_score,
        "autoencoder_score": found.autoencoder_score,
        "model_version": model.version,
        "warnings": [] if found.is_history_live else [NO_LIVE_HISTORY],
    }
    if found.head_score is not None:
        content["head_score"] = found.head_score
    if model.engine.schema.id is not None:
        content["id"] = row_id
    return content
