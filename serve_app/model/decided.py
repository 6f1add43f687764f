"""Makes the records of the decision log from a model's answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fraud.detectors import registry
from serve_app.decisions.log import Decision, DecisionBlock, DecisionLog
from serve_app.decisions.rows import Role
from serve_app.model.part import ScoredPart
from serve_app.model.state import ServedModel


def decision_of(
    log: DecisionLog,
    model: ServedModel,
    transaction: Mapping[str, object],
    answer: Mapping[str, Any],
    *,
    request_id: str = "",
    key_name: str = "",
    role: Role = "champion",
    fallback: str | None = None,
) -> Decision:
    """The record of one answer, made now. transaction: canonical values; answer: of `ServedModel.answer`."""
    get = answer.get
    return Decision(
        request_id=request_id,
        time_us=time.time_ns() // 1000,
        model_name=model.name,
        version=model.version,
        sha256=model.sha256,
        schema_fingerprint=log.fingerprint_of(model.sha256, model.engine.schema),
        threshold=model.engine.threshold.value,
        score=get("score"),
        is_fraud=get("is_fraud"),
        scores={name: answer[name] for name in registry.score_columns() if name in answer},
        reasons=get("reasons") or (),
        warnings=get("warnings") or (),
        inputs=transaction,
        role=role,
        fallback=fallback,
        key_name=key_name,
    )


def block_of(log: DecisionLog, scored: ScoredPart, *, request_id: str = "", key_name: str = "") -> DecisionBlock:
    """The records of the answers to a part of a batch, made now."""
    model = scored.model
    return DecisionBlock(
        request_id=request_id,
        time_us=time.time_ns() // 1000,
        model_name=model.name,
        version=model.version,
        sha256=model.sha256,
        schema_fingerprint=log.fingerprint_of(model.sha256, model.engine.schema),
        threshold=model.engine.threshold.value,
        columns={**scored.values, "is_fraud": scored.is_fraud},
        inputs=scored.part.columns,
        warnings=scored.warnings,
        reasons=None if scored.reasons is None else [[vars(reason) for reason in row] for row in scored.reasons],
        key_name=key_name,
    )
