"""The two servers of a local stack, Ray and MLflow: how they are started, on which ports, and when they are healthy."""

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

import psutil

from cluster import exposure, ingress
from cluster.listeners import listeners
from deploy import mlflow_server, processes
from deploy.local import access
from deploy.processes import Service
from fraud.errors import ConfigError, FraudError
from fraud.settings import TELEMETRY_OFF, Settings, git_commit

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
# Logical processors: two replicas, a job's driver and its tasks must fit beside each other on a machine with two cores.
LEAST_CPUS = 4
OBJECT_STORE_BYTES = 2_000_000_000
START_TIMEOUT_S = 180.0

Echo = Callable[[str], None]


class StackError(FraudError):
    """A server of the local stack did not start, died, or could not be stopped."""


@dataclass
class Stack:
    """What runs, as recorded in <state>/local.json; build with `Stack.read`.

    settings: where the state folder and the user's files are.
    services: by name, "ray" and "mlflow"; Airflow's four begin with "airflow-".
    serve_port: the port of /score, once it was deployed.
    """

    settings: Settings
    services: dict[str, Service] = field(default_factory=dict)
    serve_port: int | None = None

    @classmethod
    def read(cls, settings: Settings) -> Stack:
        """Read the record; services that died or whose process id belongs to somebody else are left out."""
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
        """The port of "dashboard", "gcs" or "mlflow". Raises StackError when that server does not run."""
        for service in self.services.values():
            if purpose in service.ports:
                return service.ports[purpose]
        raise StackError(f"nothing of ours serves {purpose!r}: start it with `make up`")

    def url(self, purpose: str) -> str:
        """The address of "dashboard" or "mlflow"."""
        return f"http://{access.local_address() if purpose == 'dashboard' else HOST}:{self.port(purpose)}"

    @property
    def token_path(self) -> Path:
        """File with the token that Ray's dashboard, jobs and clients must show."""
        return self.settings.state / "ray_token"

    @property
    def metrics_key_path(self) -> Path:
        """File with a key for Prometheus; outside dev mode its hash must be among the accepted keys."""
        return self.settings.state / "metrics_key"

    def environment(self) -> dict[str, str]:
        """What the servers, the jobs and the command lines run with: loopback, a token, our MLflow, no telemetry."""
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
            # Despite its name this also keeps every Ray port of a Linux machine on the loopback interface.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(numba_cache)),
            "FRAUD_ROOT": str(self.settings.root),
            "FRAUD_STATE": str(self.settings.state),
            processes.MARK: str(self.settings.state),
            # Jobs run in a copy without .git; a bundle still says which commit made it.
            **({"GIT_COMMIT": commit} if (commit := git_commit()) else {}),
            **({"MLFLOW_TRACKING_URI": self.url("mlflow")} if "mlflow" in self.services else {}),
        }


def up(
    settings: Settings,
    echo: Echo,
    ports: Mapping[str, int] = MappingProxyType({}),
    servers: Set[str] = frozenset(SERVERS),
) -> Stack:
    """Start Ray and MLflow where they do not run already, wait until both are healthy, and record them.

    servers: only these, where MLflow is elsewhere or not needed.
    ports: others than those of RAY_PORTS and MLFLOW_PORTS to look for a free one from, by purpose. Raises StackError
    with the end of the log when one does not come up, ConfigError for a token that others can read or an address that
    others reach without token and key.
    """
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    stack = Stack.read(settings)
    for path in (stack.token_path, stack.metrics_key_path):
        access.make_token(path)
    if warning := access.check(stack.environment()):
        echo(f"warning: {warning}")
    if not set(stack.services) >= servers and (left := processes.find(settings.state)):
        # Half a stack is of no use: Ray's processes know MLflow's address from their environment.
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
    """Stop everything we started and nothing else; our logs stay in <state>/log. Raises StackError on a survivor."""
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
    """Ask a server on this machine; `body` makes it a POST of JSON unless `method` says otherwise.

    Returns (status, text), status 0 for no answer.
    """
    data = None if body is None else body.encode("utf-8")
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json", **(headers or {})}
    )
    # The loopback interface needs no proxy, whatever the environment names.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as answer:
            return int(answer.status), answer.read().decode("utf-8")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def ask_ray(stack: Stack, path: str, purpose: str = "dashboard") -> tuple[int, str]:
    """Ask the REST interface of Ray's dashboard, or of its agent, at `path`, with the token. Returns (status, text)."""
    token = stack.token_path.read_text(encoding="utf-8").strip()
    return ask(stack.url(purpose) + path, headers={"Authorization": f"Bearer {token}"})


def find_exposure(stack: Stack) -> str:
    """What others reach that they should not, in words; "" for nothing.

    Checks the effect of two variables that Ray was started with: RAY_AUTH_MODE, and RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER,
    which was read in Ray 2.60.0 and is documented for another purpose.
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
    # The dashboard answers some seconds before the agent that starts jobs does, and a submission in between fails.
    return ask_ray(stack, "/api/local_raylet_healthz", "agent")[0] == 200 and ask_ray(stack, "/api/jobs/")[0] == 200


def _record(settings: Settings) -> Path:
    return settings.state / "local.json"


def session_folder(state: Path) -> Path:
    """Ray's session folder. It holds sockets, whose paths may have 107 characters, so it cannot lie below ours."""
    return Path(tempfile.gettempdir()) / f"fraud-ray-{_short_name(state)}"


def _ingress(state: Path, ports: Mapping[str, int], echo: Echo) -> dict[str, str]:
    """What puts HAProxy before the replicas; nothing where its files have no good place."""
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
    """HAProxy's folder, with sockets too, which lie deeper."""
    return Path(tempfile.gettempdir()) / f"fraud-ha-{_short_name(state)}"


def _short_name(state: Path) -> str:
    return hashlib.sha256(str(state).encode()).hexdigest()[:10]


def choose_ports(preferred_ports: Mapping[str, int], echo: Echo) -> dict[str, int]:
    """Find a free port for every purpose, from the wanted one up."""
    chosen: dict[str, int] = {}
    for purpose, preferred in preferred_ports.items():
        chosen[purpose] = processes.free_port(preferred, avoid=chosen.values())
        if chosen[purpose] != preferred:
            echo(f"port {preferred} ({purpose}) is taken by another program: using {chosen[purpose]}")
    return chosen


def _start_mlflow(stack: Stack, preferred_ports: Mapping[str, int], echo: Echo) -> Service:
    state = stack.settings.state
    ports = choose_ports({name: preferred_ports[name] for name in MLFLOW_PORTS}, echo)
    # One worker: several that create one SQLite store at once lock each other out.
    command = [str(BIN / "mlflow"), "server", "--host", HOST, "--port", str(ports["mlflow"]), "--workers", "1"]
    environment = {name: value for name, value in stack.environment().items() if name != "MLFLOW_TRACKING_URI"}
    environment |= mlflow_server.environment(stack.settings)  # not by flags: they may hold a password
    return processes.start("mlflow", command, state=state, environment=environment, ports=ports)


def _start_ray(stack: Stack, preferred_ports: Mapping[str, int], echo: Echo) -> Service:
    state = stack.settings.state
    ports = choose_ports({name: preferred_ports[name] for name in RAY_PORTS}, echo)
    folder = access.make_private_folder(session_folder(state))
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--log-color", "false"]
    command += ["--num-cpus", str(max(LEAST_CPUS, os.cpu_count() or 1)), "--temp-dir", str(folder / "r")]
    command += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--min-worker-port", "0", "--max-worker-port", "0"]
    command += ["--port", str(ports["gcs"]), "--ray-client-server-port", str(ports["client"])]
    command += ["--dashboard-host", access.host(), "--dashboard-port", str(ports["dashboard"])]
    command += ["--dashboard-agent-listen-port", str(ports["agent"])]
    environment = {
        **stack.environment(),
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        **_ingress(state, ports, echo),
    }
    return processes.start("ray", command, state=state, environment=environment, ports=ports)


def wait(stack: Stack, name: str, is_healthy: Callable[[], bool], echo: Echo) -> None:
    """Wait until a service is healthy. Raises StackError with the end of its log when it ends, or after 180 s."""
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
