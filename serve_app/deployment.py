"""The Ray Serve deployment. Each replica loads the model, builds its FastAPI app and scores in its own process.

    serve run serve_app.deployment:app                      the registry's champion
    serve run serve_app.deployment:app bundle=artifacts/bundle
    serve deploy serve_app/config.yaml                      on a running Ray cluster

Settings come from the environment of the deploying process (docs/serving.md), then from the context of the stack of
`make up`, then from the replica's own environment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from cluster import exposure, ray_private
from fraud.cli import point_to, run_command
from fraud.errors import FraudError
from fraud.scoring import bundle
from fraud.settings import Settings, context
from fraud.settings.serving import ServedModelSettings
from serve_app import scaling
from serve_app.auth import ApiKeys
from serve_app.http import direct
from serve_app.replica import Replica, check

logger = logging.getLogger(__name__)

_FORWARDED = ("FRAUD_", "MLFLOW_TRACKING_URI", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME")
_CHECKS_OF_PORTS = 2  # before the first request, and again one health check later, because Serve opens some ports late


class Options(BaseModel):
    """Arguments of the application. Unknown arguments are an error.

    bundle: folder of a bundle (FRAUD_BUNDLE); default: load from the registry.
    model: alias or version in the registry (FRAUD_MODEL; default champion).
    """

    model_config = ConfigDict(extra="forbid")

    bundle: str | None = None
    model: str | None = None


@serve.deployment(
    name="Scorer",
    num_replicas=2,
    max_ongoing_requests=32,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=60,  # 30 s until HAProxy drops it, plus open requests, decisions and history
    max_constructor_retry_count=3,  # report a bad bundle or a missing key within seconds, not after twenty tries
    logging_config=LoggingConfig(enable_access_log=False),  # a line per request, also on disk; ours is sampled
    # Replicas are mostly idle; leave room for training on a small machine.
    ray_actor_options={"num_cpus": 0.25, "runtime_env": {"env_vars": direct.MIDDLEWARES}},
)
@serve.ingress()
class Scorer:
    """One replica. The constructor raises without a valid bundle or an API key, which fails the deployment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        _log_where_serve_logs()
        self._checks_left = _CHECKS_OF_PORTS
        self._cpu_use = scaling.CpuUse()
        replicas = serve.get_replica_context().world_size
        everything = {**os.environ, **environment}
        try:
            self._ports = ray_private.ReplicaPorts()
            self._http_host = ray_private.serve_host()
            if warning := check_exposure(self._http_host, everything):
                logger.warning("%s", warning)
            self._replica = Replica(everything, replicas=replicas, nodes=_nodes(), is_id_echoed=True)
        except FraudError as error:
            logger.error("this replica does not start: %s", error)
            raise

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = self._replica.app()
        direct.answer_with(app)
        return app

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve if `serve_app.scaling` sets the number of replicas."""
        return {scaling.METRIC: self._cpu_use.share()}

    def check_health(self) -> None:
        """Called by Serve. Raising replaces the replica; on the first call it fails the deployment.

        The first call comes after Serve has started the replica's servers and before any request.
        """
        if self._checks_left:
            self._ports.check(self._http_host)
            direct.check(os.environ)
            self._checks_left -= 1
        self._replica.check_health()

    def __del__(self) -> None:
        """Called by Serve on a graceful shutdown, after the last request."""
        replica = getattr(self, "_replica", None)  # missing if the constructor raised
        if replica is not None:
            replica.close()


def app(arguments: Mapping[str, str]) -> Application:
    """Build the application for `serve run` and `serve deploy`. arguments: see Options.

    Raises ConfigError without an API key and BundleError for an invalid bundle folder. Checking here gives a one-line
    error; an error in a replica is at the end of a traceback in `serve status`.
    """
    options = Options.model_validate(arguments)
    # A stack's context, too: its model's name is not in Ray's environment, because each demo changes it.
    variables = context.completed(os.environ)
    environment = {name: value for name, value in variables.items() if name.startswith(_FORWARDED)}
    if options.bundle:
        environment["FRAUD_BUNDLE"] = options.bundle
    if options.model:
        environment["FRAUD_MODEL"] = options.model
    settings = check(environment)
    # Resolve relative paths against the deploying process's folder, not the replica's.
    environment["FRAUD_ROOT"] = str(settings.root)
    if folder := ServedModelSettings.from_environment(environment).bundle:
        bundle.load(settings.locate(folder))
    return Scorer.bind(environment)  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """Raise ConfigError that names the command to use; see `--help`."""
    point_to(
        argv,
        "serve_app.deployment",
        "The application /score for Ray Serve. `serve` deploys it on a running Ray (`make up` starts one); with "
        "bundle= it serves a folder instead of the registry's champion. docs/serving.md has the settings.",
        "serve deploy serve_app/config.yaml",
        "serve run serve_app.deployment:app",
        "serve run serve_app.deployment:app bundle=artifacts/bundle",
    )


def check_exposure(host: str, environment: Mapping[str, str]) -> str:
    """Return a warning, or "", for a Serve that listens on `host`.

    Raises ConfigError if other machines can reach it and Ray requires no token, or /score no key.
    """
    keys = ApiKeys.from_environment(Settings.from_environment(environment), environment)
    has_token = exposure.requires_token(environment)
    return exposure.check(host, has_token=has_token, has_keys=keys.is_required, what="Ray Serve")


def _nodes() -> int:
    """The number of live nodes in the cluster."""
    import ray

    return sum(bool(node["Alive"]) for node in ray.nodes())


def _log_where_serve_logs() -> None:
    """Use Serve's log handlers and level. Without a handler, everything below WARNING would be lost."""
    serves = logging.getLogger("ray.serve")
    for name in ("serve_app", "fraud"):
        ours = logging.getLogger(name)
        ours.handlers, ours.propagate = list(serves.handlers), False
        ours.setLevel(serves.level)


if __name__ == "__main__":
    run_command(main)
