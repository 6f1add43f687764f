"""The answer in place of a score says that it is none."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from serve_app.model.fallback import FallbackAnswer, fallback_answer
from serve_app.model.state import ServedModel
from serve_app.request.models import Answer


@pytest.mark.parametrize(("decision", "is_fraud"), [("approve", False), ("review", True), ("decline", True)])
@pytest.mark.parametrize("name", ["transactions", "handbook"])
def test_a_fallback_is_marked_and_has_no_score(
    models: dict[str, ServedModel],
    requests: dict[str, Mapping[str, object]],
    name: str,
    decision: str,
    is_fraud: bool,
):
    model = models[name]
    answer = fallback_answer(decision, model, model.reader.parse(json.dumps(dict(requests[name])).encode()))
    FallbackAnswer.model_validate(answer)
    assert answer["fallback"] == decision and answer["is_fraud"] is is_fraud
    assert answer["score"] is None and answer["reasons"] == []
    assert "deadline" in answer["warnings"][0]
    assert answer.get("id") == ("17" if name == "handbook" else None)
    with pytest.raises(ValidationError):  # nobody can take it for a score
        Answer.model_validate(answer)
