"""The Serve deployment: replicas that each load the model, make their own FastAPI app and score in their own process.

    serve run serve_app.deployment:app                      the registry's champion
    serve run serve_app.deployment:app bundle=artifacts/bundle
    serve deploy serve_app/config.yaml                      on a Ray that runs

Settings come from the environment of whoever deploys (docs/serving.md), then from the replica's own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from cluster import exposure
from fraud.errors import FraudError
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.settings.serving import ServedModelSettings
from serve_app import scaling
from serve_app.auth import ApiKeys
from serve_app.http.direct import MIDDLEWARES, answer_with
from serve_app.replica import Replica, check

logger = logging.getLogger(__name__)

_OURS = ("FRAUD_", "MLFLOW_TRACKING_URI", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME")


class Options(BaseModel):
    """Arguments of the application. An unknown one is an error.

    bundle: folder of a bundle (FRAUD_BUNDLE); without one the registry is asked.
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
    graceful_shutdown_timeout_s=60,  # HAProxy's 30 s to forget it, what it still answers, the decisions and the history
    max_constructor_retry_count=3,  # a wrong bundle or a missing key is said after seconds, not after twenty tries
    logging_config=LoggingConfig(enable_access_log=False),  # a line a request, also on disk; ours is sampled
    # Replicas wait most of the time; leave a small machine room for a training.
    ray_actor_options={"num_cpus": 0.25, "runtime_env": {"env_vars": MIDDLEWARES}},
)
@serve.ingress()
class Scorer:
    """One replica. Its constructor raises, and so fails the deployment, without a sound bundle or an API key."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        _log_into_the_replicas_log()
        _close_to_other_networks()
        self._use = scaling.Use()
        place = serve.get_replica_context()
        everything = {**os.environ, **environment}
        try:
            if warning := check_exposure(_host_of_serve(), everything):
                logger.warning("%s", warning)
            self._replica = Replica(everything, replicas=place.world_size, nodes=_nodes(), is_id_echoed=True)
        except FraudError as error:
            logger.error("this replica does not start: %s", error)
            raise

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = self._replica.app()
        answer_with(app)
        return app

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve where replicas are scaled by `serve_app.scaling`."""
        return {scaling.METRIC: self._use.share()}

    def check_health(self) -> None:
        """Called by Serve; raising gets the replica replaced."""
        self._replica.check_health()

    def __del__(self) -> None:
        """Called by Serve when the replica ends in order, after the last request."""
        replica = getattr(self, "_replica", None)  # missing where the constructor raised
        if replica is not None:
            replica.close()


def app(arguments: Mapping[str, str]) -> Application:
    """Build the application for `serve run` and `serve deploy`; arguments: see Options.

    Raises ConfigError without an API key, BundleError for a folder that holds no sound bundle: here in one line, while
    a replica's reason stands at the end of a traceback in `serve status`.
    """
    options = Options.model_validate(arguments)
    environment = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    if options.bundle:
        environment["FRAUD_BUNDLE"] = options.bundle
    if options.model:
        environment["FRAUD_MODEL"] = options.model
    settings = check(environment)
    # Relative paths mean the folder of whoever deploys, not the one a replica happens to run in.
    environment["FRAUD_ROOT"] = str(settings.root)
    if folder := ServedModelSettings.from_environment(environment).bundle:
        bundle.load(settings.locate(folder))
    return Scorer.bind(environment)  # type: ignore[attr-defined]


def check_exposure(host: str, environment: Mapping[str, str]) -> str:
    """What to warn of when Serve listens on `host`.

    Raises ConfigError where others reach it and Ray asks for no token, or /score for no key.
    """
    keys = ApiKeys.from_environment(Settings.from_environment(environment), environment)
    has_token = exposure.asks_for_token(environment)
    return exposure.check(host, has_token=has_token, has_keys=keys.is_required, what="Ray Serve")


def _nodes() -> int:
    """How many nodes the cluster has."""
    import ray

    return sum(bool(node["Alive"]) for node in ray.nodes())


def _host_of_serve() -> str:
    """The address on which Serve's proxies listen, as its controller has it."""
    from ray.serve.context import _get_global_client

    # A replica's constructor may run on its event loop, where Ray warns of a call that waits.
    with ThreadPoolExecutor(1) as pool:
        config = pool.submit(lambda: _get_global_client().http_config).result()
    return str(config.host or exposure.LOOPBACK)


def _close_to_other_networks() -> None:
    """Have this replica's internal gRPC server listen on its node's own address only.

    Ray 2.60 binds it to every interface ("[::]:0" in ray/serve/_private/replica.py), asks for no token, and unpickles
    what arrives: whoever reaches the port runs code. It is bound after this constructor. Other nodes call the node's
    address, so nothing is lost; where Ray runs on 127.0.0.1 the port is closed to the network.
    """
    import ray.util
    from ray.serve._private import replica

    bind, node = replica.add_port_to_grpc_server, ray.util.get_node_ip_address()
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", node))


def _log_into_the_replicas_log() -> None:
    """Send our records where Serve sends its own; without a handler all but the warnings would be lost."""
    serves = logging.getLogger("ray.serve")
    for name in ("serve_app", "fraud"):
        ours = logging.getLogger(name)
        ours.handlers, ours.propagate = list(serves.handlers), False
        ours.setLevel(serves.level)
