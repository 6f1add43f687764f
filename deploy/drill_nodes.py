"""Kill a node under each kind of work and measure the cost: two Ray nodes on hosts made of Linux namespaces.

    python -m deploy.drill_nodes          # everything
    python -m deploy.drill_nodes score    # a day of partitions scored on both nodes, the worker node killed

The nodes start with the commands of cluster.yaml, with the head's state in Redis. A kill is SIGKILL to all Ray
processes of a host. Needs root on Linux, redis-server, openssh-server, rsync and iproute2.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from deploy.drills.node_head import head
from deploy.drills.node_jobs import score, sweep
from deploy.drills.node_serving import serve
from deploy.drills.ray_nodes import Nodes, drill_nodes
from fraud.cli import run_command
from fraud.settings import turn_telemetry_off

DRILLS: Mapping[str, Callable[[Nodes], dict[str, Any]]] = MappingProxyType(
    {"score": score, "sweep": sweep, "serve": serve, "head": head}
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drills and print their results as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.drill_nodes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", nargs="*", metavar="|".join(DRILLS), help="drills to run (default: all)")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.which) - set(DRILLS):
        parser.error(f"no drill {', '.join(sorted(unknown))}: there are {', '.join(DRILLS)}")
    turn_telemetry_off()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unwind, which ends the hosts
    results: dict[str, Any] = {}
    began = time.monotonic()
    with drill_nodes() as nodes:
        results["start_s"] = round(time.monotonic() - began, 1)
        for name in arguments.which or DRILLS:
            results[name] = DRILLS[name](nodes)
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
