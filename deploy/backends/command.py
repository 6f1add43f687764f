"""`python -m deploy.backends up|demo|down|status`: the demo on PostgreSQL, S3 and Redis, by settings alone.

`up` starts the three servers on loopback; `demo` starts them and runs `make demo` with the settings that lead to them;
with servers of your own, set the same variables and run `make demo`. docs/backends.md has every setting.
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
from deploy.local.command import say, settings_here
from fraud.data import filesystems
from fraud.settings import Settings, turn_telemetry_off
from fraud.settings.locations import HISTORY_URL
from fraud.settings.operations import MLFLOW_BACKEND

CARDS = "data/cards.parquet"


def servers_of(settings: Settings) -> Servers:
    """The servers whose data lie below FRAUD_STATE."""
    return Servers.read(settings.state / "backends")


def inventory(servers: Servers) -> list[str]:
    """What lies where now: rows of MLflow's tables, files by folder of the bucket, keys by kind in Redis."""
    import psycopg2
    import redis

    told = servers.environment()
    lines = []
    with psycopg2.connect(told[MLFLOW_BACKEND]) as database, database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
        (tables,) = cursor.fetchone() or (0,)
        counts = []
        for table in ("runs", "metrics", "params", "registered_models", "model_versions"):
            cursor.execute(f"SELECT count(*) FROM {table}")  # a constant name
            counts.append(f"{table} {(cursor.fetchone() or (0,))[0]:,}")
        lines.append(f"PostgreSQL     {tables} tables: {', '.join(counts)}")
    filesystem, root = filesystems.of(f"s3://{BUCKET}")
    files, size = Counter[str](), Counter[str]()
    for path, found in filesystem.find(root, detail=True).items():
        folder = "/".join(path.split("/")[1:3])
        files[folder] += 1
        size[folder] += int(found["size"])
    lines += [f"s3://{BUCKET}/{name}: {files[name]} files, {size[name]:,} bytes" for name in sorted(files)]
    keys = Counter(
        b":".join(key.split(b":")[:3]).decode() for key in redis.Redis.from_url(told[HISTORY_URL]).scan_iter(count=1000)
    )
    lines += [f"Redis          {name}: {n:,} keys" for name, n in sorted(keys.items())] or ["Redis          no key"]
    return lines


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m deploy.backends",
        description=__doc__,
        epilog="examples:\n"
        "  python -m deploy.backends demo\n"
        "  python -m deploy.backends up && source var/backends/environment && make demo\n"
        "  python -m deploy.backends down --wipe",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="up|demo|down|status")
    verbs.add_parser("up", help="start PostgreSQL, Redis and an S3 server, or reuse those that we started")
    demo = verbs.add_parser("demo", help="up, then make demo on them, with cards whose history is kept in Redis")
    demo.add_argument("--data", help=f"your transactions (default: synthetic cards, made now as {CARDS} in the bucket)")
    demo.add_argument("--schema", default="handbook", help="schema YAML or a shipped name (default: %(default)s)")
    demo.add_argument("--config", help="training configuration YAML (default: the one that training itself takes)")
    demo.add_argument("--rows", type=int, default=50_000, help="how many synthetic cards (default: %(default)s)")
    down = verbs.add_parser("down", help="stop what up or demo started (Ray and MLflow: make down)")
    down.add_argument("--wipe", action="store_true", help="remove their data and passwords too")
    verbs.add_parser("status", help="say what lies where")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; see `--help`. Raises FraudError."""
    given = _parser().parse_args(argv)
    settings = settings_here()
    turn_telemetry_off()
    servers = servers_of(settings)
    if given.verb == "down":
        servers.stop()
        if given.wipe:
            servers.wipe()
        say("stopped")
        return 0
    if given.verb != "status":
        servers.start(say)
        say(f"settings for your shell, passwords in them: source {servers.environment_file}")
    elif len(servers.services) < 3:
        say(f"not all run (only {', '.join(servers.services) or 'none'}): python -m deploy.backends up")
        return 1
    if given.verb == "up":
        return 0
    os.environ.update(servers.environment())
    if given.verb == "demo":
        _demo(given, settings_here())
    for line in inventory(servers):
        say(line)
    return 0


def _demo(given: argparse.Namespace, settings: Settings) -> None:
    from deploy.local.demo import Demo

    if "mlflow" in services.Stack.read(settings).services:
        say(f"MLflow at {HOST} runs already: `make down` first, if it was not started with these settings")
    if given.data is None:
        given.data = settings.stored(CARDS)
        make = [sys.executable, "-m", "ray_jobs.generate", "--kind", "cards"]
        subprocess.run([*make, "--rows", str(given.rows), "--out", given.data], check=True, cwd=Path(services.CODE))
    Demo.from_arguments(given, settings, say).run()
