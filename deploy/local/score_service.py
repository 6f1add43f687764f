"""The Serve application of the local stack: deploy it, save what serves, restore it, end it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy import processes
from deploy.local import access, services
from deploy.local.services import BIN, CODE, Echo, Stack, StackError
from fraud.settings import Settings, context

CONFIG = CODE / "serve_app" / "config.yaml"
DEPLOY_TIMEOUT_S = 300.0
END_TIMEOUT_S = 120.0  # a replica may take 60 s: its open requests, decisions and history
_HTTP_OPTIONS = ("host", "port", "request_timeout_s")  # of all that Serve reports, those of our configuration


def saved(settings: Settings) -> Path:
    """The configuration that was deployed last, for the next `make up`."""
    return settings.state / "serve.yaml"


def details(stack: Stack) -> dict[str, Any]:
    """What Serve reports of itself; {} if Ray's dashboard does not answer."""
    code, answer = services.ask_ray(stack, "/api/serve/applications/")
    return json.loads(answer) if code == 200 else {}


def configure(stack: Stack, template: Path, model_name: str, echo: Echo) -> Path:
    """Save a copy of `template` with this stack's host and port and the model's name. Returns its path."""
    import yaml

    config = yaml.safe_load(template.read_text(encoding="utf-8"))
    http = config.setdefault("http_options", {})
    preferred = int(http.get("port", 8000))
    # Serve keeps its first port until Ray stops.
    running = details(stack).get("http_options")
    port = int(running["port"]) if running else processes.free_port(preferred)
    if port != preferred and not running:
        echo(f"port {preferred} (/score) is taken by another program: using {port}")
    stack.serve_port = port
    stack.write()
    http.update(host=access.host(), port=port)
    for application in config["applications"]:
        variables = application.setdefault("runtime_env", {}).setdefault("env_vars", {})
        variables[context.MODEL_NAME] = model_name
    return _save(stack.settings, config)


def deploy(stack: Stack, config: Path, echo: Echo) -> None:
    """Deploy and wait until the application runs: `serve deploy` exits with 0 before the deployment starts.

    Raises StackError with the reason if it does not run.
    """
    log = stack.settings.state / "log" / "deploy.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(BIN / "serve"), "deploy", "--address", stack.url("dashboard"), str(config)]
    with log.open("wb") as output:
        ended = subprocess.run(
            command, env=stack.environment(), cwd=CODE, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            check=False,
        )  # fmt: skip
    if ended.returncode != 0:
        echo(processes.last_lines(log))
        raise StackError(f"`serve deploy` failed with exit code {ended.returncode}; its log is {log}")
    began, states = time.monotonic(), dict[str, str]()
    while time.monotonic() - began < DEPLOY_TIMEOUT_S:
        applications = details(stack).get("applications", {})
        states = {name: application["status"] for name, application in applications.items()}
        for name, state in states.items():
            if state in ("DEPLOY_FAILED", "UNHEALTHY"):
                reason = applications[name]["message"].strip()
                echo("\n".join(reason.splitlines()[-20:]))
                last_line = (reason.splitlines() or ["no reason given"])[-1]
                raise StackError(f"application {name!r} is {state}: {last_line}")
        if states and set(states.values()) == {"RUNNING"}:
            return
        time.sleep(0.5)
    raise StackError(f"the application is not running after {DEPLOY_TIMEOUT_S:.0f} s: {states}")


def save_running(stack: Stack) -> bool:
    """Save the configuration of what serves now, also if it was deployed by hand. Returns whether anything serves."""
    serving = details(stack)
    configs = [application.get("deployed_app_config") for application in serving.get("applications", {}).values()]
    applications = [config for config in configs if config]
    if applications:
        http = serving.get("http_options") or {}
        _save(
            stack.settings,
            {
                "proxy_location": serving.get("proxy_location") or "EveryNode",
                "http_options": {name: http[name] for name in _HTTP_OPTIONS if http.get(name) is not None},
                "applications": applications,
            },
        )
    return bool(configs)


def restore(stack: Stack, echo: Echo) -> None:
    """Deploy what served last, and wait until it is ready. Does nothing if something serves or nothing ever did.

    Raises StackError if it does not get ready.
    """
    import yaml

    template = saved(stack.settings)
    if not template.exists() or details(stack).get("applications"):
        return
    names = [
        application.get("runtime_env", {}).get("env_vars", {}).get(context.MODEL_NAME)
        for application in yaml.safe_load(template.read_text(encoding="utf-8"))["applications"]
    ]
    name = os.environ.get(context.MODEL_NAME) or next(filter(None, names), None) or stack.model_name
    echo(f"deploying /score with the model {name} again")
    try:
        deploy(stack, configure(stack, template, name, echo), echo)
        wait_until_ready(stack)
    except StackError as error:
        raise StackError(f"{error}; Ray and MLflow run, and `make up BARE=1` leaves /score out") from error
    stack.remember({context.MODEL_NAME: name})


def wait_until_ready(stack: Stack, timeout_s: float = DEPLOY_TIMEOUT_S) -> None:
    """Wait until /readyz answers 200. Raises StackError with its answer after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (answer := ask(stack, "/readyz"))[0] != 200:
        if time.monotonic() > deadline:
            raise StackError(
                f"/score is not ready after {timeout_s:.0f} s: {answer[0] or 'no answer'} {answer[1][:300]}"
            )
        time.sleep(0.3)


def ask(stack: Stack, path: str) -> tuple[int, str]:
    """GET a path of /score's server, with Prometheus's key. Returns (status, text), status 0 without an answer."""
    headers: Mapping[str, str] = {}
    if stack.metrics_key_path.exists():
        headers = {"X-API-Key": stack.metrics_key_path.read_text(encoding="utf-8").strip()}
    return services.ask(f"http://{access.local_address()}:{stack.serve_port}{path}", headers=headers)


def end(stack: Stack, echo: Echo) -> None:
    """Save what serves and end Serve in order: open requests, decisions and live history are written first."""
    if "ray" not in stack.services or not save_running(stack):
        return
    # Serve keeps a replica for 30 s, until HAProxy has dropped it.
    echo("ending /score in order: its last requests, decisions and history (half a minute) ...")
    token = stack.token_path.read_text(encoding="utf-8").strip()
    code, answer = services.ask(
        f"{stack.url('dashboard')}/api/serve/applications/",
        headers={"Authorization": f"Bearer {token}"}, method="DELETE", timeout_s=END_TIMEOUT_S,
    )  # fmt: skip
    if code != 200:
        echo(f"warning: Serve did not end in order ({code or 'no answer'} {answer[:200]}): replicas are stopped")


def _save(settings: Settings, config: Mapping[str, Any]) -> Path:
    import yaml

    path = saved(settings)
    temporary = path.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    temporary.replace(path)
    return path
