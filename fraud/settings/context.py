"""The context of a running stack: the variables that lead a command to its registry, model, labels and Ray.

`make up` and `make demo` write it to `context.json` below FRAUD_STATE. Every command reads it where its environment
does not say otherwise, so nothing has to be exported or pasted.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.parse
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from fraud.errors import ConfigError
from fraud.settings.locations import Settings, state_folder
from fraud.settings.page import GROUPS

NAME = "context.json"
CONTEXT, TRACKING = "FRAUD_CONTEXT", "MLFLOW_TRACKING_URI"
MODEL_NAME, SCHEMA = "FRAUD_MODEL_NAME", "FRAUD_SCHEMA"
# These lead to the file, so they cannot stand in it.
_LEADING = {"FRAUD_ROOT", "FRAUD_STATE", CONTEXT}
_CONNECT_S = 5.0
# One of these in the environment leads to another Ray, whose token and addresses the stack does not know.
_RAY = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_DASHBOARD_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the stack wrote. variables: by name, without secrets; RAY_ADDRESS is that of Ray's GCS, for drivers."""

    path: Path
    variables: Mapping[str, str]

    def write(self) -> None:
        """Replace the file atomically, with mode 0600."""
        temporary = self.path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"variables": dict(self.variables)}, file, indent=2)
            file.write("\n")
        temporary.replace(self.path)


def names() -> list[str]:
    """The settings that a context may hold: all but secrets, and what leads to the file."""
    variables = [variable for group in GROUPS for _, variable in group.variables().values()]
    return sorted({variable.name for variable in variables if not variable.is_secret} - _LEADING)


def read(state: Path) -> Context | None:
    """The context in this state folder; None if no stack ever wrote one. Raises ConfigError if it is damaged."""
    path = state / NAME
    try:
        variables = json.loads(path.read_text(encoding="utf-8"))["variables"]
        return Context(path=path, variables={str(name): str(value) for name, value in variables.items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}): remove it, and `make up` writes it anew; or set "
            f"{CONTEXT}=off"
        ) from None


def of_environment(environment: Mapping[str, str]) -> Context | None:
    """The context that holds for this environment.

    None with FRAUD_CONTEXT=off, and where MLFLOW_TRACKING_URI names another registry: the stack's names and folders
    would be wrong there.
    """
    if environment.get(CONTEXT) == "off":
        return None
    context = read(state_folder(environment))
    if context is None or environment.get(TRACKING, "") not in ("", context.variables.get(TRACKING)):
        return None
    return context


def completed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the context's variables where it has none. What it sets itself wins."""
    context = of_environment(environment)
    if context is None:
        return dict(environment)
    variables = dict(context.variables)
    if any(environment.get(name) not in (None, "", variables.get(name)) for name in _RAY):
        variables = {name: value for name, value in variables.items() if not name.startswith("RAY_")}
    return {**environment, **{name: value for name, value in variables.items() if not environment.get(name)}}


def apply(environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete the environment of this process. Before Ray or MLflow is imported."""
    environment.update(completed(environment))


def source(settings: Settings, name: str, value: str) -> str:
    """The context's path, to be shown, if it has this variable with this value; else ""."""
    context = None if settings.context == "off" else read(settings.state)
    if context is None or context.variables.get(name) != value:
        return ""
    here = Path.cwd()
    return str(context.path.relative_to(here) if context.path.is_relative_to(here) else context.path)


def is_answering(address: str) -> bool:
    """Whether something listens at host:port or at a URL with a port."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def not_running(source: str) -> str:
    """The message for a context whose stack does not answer."""
    return f"the stack of {source} does not run: start it with `make up`, or set MLFLOW_TRACKING_URI"
