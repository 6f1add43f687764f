"""Start, check and stop the servers of a local stack: Ray and MLflow."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import psutil

from cluster import exposure, ingress
from cluster.listeners import listeners
from deploy import log_keeper, logs, mlflow_server, processes
from deploy.local import access, session_logs
from deploy.processes import Service
from fraud.errors import ConfigError, FraudError
from fraud.settings import TELEMETRY_OFF, Settings, context, git_commit
from fraud.settings.context import Context

CODE = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HOST = exposure.LOOPBACK  # of everything but what FRAUD_HOST opens, see deploy.local.access
RAY_PORTS = {
    "dashboard": 8265,
    "gcs": 6379,
    "client": 10001,
    "agent": 52365,
    "autoscaler_metrics": 44217,
    "dashboard_metrics": 44227,
    "haproxy_metrics": ingress.METRICS_PORT,
    "haproxy_stats": ingress.STATS_PORT,
    "replicas": ingress.REPLICA_PORT,
}
MLFLOW_PORTS = {"mlflow": 5000}
SERVERS = {"ray", "mlflow"}
# Variables of Ray that a driver, `ray` and `serve` need, too.
_OF_RAY = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
# Logical CPUs: two replicas, a job's driver and its tasks must fit on a machine with two cores.
LEAST_CPUS = 4
OBJECT_STORE_BYTES = 2_000_000_000
START_TIMEOUT_S = 180.0

Echo = Callable[[str], None]


class StackError(FraudError):
    """A server of the local stack did not start, died, or could not be stopped."""


@dataclass
class Stack:
    """The running services, as recorded in <state>/local.json. Build it with `Stack.read`.

    settings: the state folder and the user's files.
    services: by name: "ray", "mlflow", and Airflow's four with the prefix "airflow-".
    serve_port: the port of /score, once deployed.
    """

    settings: Settings
    services: dict[str, Service] = field(default_factory=dict)
    serve_port: int | None = None

    @classmethod
    def read(cls, settings: Settings) -> Stack:
        """Read the record. Drops services that died or whose process id was reused."""
        try:
            raw = json.loads(_record(settings).read_text(encoding="utf-8"))
            services = {entry["name"]: Service(**entry) for entry in raw["services"]}
            serve_port = raw["serve_port"]
        except (OSError, ValueError, KeyError, TypeError):
            return cls(settings)
        alive = {name: service for name, service in services.items() if service.is_alive}
        return cls(settings, alive, serve_port if "ray" in alive else None)

    def write(self) -> None:
        """Record what runs, atomically."""
        record = _record(self.settings)
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_suffix(".tmp")
        content = {"services": [asdict(service) for service in self.services.values()], "serve_port": self.serve_port}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(record)

    def port(self, purpose: str) -> int:
        """The port of "dashboard", "gcs" or "mlflow". Raises StackError if that server does not run."""
        for service in self.services.values():
            if purpose in service.ports:
                return service.ports[purpose]
        raise StackError(f"{purpose!r} does not run: start it with `make up`")

    def url(self, purpose: str) -> str:
        """The address of "dashboard" or "mlflow"."""
        return f"http://{access.local_address() if purpose == 'dashboard' else HOST}:{self.port(purpose)}"

    @property
    def token_path(self) -> Path:
        """File with Ray's token."""
        return self.settings.state / "ray_token"

    @property
    def metrics_key_path(self) -> Path:
        """File with Prometheus's API key. Outside dev mode its hash must be among the accepted keys."""
        return self.settings.state / "metrics_key"

    @property
    def model_name(self) -> str:
        """Name of the model that commands speak of: what the environment says, or of the last demo."""
        last = context.read(self.settings.state)
        named = os.environ.get(context.MODEL_NAME) or (last.variables.get(context.MODEL_NAME) if last else None)
        return named or self.settings.model_name

    def remember(self, variables: Mapping[str, str]) -> None:
        """Change variables of the context, from now on those of every command."""
        last = context.read(self.settings.state)
        if last is not None:
            replace(last, variables={**last.variables, **variables}).write()

    def write_context(self) -> None:
        """Write what commands need to find this stack. The last demo's model and schema stay."""
        last = context.read(self.settings.state)
        environment, dashboard = self.environment(), self.url("dashboard")
        schema = last.variables.get(context.SCHEMA) if last is not None else None
        variables = {
            **({context.SCHEMA: schema} if schema else {}),
            **{name: environment[name] for name in (*context.names(), *_OF_RAY) if environment.get(name)},
            context.MODEL_NAME: self.model_name,
            "RAY_ADDRESS": f"{HOST}:{self.port('gcs')}",
            "RAY_API_SERVER_ADDRESS": dashboard,
            "RAY_DASHBOARD_ADDRESS": dashboard,
        }
        Context(path=self.settings.state / context.NAME, variables=variables).write()

    def shell_environment(self) -> dict[str, str]:
        """What a shell needs for `ray`, `serve`, `mlflow`, and for our commands in any folder.

        The model's name is not in it: commands read it from the context, which the next demo changes.
        """
        last = context.read(self.settings.state)
        variables = dict(last.variables) if last is not None else {}
        names = ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", *_OF_RAY, context.TRACKING)
        return {
            "PATH": self.environment()["PATH"],
            "FRAUD_STATE": str(self.settings.state),
            **{name: variables[name] for name in names if name in variables},
            **TELEMETRY_OFF,
        }

    def environment(self) -> dict[str, str]:
        """Environment of servers, jobs and commands: loopback, token, our MLflow, no telemetry."""
        path = [str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
        numba_cache = self.settings.state / "numba"
        inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
        return {
            "FRAUD_MODE": "dev",
            **mlflow_server.without_secrets(inherited),
            **TELEMETRY_OFF,
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            # Despite its name, this also binds every Ray port to loopback on Linux.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(numba_cache)),
            "FRAUD_ROOT": str(self.settings.root),
            "FRAUD_STATE": str(self.settings.state),
            processes.MARK: str(self.settings.state),
            # Jobs run in a copy without .git; bundles still record their commit.
            **({"GIT_COMMIT": commit} if (commit := git_commit()) else {}),
            **({"MLFLOW_TRACKING_URI": self.url("mlflow")} if "mlflow" in self.services else {}),
        }


def up(
    settings: Settings,
    echo: Echo,
    ports: Mapping[str, int] = MappingProxyType({}),
    servers: Set[str] = frozenset(SERVERS),
) -> Stack:
    """Start Ray and MLflow unless they run, wait until they are healthy, and record them.

    servers: start only these, e.g. without MLflow. ports: first port to try, by purpose; overrides RAY_PORTS and
    MLFLOW_PORTS. Raises StackError with the end of the log if a server does not start, ConfigError if others can read
    the token or the address is public without token and API keys.
    """
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    stack = Stack.read(settings)
    for path in (stack.token_path, stack.metrics_key_path):
        access.make_token(path)
    if warning := access.check(stack.environment()):
        echo(f"warning: {warning}")
    if not set(stack.services) >= servers and (left := processes.find(settings.state)):
        # Restart everything: Ray's processes get MLflow's address from their environment.
        echo(f"stopping {len(left)} processes of an earlier, incomplete start")
        down(settings, echo)
        stack = Stack(settings)
    is_new = not set(stack.services) >= servers
    if is_new:
        if "mlflow" in servers:
            stack.services["mlflow"] = _start_mlflow(stack, {**MLFLOW_PORTS, **ports}, echo)
            stack.write()
        stack.services["ray"] = _start_ray(stack, {**RAY_PORTS, **ports}, echo)
        stack.write()
    log_keeper.keep(settings.state, stack.environment())
    if "mlflow" in stack.services and (is_new or context.read(settings.state) is None):
        stack.write_context()
    if "mlflow" in servers:
        wait(stack, "mlflow", lambda: ask(f"{stack.url('mlflow')}/health")[0] == 200, echo)
    wait(stack, "ray", lambda: _takes_jobs(stack), echo)
    if is_new and (reason := find_exposure(stack)):
        down(settings, echo)
        raise StackError(
            f"everything was stopped, because {reason}: see docs/security.md, 'Private parts of libraries'"
        )
    return stack


def down(settings: Settings, echo: Echo) -> None:
    """Stop everything we started. Logs stay in <state>/log. Raises StackError if a process survives."""
    stack = Stack.read(settings)
    running = processes.find(settings.state)
    if not running:
        echo("nothing of ours runs")
    else:
        echo(f"stopping {len(running)} processes ...")
        ray_first = sorted(stack.services.values(), key=lambda service: service.name != "ray")
        if left := processes.stop(settings.state, ray_first):
            raise StackError(f"could not stop processes {[process.pid for process in left]}: end them by hand")
        echo("stopped")
    _record(settings).unlink(missing_ok=True)
    session_logs.keep(session_folder(settings.state), settings.state / "log")
    for folder in (session_folder(settings.state), _ingress_folder(settings.state)):
        shutil.rmtree(folder, ignore_errors=True)


def ask(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    method: str | None = None,
    timeout_s: float = 5.0,
) -> tuple[int, str]:
    """Send a request to a server on this machine. body: JSON; makes it a POST unless `method` is given.

    Returns (status, text), status 0 without an answer.
    """
    data = None if body is None else body.encode("utf-8")
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json", **(headers or {})}
    )
    # No proxy for loopback, even if the environment names one.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as answer:
            return int(answer.status), answer.read().decode("utf-8")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def ask_ray(stack: Stack, path: str, purpose: str = "dashboard") -> tuple[int, str]:
    """Send a GET request with the token to Ray's dashboard or its agent. Returns (status, text)."""
    token = stack.token_path.read_text(encoding="utf-8").strip()
    return ask(stack.url(purpose) + path, headers={"Authorization": f"Bearer {token}"})


def find_exposure(stack: Stack) -> str:
    """Describe the first port that is unintentionally public or works without a token; "" for none.

    Checks the effect of two of Ray's variables: RAY_AUTH_MODE, and RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, which is
    documented for another purpose (read in Ray 2.60.0).
    """
    if (status := ask(f"{stack.url('dashboard')}/api/jobs/")[0]) not in (401, 403):
        return f"Ray's dashboard answers without its token (HTTP {status}, RAY_AUTH_MODE=token)"
    for process in processes.find(stack.settings.state):
        with suppress(psutil.NoSuchProcess):
            for listener in listeners(process.pid):
                is_asked = listener.ip == access.host() and listener.port == stack.port("dashboard")
                if not is_asked and not exposure.is_loopback(listener.ip):
                    return f"{process.name()} listens on {listener}, which was not asked for"
    return ""


def _takes_jobs(stack: Stack) -> bool:
    # The dashboard answers seconds before the agent that starts jobs. Submissions in between fail.
    return ask_ray(stack, "/api/local_raylet_healthz", "agent")[0] == 200 and ask_ray(stack, "/api/jobs/")[0] == 200


def _record(settings: Settings) -> Path:
    return settings.state / "local.json"


def session_folder(state: Path) -> Path:
    """Ray's session folder, in the temporary folder: paths of its sockets may have at most 107 characters."""
    return Path(tempfile.gettempdir()) / f"fraud-ray-{_short_name(state)}"


def _ingress(state: Path, ports: Mapping[str, int], echo: Echo) -> dict[str, str]:
    """Variables that put HAProxy in front of the replicas; empty if its folder cannot be used."""
    try:
        return ingress.environment(
            _ingress_folder(state),
            metrics_port=ports["haproxy_metrics"],
            stats_port=ports["haproxy_stats"],
            replica_port=ports["replicas"],
        )
    except ConfigError as error:
        echo(f"Serve's own, slower proxy will answer: {error}")
        return {}


def _ingress_folder(state: Path) -> Path:
    """HAProxy's folder, in the temporary folder, also for short socket paths."""
    return Path(tempfile.gettempdir()) / f"fraud-ha-{_short_name(state)}"


def _short_name(state: Path) -> str:
    return hashlib.sha256(str(state).encode()).hexdigest()[:10]


def choose_ports(preferred_ports: Mapping[str, int], echo: Echo) -> dict[str, int]:
    """Choose the preferred port, or the next free one above it, for every purpose."""
    chosen: dict[str, int] = {}
    for purpose, preferred in preferred_ports.items():
        chosen[purpose] = processes.free_port(preferred, avoid=chosen.values())
        if chosen[purpose] != preferred:
            echo(f"port {preferred} ({purpose}) is taken by another program: using {chosen[purpose]}")
    return chosen


def _start_mlflow(stack: Stack, preferred_ports: Mapping[str, int], echo: Echo) -> Service:
    state = stack.settings.state
    ports = choose_ports({name: preferred_ports[name] for name in MLFLOW_PORTS}, echo)
    # One worker: several workers that create the SQLite store at once lock each other out.
    command = [str(BIN / "mlflow"), "server", "--host", HOST, "--port", str(ports["mlflow"]), "--workers", "1"]
    command += mlflow_server.app_arguments()
    environment = {name: value for name, value in stack.environment().items() if name != "MLFLOW_TRACKING_URI"}
    environment |= mlflow_server.environment(stack.settings)  # not by flags: they may hold a password
    # Replicas poll the registry: a line per request would be 9 MiB a day. Errors are still logged.
    command.append("--uvicorn-opts=--no-access-log")
    return processes.start("mlflow", command, state=state, environment=environment, ports=ports)


def _start_ray(stack: Stack, preferred_ports: Mapping[str, int], echo: Echo) -> Service:
    state = stack.settings.state
    ports = choose_ports({name: preferred_ports[name] for name in RAY_PORTS}, echo)
    session_logs.keep(session_folder(state), state / "log")  # of a stack that ended without `make down`
    folder = access.make_private_folder(session_folder(state))
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--log-color", "false"]
    command += ["--num-cpus", str(max(LEAST_CPUS, os.cpu_count() or 1)), "--temp-dir", str(folder / "r")]
    command += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--min-worker-port", "0", "--max-worker-port", "0"]
    command += ["--port", str(ports["gcs"]), "--ray-client-server-port", str(ports["client"])]
    command += ["--dashboard-host", access.host(), "--dashboard-port", str(ports["dashboard"])]
    command += ["--dashboard-agent-listen-port", str(ports["agent"])]
    environment = {
        **stack.environment(),
        **logs.RAY_ROTATION,
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        **_ingress(state, ports, echo),
    }
    if "mlflow" in stack.services and stack.settings.context != "off":
        # Jobs and replicas read it from the context, which a demo with another schema changes while Ray runs.
        environment.pop(context.MODEL_NAME, None)
    return processes.start("ray", command, state=state, environment=environment, ports=ports)


def wait(stack: Stack, name: str, is_healthy: Callable[[], bool], echo: Echo) -> None:
    """Wait until a service is healthy. Prints the end of its log and raises StackError if it ends, or after 180 s."""
    service, began, reported = stack.services[name], time.monotonic(), 0.0
    while not is_healthy():
        waited = time.monotonic() - began
        if not service.is_alive or waited > START_TIMEOUT_S:
            reason = "is not healthy yet" if service.is_alive else "ended"
            echo(processes.last_lines(service.log))
            raise StackError(f"{name} {reason} after {waited:.0f} s; its log is {service.log}")
        if waited - reported > 10:
            reported = waited
            echo(f"waiting for {name} ({waited:.0f} s) ...")
        time.sleep(0.3)
