"""POST /score and POST /explain: from the body to the answer, with the places where others take part in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope

from serve_app.explain import explain
from serve_app.model.state import ServedModel, State
from serve_app.request.problems import Rejected, problem

if TYPE_CHECKING:
    from serve_app.batch.scores import ScoredPart

Transaction = dict[str, object]
Content = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What happens beside an answer. Each is called on the event loop and must take microseconds; None: nothing.

    choose: which model answers a transaction (a canary); it must read the same inputs as `State.model`.
    instead: the whole answer where there is no time to score (a deadline), None to score.
    decided: told of every transaction that was scored, or answered by `instead`, with its answer (the decision log, the
        shadow, metrics). It must not change them. Not told of what-ifs, which are ?learn=false and /explain.
    decided_part: the same for a part of a batch; is_behind: whether whoever is told does not keep up, so that a batch
        had better wait a little before its next part.
    """

    choose: Callable[[State, Scope, Transaction], ServedModel] | None = None
    instead: Callable[[Scope, ServedModel, Transaction], Content | None] | None = None
    decided: Callable[[Scope, ServedModel, Transaction, Content], None] | None = None
    decided_part: Callable[[Scope, ScoredPart], None] | None = None
    is_behind: Callable[[], bool] | None = None


class Scoring:
    """Answers single transactions with the model that `state` holds when the request comes.

    with_reasons: whether also those that are not flagged come with reasons, where the request does not say.
    """

    def __init__(self, state: State, hooks: Hooks | None = None, *, with_reasons: bool = False) -> None:
        self._state = state
        self._hooks = hooks or Hooks()
        self._with_reasons = with_reasons

    async def score(self, scope: Scope, receive: Receive) -> Response:
        """The content of models.Answer. Raises Rejected."""
        model, hooks = self._state.model, self._hooks
        learn = flag_of(scope, "learn", default=True)
        only_flagged = not flag_of(scope, "reasons", default=self._with_reasons)
        transaction = await model.reader.read(scope, receive)
        if hooks.choose is not None:
            model = hooks.choose(self._state, scope, transaction)
        answer = hooks.instead(scope, model, transaction) if hooks.instead is not None else None
        if answer is None:
            answer = model.answer(transaction, learn=learn, only_flagged=only_flagged)
            check_numbers(answer)
        if hooks.decided is not None and learn:
            hooks.decided(scope, model, transaction, answer)
        return json_response(answer)

    async def explain(self, scope: Scope, receive: Receive) -> Response:
        """The content of models.Explanation; the transaction leaves no trace. Raises Rejected."""
        model = self._state.model
        answer = explain(model, await model.reader.read(scope, receive))
        check_numbers(answer)
        return json_response(answer)


def flag_of(scope: Scope, name: str, *, default: bool) -> bool:
    """A boolean of the query. Raises Rejected (422)."""
    if not scope["query_string"]:
        return default
    given = QueryParams(scope["query_string"]).get(name)
    if given is None:
        return default
    if given.lower() not in ("true", "false"):
        told = problem(
            "bool_parsing", f"{name}={given[:20]!r} is no boolean", "write true or false", field=name, where="query"
        )
        raise Rejected(422, told)
    return given.lower() == "true"


def check_numbers(answer: Mapping[str, Any]) -> None:
    """Raise ValueError for an engine that gives no number, which would be sent as null."""
    if not math.isfinite(answer["score"] + sum(part["contribution"] for part in answer["reasons"])):
        raise ValueError("the engine gives no number")


def _plain(value: object) -> object:
    """numpy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent")


encode = msgspec.json.Encoder(enc_hook=_plain).encode


def json_response(content: object) -> Response:
    """An answer of status 200."""
    return Response(encode(content), media_type="application/json")
