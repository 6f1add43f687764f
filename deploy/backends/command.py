"""`python -m deploy.backends up|demo|down|status`: run the demo on PostgreSQL, S3 and Redis.

`up` starts the three servers on loopback. `demo` starts them and runs `make demo` with settings for them. With servers
of your own, set the same variables and run `make demo`. docs/backends.md has every setting.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deploy.backends.servers import BUCKET, HOST, Servers
from deploy.local import services
from deploy.local.command import echo, settings_here
from fraud.cli import examples
from fraud.data import filesystems
from fraud.settings import Settings, turn_telemetry_off
from fraud.settings.locations import HISTORY_URL
from fraud.settings.operations import MLFLOW_BACKEND

CARDS = "data/demo_cards.parquet"


def servers_of(settings: Settings) -> Servers:
    """The servers with their data below FRAUD_STATE."""
    return Servers.read(settings.state / "backends")


def inventory(servers: Servers) -> list[str]:
    """One line per store: rows of MLflow's tables, files per folder of the bucket, keys per kind in Redis."""
    import psycopg2
    import redis

    environment = servers.environment()
    lines = []
    with psycopg2.connect(environment[MLFLOW_BACKEND]) as database, database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
        (tables,) = cursor.fetchone() or (0,)
        counts = []
        for table in ("runs", "metrics", "params", "registered_models", "model_versions"):
            cursor.execute(f"SELECT count(*) FROM {table}")  # a constant name
            counts.append(f"{table} {(cursor.fetchone() or (0,))[0]:,}")
        lines.append(f"PostgreSQL     {tables} tables: {', '.join(counts)}")
    filesystem, root = filesystems.of(f"s3://{BUCKET}")
    files, size = Counter[str](), Counter[str]()
    for path, entry in filesystem.find(root, detail=True).items():
        folder = "/".join(path.split("/")[1:3])
        files[folder] += 1
        size[folder] += int(entry["size"])
    lines += [f"s3://{BUCKET}/{name}: {files[name]} files, {size[name]:,} bytes" for name in sorted(files)]
    keys = Counter(
        b":".join(key.split(b":")[:3]).decode()
        for key in redis.Redis.from_url(environment[HISTORY_URL]).scan_iter(count=1000)
    )
    lines += [f"Redis          {name}: {n:,} keys" for name, n in sorted(keys.items())] or ["Redis          no key"]
    return lines


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m deploy.backends",
        description=__doc__,
        **examples(
            "python -m deploy.backends demo",
            "python -m deploy.backends up && source var/backends/environment && make demo",
            "python -m deploy.backends down --wipe",
        ),
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="up|demo|down|status")

    def verb(name: str, text: str, flags: str = "") -> argparse.ArgumentParser:
        example = f"python -m deploy.backends {name} {flags}".rstrip()
        return verbs.add_parser(name, help=text, description=f"{text}.", **examples(example))

    verb("up", "Start PostgreSQL, Redis and an S3 server, or reuse the running ones")
    demo = verb("demo", "up, then make demo on them, with the cards' history in Redis", "--rows 20000")
    demo.add_argument("--data", help=f"your transactions (default: synthetic cards, made now as {CARDS} in the bucket)")
    demo.add_argument("--schema", default="handbook", help="schema YAML or a shipped name (default: %(default)s)")
    demo.add_argument("--config", help="training configuration, YAML or a shipped name (default: ray_jobs.train's)")
    demo.add_argument("--rows", type=int, default=50_000, help="how many synthetic cards (default: %(default)s)")
    down = verb("down", "Stop what up or demo started (Ray and MLflow: make down)", "--wipe")
    down.add_argument("--wipe", action="store_true", help="remove their data and passwords too")
    verb("status", "Show what is stored where")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; see `--help`. Raises FraudError."""
    arguments = _parser().parse_args(argv)
    settings = settings_here()
    turn_telemetry_off()
    servers = servers_of(settings)
    if arguments.verb == "down":
        servers.stop()
        if arguments.wipe:
            servers.wipe()
        echo("stopped")
        return 0
    if arguments.verb != "status":
        servers.start(echo)
        echo(f"settings with passwords for your shell: source {servers.environment_file}")
    elif len(servers.services) < 3:
        echo(f"not all run (only {', '.join(servers.services) or 'none'}): python -m deploy.backends up")
        return 1
    if arguments.verb == "up":
        return 0
    os.environ.update(servers.environment())
    if arguments.verb == "demo":
        _demo(arguments, settings_here())
    for line in inventory(servers):
        echo(line)
    return 0


def _demo(arguments: argparse.Namespace, settings: Settings) -> None:
    from deploy.local.demo import Demo

    if "mlflow" in services.Stack.read(settings).services:
        echo(f"MLflow at {HOST} runs already: `make down` first, if it was not started with these settings")
    if arguments.data is None:
        arguments.data = settings.stored(CARDS)
        make = [sys.executable, "-m", "ray_jobs.generate", "--kind", "cards"]
        subprocess.run(
            [*make, "--rows", str(arguments.rows), "--out", arguments.data, "--force"],
            check=True,
            cwd=Path(services.CODE),
        )
    Demo.from_arguments(arguments, settings, echo).run()
