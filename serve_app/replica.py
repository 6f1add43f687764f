"""All that one replica is made of: the model and who watches it, the keys and limits, the log of decisions, the app.

It knows nothing of Ray Serve: `serve_app.deployment` gives it its place among the replicas, and a test needs none.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from fraud.errors import DataError, StoreError
from fraud.settings import Settings
from fraud.settings.serving import (
    AccessLogSettings,
    BatchLimits,
    LabelFeedSettings,
    RequestLimits,
    ServedModelSettings,
    ShadowSettings,
    TraceSettings,
    WatchSettings,
)
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.decisions.log import DecisionLog
from serve_app.decisions.settings import read_settings
from serve_app.history.begin import Surroundings
from serve_app.history.keeper import HistoryKeeper
from serve_app.history.live import LiveHistory
from serve_app.http.access_log import AccessLog
from serve_app.http.limits import Deadline, ExpectedTime
from serve_app.metrics.counters import Metrics
from serve_app.model.canary import CanaryChoice
from serve_app.model.fallback import fallback_answer
from serve_app.model.shadow import Shadow
from serve_app.model.state import ServedModel, State, load_model
from serve_app.model.watch import PATIENCE, ModelWatcher
from serve_app.scoring import Content, Hooks, Transaction
from serve_app.tracing import Tracing

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serve_app.batch.scores import ScoredPart
logger = logging.getLogger(__name__)


class Replica:
    """Loads the model and starts what runs beside it; `close` at the end.

    environment: of the deployment. replicas, nodes: how many there are. is_id_echoed: the server in front sends
    X-Request-ID back by itself. Raises FraudError without a sound bundle, an API key or sensible settings.
    """

    def __init__(
        self, environment: Mapping[str, str], *, replicas: int = 1, nodes: int = 1, is_id_echoed: bool = False
    ) -> None:
        settings = check(environment)
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        served = ServedModelSettings.from_environment(environment)
        self._with_reasons = served.reasons == "always"
        self._keys = ApiKeys.from_environment(settings, environment)
        self._limits, self._batch_limits = (
            RequestLimits.from_environment(environment),
            BatchLimits.from_environment(environment),
        )
        folder, reference = served.bundle or None, served.model
        self._metrics = Metrics(settings.state / "serving" / "metrics")
        around = Surroundings.from_environment(
            settings, environment, replicas=replicas, nodes=nodes, metrics=self._metrics
        )
        model = load_model(settings, folder=folder, reference=reference, around=around)
        self.state = State(model)
        self._is_id_echoed = is_id_echoed
        self._access_log = AccessLog.from_environment(environment, version=lambda: self.state.model.version)
        self._tracing = Tracing.from_environment(environment)
        self._metrics.set_model(model.version, model.sha256, model.loaded_at)
        self._log = DecisionLog(around.decisions, model.engine.schema, metrics=self._metrics)
        self._shadow = Shadow(
            self.state, self._log.put, ShadowSettings.from_environment(environment), metrics=self._metrics
        )
        self._expected = ExpectedTime()
        self._canary = model, CanaryChoice(model.engine.schema)
        self._watcher = None
        if folder is None:
            config = WatchSettings.from_environment(environment)
            self._watcher = ModelWatcher(
                self.state, settings, reference=reference, config=config, metrics=self._metrics, around=around
            )
            self._watcher.start()
        self._keeper = HistoryKeeper(
            self._histories, poll_s=LabelFeedSettings.from_environment(environment).poll_s, metrics=self._metrics
        )
        self._keeper.start()

    def app(self) -> FastAPI:
        """The app to serve."""
        return create_app(
            self.state,
            self._keys,
            hooks=Hooks(
                choose=self._choose,
                instead=self._instead,
                decided=self._decided,
                decided_part=self._decided_part,
                is_behind=self._log.is_behind,
            ),
            batch_limits=self._batch_limits,
            limits=self._limits,
            metrics=self._metrics,
            access_log=self._access_log,
            tracing=self._tracing,
            is_id_echoed=self._is_id_echoed,
            with_reasons=self._with_reasons,
        )

    def check_health(self) -> None:
        """Raise RuntimeError when the model no longer scores."""
        if not self.state.model.is_able():
            raise RuntimeError("the engine no longer scores a typical transaction")

    def close(self) -> None:
        """Stop what runs and keep what there is: decisions, counts, history."""
        if self._watcher is not None:
            self._watcher.stop()
        self._keeper.stop()
        self._shadow.close()
        self._log.close()
        for history in self._histories():
            if history is not None:
                history.close()
        self._metrics.close()
        if self._tracing is not None:
            self._tracing.close()

    def _histories(self) -> list[LiveHistory | None]:
        """Those of the champion and of the challenger."""
        challenger = self.state.challenger
        return [self.state.model.history, *([] if challenger is None else [challenger.history])]

    def _choose(self, state: State, scope: Scope, transaction: Transaction) -> ServedModel:
        """The challenger for the entities of the canary share, where it reads the same inputs; else the champion."""
        model, challenger, share = state.model, state.challenger, state.canary_share
        if challenger is None or share <= 0.0 or challenger.engine.schema.inputs != model.engine.schema.inputs:
            return model
        of, choice = self._canary
        if of is not model:
            choice = CanaryChoice(model.engine.schema)
            self._canary = model, choice
        return challenger if choice(transaction, share, scope["state"]["request_id"]) else model

    def _instead(self, scope: Scope, model: ServedModel, transaction: Transaction) -> Content | None:
        """The fallback, where scoring would end after the deadline."""
        deadline = Deadline.from_scope(scope)
        if not deadline.has_passed(self._expected.seconds()):
            scope["state"]["scoring"] = time.perf_counter()
            return None
        self._metrics.count_fallback(self._limits.fallback)
        return fallback_answer(self._limits.fallback, model, transaction)

    def _decided(self, scope: Scope, model: ServedModel, transaction: Transaction, answer: Content) -> None:
        """Count a decision and keep it, with the challenger's opinion if that is wanted."""
        state: dict[str, Any] = scope["state"]
        state["model_version"] = model.version
        fallback = answer.get("fallback")
        if fallback is None:
            self._metrics.observe_decision(answer["score"], answer["is_fraud"], model.version)
            if (began := state.pop("scoring", None)) is not None:
                self._expected.observe(time.perf_counter() - began)
        if fallback is None:
            self._remember(model, [transaction])
        self._keep(state, model, transaction, answer)

    def _decided_part(self, scope: Scope, scored: ScoredPart) -> None:
        """The same for a part of a batch."""
        state: dict[str, Any] = scope["state"]
        state["model_version"] = scored.model.version
        self._metrics.observe_decisions(scored.values["score"], scored.is_fraud, scored.model.version)
        if self.state.challenger is not None:
            self._remember(scored.model, scored.part.transactions)
        if self._shadow.is_wanted:
            for transaction, answer in zip(scored.part.transactions, scored.contents, strict=True):
                self._keep(state, scored.model, transaction, answer)
        else:
            self._log.put_block(self._log.block_of(scored, request_id=state["request_id"], key_name=state["key_name"]))

    def _keep(self, state: dict[str, Any], model: ServedModel, transaction: Transaction, answer: Content) -> None:
        decision = self._log.decision_of(
            model,
            transaction,
            answer,
            request_id=state["request_id"],
            key_name=state["key_name"],
            role="canary" if model is self.state.challenger else "champion",
            fallback=answer.get("fallback"),
        )
        self._shadow.submit(transaction, decision)

    def _remember(self, decided_by: ServedModel, transactions: Sequence[Transaction]) -> None:
        """Enter transactions into the history of the model that did not decide, where it is another one."""
        champion, challenger = self.state.model, self.state.challenger
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
            logger.debug("version %s does not remember what %s decided: %s", other.version, decided_by.version, error)


def check(environment: Mapping[str, str]) -> Settings:
    """Read every setting, so that a mistake is said before anything is loaded. Raises ConfigError."""
    settings = Settings.from_environment(environment)
    ApiKeys.from_environment(settings, environment)
    read_settings(settings, environment)
    groups = (
        RequestLimits,
        BatchLimits,
        AccessLogSettings,
        ShadowSettings,
        WatchSettings,
        LabelFeedSettings,
        ServedModelSettings,
        TraceSettings,
    )
    for group in groups:
        group.from_environment(environment)
    return settings
