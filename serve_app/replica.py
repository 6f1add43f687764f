"""Assembles one replica: model, registry watcher, keys, limits, decision log, live history and app.

Does not depend on Ray Serve, so tests can run it alone; `serve_app.deployment` runs it under Serve.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

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
from serve_app.decisions.compactor import Compactor
from serve_app.decisions.log import DecisionLog
from serve_app.decisions.settings import read_settings
from serve_app.history.bootstrap import HistoryContext
from serve_app.history.keeper import HistoryKeeper
from serve_app.history.live import LiveHistory
from serve_app.http.access_log import AccessLog
from serve_app.metrics.counters import Metrics
from serve_app.model.shadow import Shadow
from serve_app.model.state import State, load_model
from serve_app.model.watch import MLFLOW_TIMEOUTS, ModelWatcher
from serve_app.scoring import Recorder
from serve_app.tracing import Tracing

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)


class Replica:
    """Loads the model and starts the background threads. Call `close` at the end.

    environment: of the deployment. replicas, nodes: of the service. is_id_echoed: the server in front already returns
    X-Request-ID. Raises FraudError without a valid bundle, an API key or valid settings.
    """

    def __init__(
        self, environment: Mapping[str, str], *, replicas: int = 1, nodes: int = 1, is_id_echoed: bool = False
    ) -> None:
        settings = check(environment)
        for name, value in MLFLOW_TIMEOUTS.items():
            os.environ.setdefault(name, value)
        served = ServedModelSettings.from_environment(environment)
        self._with_reasons = served.reasons == "always"
        self._keys = ApiKeys.from_environment(settings, environment)
        self._limits, self._batch_limits = (
            RequestLimits.from_environment(environment),
            BatchLimits.from_environment(environment),
        )
        folder, reference = served.bundle or None, served.model
        self._metrics = Metrics(settings.state / "serving" / "metrics" / settings.model_name)
        context = HistoryContext.from_environment(
            settings, environment, replicas=replicas, nodes=nodes, metrics=self._metrics
        )
        model = load_model(settings, folder=folder, reference=reference, context=context)
        self.state = State(model)
        self._is_id_echoed = is_id_echoed
        self._access_log = AccessLog.from_environment(environment, version=lambda: self.state.model.version)
        self._tracing = Tracing.from_environment(environment)
        self._metrics.set_model(model.version, model.sha256, model.loaded_at)
        self._log = DecisionLog(context.decisions, model.engine.schema, metrics=self._metrics)
        self._compactor = Compactor(context.decisions)
        self._compactor.start()
        self._shadow = Shadow(
            self.state, self._log.put, ShadowSettings.from_environment(environment), metrics=self._metrics
        )
        self._watcher = None
        if folder is None:
            config = WatchSettings.from_environment(environment)
            self._watcher = ModelWatcher(
                self.state, settings, reference=reference, config=config, metrics=self._metrics, context=context
            )
            self._watcher.start()
        self._keeper = HistoryKeeper(
            self._histories, poll_s=LabelFeedSettings.from_environment(environment).poll_s, metrics=self._metrics
        )
        self._keeper.start()

    def app(self) -> FastAPI:
        """Build the app."""
        return create_app(
            self.state,
            self._keys,
            recorder=Recorder(self.state, self._metrics, log=self._log, shadow=self._shadow),
            batch_limits=self._batch_limits,
            limits=self._limits,
            metrics=self._metrics,
            access_log=self._access_log,
            tracing=self._tracing,
            is_id_echoed=self._is_id_echoed,
            with_reasons=self._with_reasons,
        )

    def check_health(self) -> None:
        """Raise RuntimeError if the model no longer scores."""
        if not self.state.model.can_score():
            raise RuntimeError("the engine no longer scores a typical transaction")

    def close(self) -> None:
        """Stop the threads; save decisions, metrics and history."""
        if self._watcher is not None:
            self._watcher.stop()
        self._keeper.stop()
        self._compactor.stop()
        self._shadow.close()
        self._log.close()
        for history in self._histories():
            if history is not None:
                history.close()
        self._metrics.close()
        if self._tracing is not None:
            self._tracing.close()

    def _histories(self) -> list[LiveHistory | None]:
        """The histories of the champion and the challenger."""
        challenger = self.state.challenger
        return [self.state.model.history, *([] if challenger is None else [challenger.history])]


def check(environment: Mapping[str, str]) -> Settings:
    """Read all settings, to report a mistake before loading anything. Raises ConfigError."""
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
