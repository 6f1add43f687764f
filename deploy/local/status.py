"""What runs, for people: the addresses of the local stack and the state of /score."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from deploy.local import access, airflow, score_service
from deploy.local.services import Stack

_WIDTH = 15


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


def score_lines(stack: Stack) -> list[str]:
    """Model, readiness, replicas and live history of /score; what to do if nothing serves."""
    serving = score_service.details(stack)
    applications = serving.get("applications") or {}
    if not applications:
        return ["/score          not deployed: `serve deploy serve_app/config.yaml` in `make shell`, or `make demo`"]
    port = (serving.get("http_options") or {}).get("port")
    if port != stack.serve_port:  # deployed by hand
        stack.serve_port = port
        stack.write()
    lines = [
        ("replicas", "; ".join(_replicas(name, application) for name, application in applications.items())),
        *_answers(stack),
    ]
    return [f"{title:<{_WIDTH}}{text}" for title, text in lines]


def _replicas(name: str, application: dict[str, Any]) -> str:
    parts = []
    for deployment in application["deployments"].values():
        running = sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
        parts.append(f"{running} of {deployment['target_num_replicas']}")
    return f"{', '.join(parts) or 'none yet'} running ({name}: {application['status']})"


def _answers(stack: Stack) -> Iterator[tuple[str, str]]:
    code, text = score_service.ask(stack, "/model")
    if code == 200:
        model = json.loads(text)
        yield "model", f"{model['model_name']} version {model['model_version']}"
    elif code == 401:
        yield "model", f"not shown: /score does not accept the key in {stack.metrics_key_path}"
    else:
        yield "model", f"no answer from /model ({code or text[:100]})"
    code, text = score_service.ask(stack, "/readyz")
    is_json = code in (200, 503) and text.startswith("{")
    yield "ready", "yes" if code == 200 else f"no: {text[:200] or code}"
    history = json.loads(text).get("history") if is_json else None
    if history is not None:
        began = ", ".join(f"{plan['entity']} from {plan['began_from'] or 'nothing yet'}" for plan in history["plans"])
        yield "history", f"{'being filled' if history['is_behind'] else 'complete'} ({began})"
        yield "newest row", _age(history["newest_event"])
        yield "newest label", _age(history["newest_label"])


def _age(moment: str | None) -> str:
    """The moment and how long ago it is, e.g. "2026-11-30T20:00:00Z, 3.2 days ago"."""
    if moment is None:
        return "none"
    then = dt.datetime.fromisoformat(moment)
    seconds = (dt.datetime.now(dt.UTC) - (then if then.tzinfo else then.replace(tzinfo=dt.UTC))).total_seconds()
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{moment}, {seconds / length:.1f} {unit} ago"
    return f"{moment}, {seconds:.0f} seconds ago"
