"""The answer after the deadline has passed: a configured decision instead of a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from serve_app.model.state import ServedModel

_NOT_SCORED = "not scored: the deadline had passed; this is the decision set for that case (FRAUD_FALLBACK)"


class FallbackAnswer(BaseModel):
    """What is answered once the deadline has passed. No model looked at the transaction, so nothing is said of it."""

    model_config = ConfigDict(protected_namespaces=())

    fallback: Literal["approve", "review", "decline"] = Field(description="What to do; a scored answer has none.")
    score: None = Field(default=None, description="Nothing was scored.")
    is_fraud: bool = Field(
        description="Whether to act as on fraud: true for review and decline, so that a caller who reads nothing else "
        "does not wave it through."
    )
    threshold: float = Field(description="The decision threshold in force.", examples=[0.91])
    model_version: str = Field(description="The model that would have answered; see GET /model.", examples=["3"])
    reasons: list[None] = Field(default=[], description="Empty.")
    warnings: list[str] = Field(description="Says that nothing was scored.")
    id: str | None = Field(default=None, description="The transaction's own id, where the schema has an id column.")


def fallback_answer(decision: str, model: ServedModel, transaction: Mapping[str, object]) -> dict[str, Any]:
    """The content of FallbackAnswer. decision: "approve", "review" or "decline"; transaction: canonical values."""
    answer: dict[str, Any] = {
        "fallback": decision,
        "score": None,
        "is_fraud": decision != "approve",
        "threshold": model.engine.threshold.value,
        "model_version": model.version,
        "reasons": [],
        "warnings": [_NOT_SCORED, *model.notices],
    }
    if model.engine.schema.id is not None:
        answer["id"] = transaction[model.engine.schema.id.name]
    return answer
