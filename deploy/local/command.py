"""`python -m deploy.local up|demo|airflow|down|status|shell|env`: run the system on this machine.

It listens on loopback. FRAUD_HOST, an IP address, opens Ray's dashboard and /score to others; that requires API keys.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy import processes
from deploy.local import airflow, score_service, services
from deploy.local.services import Stack
from deploy.local.status import addresses, score_lines
from fraud.cli import examples
from fraud.errors import ConfigError
from fraud.settings import Settings, turn_telemetry_off


def echo(line: str) -> None:
    """Print a line and flush."""
    sys.stdout.write(line.rstrip("\n") + "\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description=__doc__,
        **examples(
            "python -m deploy.local demo --data transactions.parquet --schema schema.yaml",
            "python -m deploy.local shell -- serve status",
            "python -m deploy.local down",
        ),
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="up|demo|airflow|down|status|shell|env")

    def verb(name: str, text: str, *flags: str) -> argparse.ArgumentParser:
        example = " ".join(["python -m deploy.local", name, *flags])
        return verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **examples(example))

    up = verb("up", "start Ray and MLflow, or reuse the running ones, and what /score served last")
    demo = verb("demo", "up, then data, training, /score, a scored day and a drift report",
                "--data transactions.parquet --schema schema.yaml")  # fmt: skip
    demo.add_argument("--data", help="your transactions, CSV or Parquet (default: new synthetic ones)")
    demo.add_argument("--schema", default="transactions", help="schema YAML or a shipped name (default: %(default)s)")
    demo.add_argument("--config", help="training configuration YAML (default: that of ray_jobs.train)")
    demo.add_argument("--rows", type=int, default=50_000, help="how many synthetic transactions (default: %(default)s)")
    with_airflow = verb("airflow", "up, then Airflow with our DAGs")
    for starting in (up, with_airflow):
        starting.add_argument("--bare", action="store_true", help="do not deploy what /score served last")
    verb("down", "end /score in order, then stop everything that the other commands started")
    verb("status", "show what runs and where, and the state of /score")
    shell = verb("shell", "open $SHELL, or run a command, where `ray` and `serve` find this stack", "-- serve status")
    shell.add_argument("command", nargs="*", help="a command after `--` (default: $SHELL)")
    verb("env", "print the variables of `shell`, for `eval`")
    return top


def settings_here() -> Settings:
    """Settings; the default of FRAUD_ROOT is this repository."""
    return Settings.from_environment(default_root=services.CODE)


def status(settings: Settings) -> int:
    """Print what runs. Returns 0 if Ray and MLflow run, else 1."""
    stack = Stack.read(settings)
    if not set(stack.services) >= services.SERVERS:
        left = len(processes.find(settings.state))
        echo(
            "not running: start it with `make up`"
            + (f" ({left} processes of an earlier start are left)" if left else "")
        )
        return 1
    score = score_lines(stack)
    for line in [*addresses(stack), *score, "`ray` and `serve` find this stack in the shell of `make shell`"]:
        echo(line)
    return 0


def up(settings: Settings, *, is_bare: bool) -> None:
    """Start Ray and MLflow, and deploy what served last. Raises StackError if a part does not start."""
    stack = services.up(settings, echo)
    if not is_bare:
        score_service.restore(stack, echo)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables of `shell` and `env`. Raises ConfigError if the stack does not run."""
    stack = Stack.read(settings)
    if not set(stack.services) >= services.SERVERS:
        raise ConfigError("the stack does not run: start it with `make up`")
    return stack.shell_environment()


def enter_shell(settings: Settings, command: Sequence[str]) -> None:
    """Replace this process by $SHELL, or by `command`, in the environment of the stack."""
    variables = environment_of(settings)
    arguments = list(command) or [os.environ.get("SHELL") or "/bin/sh"]
    if not command and Path(arguments[0]).name == "bash":
        # After the user's own file, which may set PATH and the prompt. bash reads it only if it is interactive.
        path = settings.state / "shell.rc"
        lines = ["[ ! -f ~/.bashrc ] || . ~/.bashrc", *_exports(variables), 'PS1="(fraud) $PS1"']
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments += ["--rcfile", str(path)]
    try:
        os.execvpe(arguments[0], arguments, {**os.environ, **variables})
    except OSError as error:
        raise ConfigError(f"{arguments[0]} cannot be started: {error.strerror}") from None


def _exports(variables: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Raises FraudError if a step fails."""
    arguments = parser().parse_args(argv)
    settings = settings_here()
    turn_telemetry_off()
    if arguments.verb == "down":
        score_service.end(Stack.read(settings), echo)
        services.down(settings, echo)
    elif arguments.verb == "status":
        return status(settings)
    elif arguments.verb == "shell":
        enter_shell(settings, arguments.command)
    elif arguments.verb == "env":
        echo("\n".join(_exports(environment_of(settings))))
    elif arguments.verb == "airflow":
        airflow.binary()  # before anything starts
        up(settings, is_bare=arguments.bare)
        airflow.up(settings, echo)
        return status(settings)
    elif arguments.verb == "up":
        up(settings, is_bare=arguments.bare)
        return status(settings)
    else:
        from deploy.local.demo import Demo

        Demo.from_arguments(arguments, settings, echo).run()
    return 0
