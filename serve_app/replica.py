"""All that one replica is made of: the model and who watches it, the keys and limits, the log of decisions, the app.

It knows nothing of Ray Serve: `serve_app.deployment` gives it its place among the replicas, and a test needs none.
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
from serve_app.decisions.log import DecisionLog
from serve_app.decisions.settings import read_settings
from serve_app.history.begin import Surroundings
from serve_app.history.keeper import HistoryKeeper
from serve_app.history.live import LiveHistory
from serve_app.http.access_log import AccessLog
from serve_app.metrics.counters import Metrics
from serve_app.model.shadow import Shadow
from serve_app.model.state import State, load_model
from serve_app.model.watch import PATIENCE, ModelWatcher
from serve_app.scoring import Recorder
from serve_app.tracing import Tracing

if TYPE_CHECKING:
    from fastapi import FastAPI

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
