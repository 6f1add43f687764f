"""Hand-written pydantic models for the default schema."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Transaction(BaseModel):
    """One transaction of schema `transactions`."""

    model_config = ConfigDict(extra="forbid")

    amount: float = Field(ge=0, le=1_000_000, examples=[220])
    hour: int = Field(ge=0, le=23, examples=[3])
    distance: float = Field(ge=0, examples=[12])
    device_score: float = Field(ge=0, le=1, examples=[0.92])
    country_mismatch: bool = Field(examples=[1])


class Answer(BaseModel):
    """Score of one transaction."""

    score: float
    is_fraud: bool
    threshold: float


class Answers(BaseModel):
    """Scores of several transactions."""

    score: list[float]
    is_fraud: list[bool]
    threshold: float
