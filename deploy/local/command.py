"""`python -m deploy.local up|demo|airflow|down|status`: run the system on this machine.

It listens on loopback. FRAUD_HOST, an IP address, opens Ray's dashboard and /score to others; that requires API keys.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deploy import processes
from deploy.local import airflow, services
from deploy.local.addresses import addresses, shell_line
from deploy.local.services import Stack
from fraud.settings import Settings, turn_telemetry_off

EPILOG = """examples:
  python -m deploy.local demo
  python -m deploy.local demo --data transactions.parquet --schema schema.yaml
  python -m deploy.local down
"""


def echo(line: str) -> None:
    """Print a line and flush."""
    sys.stdout.write(line.rstrip("\n") + "\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="up|demo|airflow|down|status")
    verbs.add_parser("up", help="start Ray and MLflow, or reuse the running ones")
    demo = verbs.add_parser("demo", help="up, then data, training, /score, a scored day and a drift report")
    demo.add_argument("--data", help="your transactions, CSV or Parquet (default: new synthetic ones)")
    demo.add_argument("--schema", default="transactions", help="schema YAML or a shipped name (default: %(default)s)")
    demo.add_argument("--config", help="training configuration YAML (default: that of ray_jobs.train)")
    demo.add_argument("--rows", type=int, default=50_000, help="how many synthetic transactions (default: %(default)s)")
    verbs.add_parser("airflow", help="up, then Airflow with our DAGs")
    verbs.add_parser("down", help="stop everything that the other commands started")
    verbs.add_parser("status", help="show what runs and where")
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
    for line in [*addresses(stack), shell_line(stack)]:
        echo(line)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Raises FraudError if a step fails."""
    arguments = parser().parse_args(argv)
    settings = settings_here()
    turn_telemetry_off()
    if arguments.verb == "down":
        services.down(settings, echo)
    elif arguments.verb == "status":
        return status(settings)
    elif arguments.verb == "airflow":
        airflow.binary()  # before anything starts
        services.up(settings, echo)
        airflow.up(settings, echo)
        return status(settings)
    elif arguments.verb == "up":
        services.up(settings, echo)
        return status(settings)
    else:
        from deploy.local.demo import Demo

        Demo.from_arguments(arguments, settings, echo).run()
    return 0
