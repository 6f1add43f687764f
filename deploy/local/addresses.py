"""Addresses of the local stack, for people and for shells."""

from __future__ import annotations

from deploy.local import access, airflow, services
from deploy.local.services import Stack


def addresses(stack: Stack) -> list[str]:
    """One line per page that a user can open."""
    lines = [
        f"Ray dashboard  {stack.url('dashboard')}   (log in with the token in {stack.token_path})",
        f"MLflow         {stack.url('mlflow')}",
    ]
    if airflow.name_of("api-server") in stack.services:
        user, password = airflow.login(stack.settings)
        lines.append(f"Airflow        {stack.url('airflow')}   (user {user}, password {password})")
    if stack.serve_port:
        lines.append(f"/score, /docs  http://{access.local_address()}:{stack.serve_port}/docs")
    return lines


def shell_line(stack: Stack) -> str:
    """The line to paste into a shell for `ray job submit` and `serve deploy`: Ray's address and token."""
    address = stack.url("dashboard")
    return (
        f"for `ray` and `serve` in your shell:\n  export PATH={services.BIN}:$PATH RAY_API_SERVER_ADDRESS={address} "
        f"RAY_DASHBOARD_ADDRESS={address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={stack.token_path}"
    )
