"""Edit the HAProxy configuration that Ray Serve writes (read in Ray 2.60.0).

Ray's template (ray/serve/_private/haproxy_templates.py) opens HAProxy's metrics and statistics pages on every
interface, lists the routes to anybody, sends a syslog line per request even if no syslog runs, and answers text while
no replica does. Each edit must match as often as in Ray 2.60.0. Otherwise it raises LibraryChangedError, and HAProxy
must not start.
"""

from __future__ import annotations

import json
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
_NOT_READY = "not_ready", "no replica is ready: the service is being deployed or restarted"
_FAILED = {
    502: ("no_answer", "the replica ended without an answer"),
    503: _NOT_READY,
    504: ("no_answer", "the replica did not answer in time"),
}
# Ray Serve's own proxy, which HAProxy asks while an application has no replica. It answers text, and 404 or 503.
_BACKUP_SERVER = r"^[ \t]+server (\S+) \S+ check backup$"


def harden(config: str, metrics_port: int, stats_port: int) -> str:
    """Bind HAProxy's pages to loopback, answer 401 for the list of routes and JSON for errors, drop the default syslog.

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
    config = _answer_json(config)
    _edit(_SERVE_PORT, "", config, "the port of Serve")
    _edit(_BIND, "", config, "a port", times=3)
    return config


def _answer_json(config: str) -> str:
    """Answer errors in the form of the replicas' (serve_app.request.models.Problems), 503 with Retry-After."""
    for status, (kind, text) in _FAILED.items():
        answer = f"http-error status {status} {_json(kind, text)}"
        config = _edit(rf"^([ \t]*)errorfile {status} .*$", rf"\g<1>{answer}", config, f"the file for {status}")
    if names := sorted(set(re.findall(_BACKUP_SERVER, config, re.MULTILINE))):
        condition = f"{{ srv_name {' '.join(names)} }} {{ res.hdr(content-type) -m beg text/plain }} !{{ status 200 }}"
        rule = f"    http-response return status 503 {_json(*_NOT_READY)} if {condition}"
        config = _edit(_SERVE_PORT, rf"\g<0>{rule}\n", config, "the port of Serve")
    status, kind, text = 404, "not_found", "no application answers at this path"
    if not has_routes(config):
        status, (kind, text) = 503, _NOT_READY
    return _edit(
        r"^(backend default_backend\n[ \t]*http-request return status )404\b.*$",
        rf"\g<1>{status} {_json(kind, text)}",
        config,
        "the answer to unknown paths",
    )


def _json(kind: str, text: str) -> str:
    """The arguments of a HAProxy rule that answers with one problem."""
    remedy = "see GET /docs for the paths there are" if kind == "not_found" else "try again after a second"
    entry = {"type": kind, "loc": ["path"], "msg": text, "field": None, "remedy": remedy}
    retry = "" if kind == "not_found" else " hdr Retry-After 1"
    return f"content-type application/json string '{json.dumps({'detail': [entry]})}'{retry}"


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
