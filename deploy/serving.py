"""Serve a model in the foreground, as in the image: its own Ray, which requires its token, and /score with API keys.

    FRAUD_BUNDLE=/model FRAUD_API_KEY_FILE=/run/secrets/api_keys python -m deploy.serving
    python -m deploy.serving --check    # exit code 0 if /score can answer; health check of the image

The model is the bundle in FRAUD_BUNDLE, else the champion in the registry at MLFLOW_TRACKING_URI. Without a model or a
key it does not start, unless FRAUD_MODE is trial and none of them is configured (deploy.trial). SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from deploy import trial
from deploy.local import access, score_service, services
from deploy.local.command import echo
from deploy.local.command import parser as local_parser
from deploy.local.demo import Demo
from deploy.local.services import Stack, StackError
from fraud.cli import examples, run_command
from fraud.settings import Settings, turn_telemetry_off
from fraud.settings.serving import ServedModelSettings


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or ctrl-C. Raises StackError if Ray ends or the model cannot be served."""
    stack = services.up(settings, echo, servers={"ray"})
    try:
        demo = Demo.from_arguments(local_parser().parse_args(["demo"]), settings, echo)
        demo.stack = stack
        demo.deploy()
        echo(f"/score answers on {access.host()}:{stack.serve_port}")
        while stack.services["ray"].is_alive:
            time.sleep(1.0)
        raise StackError(f"Ray ended; its log is {stack.services['ray'].log}")
    except KeyboardInterrupt:
        echo("asked to end")
    finally:
        score_service.end(Stack.read(settings), echo)
        services.down(settings, echo)


def is_ready(settings: Settings) -> bool:
    """Whether /score can answer: a replica has a model."""
    port = Stack.read(settings).serve_port
    return port is not None and services.ask(f"http://{access.local_address()}:{port}/readyz")[0] == 200


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.serving",
        description=__doc__,
        **examples("FRAUD_BUNDLE=artifacts/bundle FRAUD_MODE=dev python -m deploy.serving"),
    )
    parser.add_argument("--check", action="store_true", help="only check whether /score can answer: exit code 0 or 1")
    arguments = parser.parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    if arguments.check:
        return 0 if is_ready(settings) else 1
    if trial.is_asked(settings, os.environ):
        os.environ.update(trial.prepare(settings, echo))
    bundle = ServedModelSettings.from_environment().bundle
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (bundle and Path(bundle).is_dir()):
        raise StackError("there is no model: set FRAUD_BUNDLE to a bundle's folder, or MLFLOW_TRACKING_URI")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(settings)
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
