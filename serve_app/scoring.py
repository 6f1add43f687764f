"""POST /score and POST /explain: reads the request, scores it and records the decision."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from starlette.responses import Response
from starlette.types import Receive, Scope

from fraud.errors import DataError, StoreError
from fraud.settings.serving import RequestLimits
from serve_app.decisions.log import DecisionLog
from serve_app.explain import explain
from serve_app.http.limits import Deadline, ExpectedTime
from serve_app.http.server_timing import ENGINE_S
from serve_app.metrics.counters import Metrics
from serve_app.model.decided import block_of, decision_of
from serve_app.model.fallback import fallback_answer
from serve_app.model.part import ScoredPart
from serve_app.model.shadow import Shadow
from serve_app.model.state import ServedModel, State
from serve_app.request.query import flag_of

logger = logging.getLogger(__name__)

Transaction = dict[str, object]
Content = dict[str, Any]


class Recorder:
    """Records answers: metrics, decision log, and the history of the model that did not decide.

    Runs on the event loop, so each call takes microseconds. log: the decision log; None: decisions are not logged.
    shadow: scores decisions with the challenger while `State.shadow` is on; needs a log.
    """

    def __init__(
        self, state: State, metrics: Metrics, *, log: DecisionLog | None = None, shadow: Shadow | None = None
    ) -> None:
        self._state = state
        self._metrics = metrics
        self._log = log
        self._shadow = shadow

    def record(self, request: dict[str, Any], model: ServedModel, transaction: Transaction, answer: Content) -> None:
        """Record the answer of `model` to one transaction, not to a what-if. request: the scope's "state"."""
        request["model_version"] = model.version
        if answer.get("fallback") is None:
            self._metrics.observe_decision(answer["score"], answer["is_fraud"], model.version)
            if self._state.challenger is not None:
                self._remember(model, [transaction])
        self._log_decision(request, model, transaction, answer)

    def record_part(self, request: dict[str, Any], scored: ScoredPart) -> None:
        """Record the answers to a part of a batch."""
        request["model_version"] = scored.model.version
        self._metrics.observe_decisions(scored.values["score"], scored.is_fraud, scored.model.version)
        if self._state.challenger is not None:
            self._remember(scored.model, scored.part.transactions)
        if self._log is None:
            return
        if self._state.shadow and self._shadow is not None and self._shadow.is_active:
            for transaction, answer in zip(scored.part.transactions, scored.contents, strict=True):
                self._log_decision(request, scored.model, transaction, answer)
            return
        names = {"request_id": request["request_id"], "key_name": request["key_name"]}
        self._log.put_block(block_of(self._log, scored, **names))

    def is_behind(self) -> bool:
        """Whether the log is behind, so that a batch should wait before its next part."""
        return self._log is not None and self._log.is_behind()

    def _log_decision(
        self, request: dict[str, Any], model: ServedModel, transaction: Transaction, answer: Content
    ) -> None:
        if self._log is None:
            return
        decision = decision_of(
            self._log,
            model,
            transaction,
            answer,
            request_id=request["request_id"],
            key_name=request["key_name"],
            role="canary" if model is self._state.challenger else "champion",
            fallback=answer.get("fallback"),
        )
        if self._state.shadow and self._shadow is not None:
            self._shadow.submit(transaction, decision)
        else:
            self._log.put(decision)

    def _remember(self, decided_by: ServedModel, transactions: Sequence[Transaction]) -> None:
        """Enter transactions into the history of the model that did not decide, unless both share it."""
        champion, challenger = self._state.model, self._state.challenger
        other = challenger if decided_by is champion else champion
        if challenger is None or other is None or other.history is None:
            return
        only = other.history.own_plans(decided_by.history)
        if not only:
            return
        try:
            for transaction in transactions:
                other.engine.remember(transaction, only)
        except (DataError, StoreError) as error:
            logger.debug(
                "version %s cannot learn a decision of version %s: %s", other.version, decided_by.version, error
            )


class Scoring:
    """Answers single transactions with the model in `state` when the request arrives.

    limits: names the fallback for requests whose deadline would pass before scoring ends. with_reasons: default of the
    query parameter `reasons`, which also gives reasons for transactions that are not flagged.
    """

    def __init__(
        self, state: State, recorder: Recorder, limits: RequestLimits, metrics: Metrics, *, with_reasons: bool = False
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._fallback = limits.fallback
        self._metrics = metrics
        self._with_reasons = with_reasons
        self._expected = ExpectedTime()

    async def score(self, scope: Scope, receive: Receive) -> Response:
        """Respond with models.Answer. Raises Rejected."""
        champion = self._state.model
        learn = flag_of(scope, "learn", default=True)
        only_flagged = not flag_of(scope, "reasons", default=self._with_reasons)
        transaction = await champion.reader.read(scope, receive)
        model = self.choose(scope, champion, transaction)
        if Deadline.from_scope(scope).has_passed(self._expected.seconds()):
            self._metrics.count_fallback(self._fallback)
            answer = fallback_answer(self._fallback, model, transaction)
        else:
            began = time.perf_counter()
            answer = model.answer(transaction, learn=learn, only_flagged=only_flagged, timings=scope["state"])
            check_numbers(answer)
            seconds = scope["state"][ENGINE_S] = time.perf_counter() - began
            if learn:
                self._expected.observe(seconds)
        if learn:
            self.record(scope, model, transaction, answer)
        return json_response(answer)

    def choose(self, scope: Scope, champion: ServedModel, transaction: Transaction) -> ServedModel:
        """Choose the model that answers."""
        return self._state.choose(champion, transaction, scope["state"]["request_id"])

    def record(self, scope: Scope, model: ServedModel, transaction: Transaction, answer: Content) -> None:
        """Record an answer that is not a what-if."""
        self._recorder.record(scope["state"], model, transaction, answer)

    async def explain(self, scope: Scope, receive: Receive) -> Response:
        """Respond with models.Explanation. Does not learn or log the transaction. Raises Rejected."""
        model = self._state.model
        transaction = await model.reader.read(scope, receive)
        began = time.perf_counter()
        answer = explain(model, transaction)
        check_numbers(answer)
        scope["state"][ENGINE_S] = time.perf_counter() - began
        return json_response(answer)


def check_numbers(answer: Mapping[str, Any]) -> None:
    """Raise ValueError if a score is not finite; JSON would encode it as null."""
    if not math.isfinite(answer["score"] + sum(part["contribution"] for part in answer["reasons"])):
        raise ValueError("the engine gives no number")


def _plain(value: object) -> object:
    """Convert a NumPy scalar to a Python one."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent")


encode = msgspec.json.Encoder(enc_hook=_plain).encode


def json_response(content: object) -> Response:
    """Build a 200 response."""
    return Response(encode(content), media_type="application/json")
