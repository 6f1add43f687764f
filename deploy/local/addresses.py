"""Where people and programs find the local stack."""

from __future__ import annotations

from deploy.local import access, airflow, services
from deploy.local.services import Stack


def addresses(stack: Stack) -> list[str]:
    """One line for every page a user can open."""
    lines = [
        f"Ray dashboard  {stack.url('dashboard')}   (it asks for the token in {stack.token_path})",
        f"MLflow         {stack.url('mlflow')}",
    ]
    if airflow.name_of("api-server") in stack.services:
        user, password = airflow.login(stack.settings)
        lines.append(f"Airflow        {stack.url('airflow')}   (user {user}, password {password})")
    if stack.serve_port:
        lines.append(f"/score, /docs  http://{access.local_address()}:{stack.serve_port}/docs")
    return lines


def shell_line(stack: Stack) -> str:
    """What to paste into a shell so that `ray job submit` and `serve deploy` find this Ray and its token."""
    address = stack.url("dashboard")
    return (
        f"for `ray` and `serve` in your shell:\n  export PATH={services.BIN}:$PATH RAY_API_SERVER_ADDRESS={address} "
        f"RAY_DASHBOARD_ADDRESS={address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={stack.token_path}"
    )
