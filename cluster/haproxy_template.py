"""Edit the HAProxy configuration that Ray Serve writes (read in Ray 2.60.0).

Ray's template (ray/serve/_private/haproxy_templates.py) opens HAProxy's metrics and statistics pages on every
interface, lists the routes to anybody, and sends a syslog line per request even if no syslog runs. Each edit must match
as often as in Ray 2.60.0. Otherwise it raises LibraryChangedError, and HAProxy must not start.
"""

from __future__ import annotations

import os
import re
import socket

from cluster.listeners import Listener
from cluster.ray_private import ray_changed

_LOOPBACK = "127.0.0.1"
_LOG_VARIABLE, _DEFAULT_LOG = "RAY_SERVE_HAPROXY_LOG_TARGET", "127.0.0.1:514"
_BIND = r"^[ \t]+bind (\S+)(?: .*)?$"
_SERVE_PORT = r"^frontend http_frontend\n[ \t]+bind (\S+)\n"
# Two processes cannot share these: statistics sockets and pages, and the server-state file.
_OWN_LINES = ("stats socket /", "server-state-base ", "server-state-file ", "load-server-state-from-file ")
_OWN_SECTIONS = ("frontend prometheus", "listen stats")


def harden(config: str, metrics_port: int, stats_port: int) -> str:
    """Bind HAProxy's pages to loopback, answer 401 for the list of routes, drop the default syslog.

    Raises LibraryChangedError if Ray's template changed or opens an unexpected port.
    """
    for section, port in (("frontend prometheus", metrics_port), ("listen stats", stats_port)):
        config = _edit(
            rf"^({section}\n[ \t]+bind )\*?:{port}$", rf"\g<1>{_LOOPBACK}:{port}", config, f"the port of {section!r}"
        )
    config = _edit(
        r"^([ \t]*http-request return status )\d+ .* if routes$", r"\g<1>401 if routes", config, "the list of routes"
    )
    if os.environ.get(_LOG_VARIABLE, _DEFAULT_LOG) == _DEFAULT_LOG:
        config = _edit(rf"^[ \t]*log {re.escape(_DEFAULT_LOG)} .*\n", "", config, "the line for syslog")
    _edit(_SERVE_PORT, "", config, "the port of Serve")
    _edit(_BIND, "", config, "a port", times=3)
    return config


def standby_config(config: str) -> str:
    """The configuration for a second HAProxy: no statistics, no state file. Raises LibraryChangedError."""
    for line in _OWN_LINES:
        config = _edit(rf"^[ \t]*{line}.*\n", "", config, f"a line {line.strip()!r}")
    for section in _OWN_SECTIONS:
        config = _edit(rf"^{section}\n(?:[ \t]+.*\n|\n)*", "", config, f"a section {section!r}")
    return config


def without_serve_port(config: str) -> str:
    """The configuration without the port of /score. Raises LibraryChangedError."""
    return _edit(r"^(frontend http_frontend\n)[ \t]+bind \S+\n", r"\g<1>", config, "the port of Serve")


def has_routes(config: str) -> bool:
    """Whether the configuration routes to a deployed application."""
    return re.search(r"^[ \t]+use_backend ", config, re.MULTILINE) is not None


def configured_listeners(config: str) -> set[Listener]:
    """The addresses in the configuration's bind lines."""
    ports = set()
    for address in re.findall(_BIND, config, re.MULTILINE):
        host, _, port = address.rpartition(":")
        host = "0.0.0.0" if host in ("", "*") else host.strip("[]")
        ports |= {Listener(str(entry[4][0]), int(port)) for entry in socket.getaddrinfo(host, None)}
    return ports


def _edit(pattern: str, replacement: str, config: str, what: str, *, times: int = 1) -> str:
    edited, matches = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if matches != times:
        raise ray_changed(f"writes a HAProxy configuration with {what} {matches} times instead of {times}")
    return edited
