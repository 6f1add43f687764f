"""The local Airflow of `make airflow`: four components on loopback that use the Ray of `make up`."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from deploy import processes
from deploy.local import services
from deploy.local.services import CODE, HOST, Echo, Stack, StackError
from fraud.errors import ConfigError
from fraud.settings import Settings, context
from fraud.settings.external import PipelineSettings, SchedulerSettings

# The scheduler starts last, once the api-server answers: tasks that it starts earlier fail and use up a try.
COMPONENTS = {
    "api-server": ["api-server", "--workers", "1"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
}
PORTS = {"airflow": 8080}
USER = "admin"
# Of a synthetic world: each run of the daily DAG is one of its days.
SYNTHETIC = {"FRAUD_SYNTHETIC": "1", "FRAUD_DAILY_SCHEDULE": "*/3 * * * *", "FRAUD_WEEKLY_SCHEDULE": "*/20 * * * *"}
# How many of our tasks may run at once. A deferred task counts, because its Ray job runs.
POOLS = {
    "fraud_ray": {"slots": 4, "description": "Ray jobs of the scheduled DAGs", "include_deferred": True},
    "fraud_backfill": {"slots": 2, "description": "Ray jobs of a backfill", "include_deferred": True},
}
SETUP_TIMEOUT_S = 300.0


def name_of(component: str) -> str:
    """A component's name in Stack.services."""
    return f"airflow-{component}"


def binary() -> Path:
    """The airflow command of AIRFLOW_VENV (default: .venv-airflow). Raises ConfigError if it is missing."""
    venv = Path(os.environ.get("AIRFLOW_VENV") or ".venv-airflow")
    path = (venv if venv.is_absolute() else CODE / venv) / "bin" / "airflow"
    if not path.exists():
        raise ConfigError(f"there is no Airflow at {path}: `make airflow` installs it, or set AIRFLOW_VENV")
    return path


def home(settings: Settings) -> Path:
    """Airflow's own folder: database, logs, secrets."""
    return settings.state / "airflow"


def login(settings: Settings) -> tuple[str, str]:
    """User and password of the local Airflow, created at the first call."""
    path = home(settings) / "passwords.json"
    return USER, _stored_secrets(path, {USER: secrets.token_urlsafe(12)})[USER]


def is_synthetic(stack: Stack) -> bool:
    """Whether the DAGs make their own transactions: by FRAUD_SYNTHETIC, else in dev mode where no daily file is near.

    Without that, `fraud_daily_scoring` of a first try would wait for files that nobody writes.
    """
    variables = stack.environment()
    if asked := SchedulerSettings.from_environment(variables).synthetic:
        return asked == "1"
    pipeline, usual = PipelineSettings.from_environment(variables), PipelineSettings()
    is_set_up = (pipeline.daily_data, pipeline.history_data) != (usual.daily_data, usual.history_data)
    has_files = (stack.settings.root / usual.daily_data).parent.exists()
    return Settings.from_environment(variables).mode == "dev" and not is_set_up and not has_files


def _schema(stack: Stack) -> dict[str, str]:
    """The schema of what the stack serves, for the DAGs."""
    last = context.read(stack.settings.state)
    name = last.variables.get(context.SCHEMA) if last is not None else None
    return {context.SCHEMA: name} if name else {}


def environment(stack: Stack, port: int) -> dict[str, str]:
    """Environment of every Airflow process: loopback, SQLite, its own secrets, our DAGs, no usage data."""
    folder = home(stack.settings)
    login(stack.settings)
    fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    stored = _stored_secrets(
        folder / "secrets.json", {"jwt": secrets.token_hex(32), "api": secrets.token_hex(32), "fernet": fernet}
    )
    url = f"http://{HOST}:{port}"
    inherited = stack.environment()
    return {
        **(SYNTHETIC if is_synthetic(stack) else _schema(stack)),
        **{name: value for name, value in inherited.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")},
        "PATH": f"{binary().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        # Airflow's processes talk to each other over HTTP; no proxy for that.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST, "localhost"])),
        "no_proxy": ",".join(filter(None, [os.environ.get("no_proxy"), HOST, "localhost"])),
        # Otherwise the api-server's process title overwrites its environment, and `make down` cannot find it.
        "SPT_NOENV": "1",
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CODE / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(CODE / "dags" / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": stored["fernet"],
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": stored["api"],
        "AIRFLOW__API_AUTH__JWT_SECRET": stored["jwt"],
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "FRAUD_RAY_ADDRESS": stack.url("dashboard"),
        **{name: value for name, value in os.environ.items() if name.startswith("AIRFLOW__")},
    }


def up(settings: Settings, echo: Echo, ports: Mapping[str, int] = MappingProxyType({})) -> Stack:
    """Start the missing Airflow components, wait until all are healthy, and record them. Needs a running Ray.

    Raises StackError with the end of the log if a component does not start.
    """
    stack = Stack.read(settings)
    if "ray" not in stack.services:
        raise StackError("no Ray of ours runs: start it with `make up`")
    folder = home(settings)
    folder.mkdir(parents=True, exist_ok=True)
    api = stack.services.get(name_of("api-server"))
    port = api.ports["airflow"] if api else services.choose_ports({**PORTS, **ports}, echo)["airflow"]
    variables = environment(stack, port)
    if not all(name_of(component) in stack.services for component in COMPONENTS):
        if is_synthetic(stack):
            echo("Airflow makes its own transactions, a day every few minutes, below the folder synthetic: see")
            echo("docs/airflow.md. FRAUD_SYNTHETIC=0, or files in data/daily, end that from the next start on.")
        command(["db", "migrate"], variables, folder / "setup.log", echo)
        pools = folder / "pools.json"
        pools.write_text(json.dumps(POOLS, indent=2), encoding="utf-8")
        if not (folder / "pools.made").exists():  # a change made in Airflow afterwards stays
            command(["pools", "import", str(pools)], variables, folder / "setup.log", echo)
            (folder / "pools.made").touch()
    for component, arguments in COMPONENTS.items():
        if component == "scheduler":
            services.wait(stack, name_of("api-server"), lambda: health(port) is not None, echo)
        if name_of(component) not in stack.services:
            start_component(stack, component, [str(binary()), *arguments], variables, port)
    for component in COMPONENTS:
        services.wait(stack, name_of(component), lambda: is_healthy(port), echo)
    return stack


def start_component(
    stack: Stack, component: str, arguments: list[str], variables: Mapping[str, str], port: int
) -> None:
    """Start one component and record it."""
    name = name_of(component)
    ports = {"airflow": port} if component == "api-server" else {}
    stack.services[name] = processes.start(
        name, arguments, state=stack.settings.state, environment=variables, ports=ports
    )
    stack.write()


def health(port: int) -> dict[str, str] | None:
    """Status of the database and the components by the api-server; None if it does not answer."""
    status, answer = services.ask(f"http://{HOST}:{port}/api/v2/monitor/health")
    if status != 200:
        return None
    return {name: (part or {}).get("status") or "" for name, part in json.loads(answer).items()}


def is_healthy(port: int) -> bool:
    """Whether the database and all four components are healthy."""
    return set((health(port) or {"api-server": ""}).values()) == {"healthy"}


def command(arguments: list[str], variables: Mapping[str, str], log: Path, echo: Echo) -> None:
    """Run one airflow command. Raises StackError with the end of its output if it fails."""
    with log.open("ab") as output:
        ended = subprocess.run(
            [str(binary()), *arguments],
            env=dict(variables),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=SETUP_TIMEOUT_S,
            check=False,
        )
    if ended.returncode != 0:
        echo(processes.last_lines(log))
        raise StackError(f"`airflow {' '.join(arguments[:2])}` failed; its output is in {log}")


def _stored_secrets(path: Path, fresh: Mapping[str, str]) -> dict[str, str]:
    """Read the secrets in `path`; if it does not exist, write `fresh` with mode 0600 first."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(fresh), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))
