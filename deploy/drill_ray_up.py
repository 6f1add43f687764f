"""Try `ray up cluster.yaml`: two hosts made of Linux namespaces, ssh, a training on both, `ray down`.

    python -m deploy.drill_ray_up          # up, a training with two workers on two nodes, down
    python -m deploy.drill_ray_up --kill   # also SIGKILL the worker node's raylet during the training

The hosts have their own network, processes, home and sshd (deploy/drills/hosts.py) and share this environment. Needs
root on Linux, openssh-server, rsync and iproute2. Takes a few minutes and about 3 GiB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from deploy.drills import training
from deploy.drills.cluster import Cluster, drill_cluster, host_processes, wait_until
from deploy.drills.hosts import DrillError
from fraud.cli import run_command
from fraud.settings import turn_telemetry_off

Echo = Callable[[str], None]


def drill(echo: Echo, *, kill: bool) -> dict[str, Any]:
    """Run the drill. Returns the results, JSON-ready. Raises DrillError if a step fails."""
    result: dict[str, Any] = {}
    with drill_cluster() as cluster:
        result["ray_up_s"] = round(cluster.seconds, 1)
        echo(f"ray up: {cluster.seconds:.1f} s")
        began = time.monotonic()
        nodes = cluster.wait_for_nodes(2)
        result["worker_joined_s"] = round(time.monotonic() - began, 1)
        echo(f"2 nodes are in, {result['worker_joined_s']} s later: {', '.join(nodes)}")
        result["mode_of_token"] = [
            oct((host.home / ".ray/auth_token").stat().st_mode & 0o777) for host in cluster.hosts.hosts
        ]
        result["without_token"] = {
            path: _asked(cluster, path) for path in ("/api/jobs/", "/api/serve/applications/", "/nodes")
        }
        result["public_listeners"] = cluster.hosts.ssh(
            cluster.head, "ss -Hltn 'sport = :8265' | awk '{print $4}'"
        ).stdout.split()
        echo(f"without the token: {result['without_token']}; the dashboard listens on {result['public_listeners']}")
        training.write_data(cluster)
        trained = training.train(cluster, kill=cluster.hosts.hosts[1] if kill else None)
        result["training"] = dataclasses.asdict(trained)
        echo(f"training: {result['training']}")
        if not set(nodes.values()) <= set(trained.nodes):
            raise DrillError(f"the training ran on {trained.nodes}, not on both of {nodes}")
        if kill:
            began = time.monotonic()
            again = cluster.wait_for_nodes(2)
            result["node_back_s"] = round(time.monotonic() - began, 1)
            echo(f"the autoscaler started the node again: {set(again.values()) - set(nodes.values())}")
        began = time.monotonic()
        cluster.down()
        result["ray_down_s"] = round(time.monotonic() - began, 1)
        wait_until(lambda: not _rays(cluster), "end of Ray on the hosts")  # Ray drains before it ends
        result["gone_s"] = round(time.monotonic() - began, 1)
        echo(f"ray down: {result['ray_down_s']} s; nothing of Ray is left on the hosts after {result['gone_s']} s")
    return result


def _rays(cluster: Cluster) -> list[str]:
    """Names of the Ray processes on the hosts."""
    names = [process.name() for host in cluster.hosts.hosts for process in host_processes(host)]
    return [name for name in names if name in ("raylet", "gcs_server")]


def _asked(cluster: Cluster, path: str) -> int:
    """The HTTP status of the head's dashboard for a request without the token."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.port}{path}", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drill and print its results as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.drill_ray_up", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kill", action="store_true", help="SIGKILL the worker node's raylet during the training")
    arguments = parser.parse_args(argv)
    turn_telemetry_off()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unwind, which runs `ray down` and removes the hosts
    result = drill(_echo, kill=arguments.kill)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def _echo(text: str) -> None:
    """Print a line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_command(main, uses_stack=False)
