"""Backend store and artifact root of our MLflow server: below FRAUD_STATE, or as two settings name them.

The server reads both from its environment, because every user of a machine can list command lines. Ray, jobs and
Airflow only get the server's address.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata

from fraud.data import filesystems
from fraud.errors import ConfigError
from fraud.settings import Settings
from fraud.settings.operations import MLFLOW_ARTIFACTS, MLFLOW_BACKEND, StackSettings

_POSTGRESQL = ("postgresql://", "postgresql+psycopg2://")
_CONNECT_S = 5
_APP = "fraud"  # the name of deploy.mlflow_page in pyproject.toml
# Prefixes of variables that only these servers may see.
_SECRET = (MLFLOW_BACKEND, "MLFLOW_BACKEND_STORE_URI", "AIRFLOW__DATABASE__", "PGPASS")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without database addresses and passwords."""
    return {name: value for name, value in environment.items() if not name.startswith(_SECRET)}


def app_arguments() -> list[str]:
    """Arguments of `mlflow server` for deploy.mlflow_page; none if this code is not installed."""
    is_installed = any(entry.name == _APP for entry in metadata.entry_points(group="mlflow.app"))
    return ["--app-name", _APP] if is_installed else []


def environment(settings: Settings, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables for MLflow's server, after checking that both stores answer.

    inherited: default os.environ. Raises ConfigError or ObjectStoreError that names the setting, never the password.
    """
    env = os.environ if inherited is None else inherited
    stack = StackSettings.from_environment(env)
    backend = stack.mlflow_backend or f"sqlite:///{settings.state}/mlflow.db"
    artifacts = settings.locate(stack.mlflow_artifacts or str(settings.state / "mlartifacts"))
    if stack.mlflow_backend:
        check_database(backend, env, MLFLOW_BACKEND)
        if backend.startswith("postgresql://"):  # the default driver depends on SQLAlchemy's version
            backend = backend.replace("://", "+psycopg2://", 1)
    filesystems.check(artifacts, MLFLOW_ARTIFACTS)
    variables = {"MLFLOW_BACKEND_STORE_URI": backend, "MLFLOW_ARTIFACTS_DESTINATION": artifacts}
    return variables | {name: value for name, value in env.items() if name.startswith("PGPASS")}


def check_database(url: str, env: Mapping[str, str], setting: str) -> None:
    """Connect to PostgreSQL once. Raises ConfigError if the address is invalid or the connection fails."""
    if url.startswith("sqlite:///"):
        return
    if not url.startswith(_POSTGRESQL):
        raise ConfigError(f"{setting} is neither sqlite:///... nor postgresql://USER:PASSWORD@HOST:5432/NAME")
    import psycopg2
    from psycopg2.extensions import parse_dsn

    plain = "postgresql://" + url.partition("://")[2]
    try:
        parts = parse_dsn(plain)
        if env.get("PGPASSFILE"):
            parts.setdefault("passfile", env["PGPASSFILE"])
        psycopg2.connect(**parts, connect_timeout=_CONNECT_S).close()
    except psycopg2.ProgrammingError:
        raise ConfigError(f"{setting} is no address: write postgresql://USER:PASSWORD@HOST:5432/NAME") from None
    except psycopg2.Error as error:
        database = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"
        line = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{setting}: PostgreSQL at {database} does not let user {parts.get('user', '')!r} in ({line}): check that "
            "it runs, the database, the user and the password"
        ) from None
