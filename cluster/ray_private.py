"""The private parts of Ray that our processes use (read in Ray 2.60.0), each with a check that it took effect.

docs/security.md lists them under "Private parts of libraries". The edits of Ray's HAProxy template are in
`cluster.haproxy_template`.
"""

from __future__ import annotations

import importlib.util
import re
import socket
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster import exposure
from cluster.listeners import Listener, listeners
from fraud.errors import LibraryChangedError, library_changed

_VERSION_READ = "2.60.0"
# "module:function"; the function returns the middleware of every HTTP server of the process.
MIDDLEWARES_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
# `cluster.ingress` sets it to 1: replicas listen for HTTP themselves.
HAPROXY_VARIABLE = "RAY_SERVE_ENABLE_HA_PROXY"
_INTERNAL_ADDRESS = "[::]:0"


def ray_changed(change: str) -> LibraryChangedError:
    """The error for behaviour that differs from Ray 2.60.0."""
    return library_changed("ray", _VERSION_READ, change)


class ReplicaPorts:
    """Bind a Serve replica's internal gRPC server to its node's address, and check every port of the replica.

    Ray binds that server to every interface (`add_port_to_grpc_server(server, "[::]:0")` in
    ray/serve/_private/replica.py), requires no token and unpickles what it receives: anybody who reaches the port can
    run code. Other nodes connect to the node's address, so binding to it is enough. On 127.0.0.1 the port is closed to
    the network.

    Construct it in the deployment's constructor: Ray binds the port after that and before the first health check.
    Raises LibraryChangedError if Ray has no such function.
    """

    def __init__(self) -> None:
        import ray.util
        from ray.serve._private import replica

        bind = getattr(replica, "add_port_to_grpc_server", None)
        if bind is None:
            raise ray_changed("has no ray.serve._private.replica.add_port_to_grpc_server, which binds a replica's port")
        self._node = ray.util.get_node_ip_address()
        self._internal_ports: set[int] = set()
        self._ray_core_listeners = listeners()  # of the worker process; they require Ray's token

        def bind_to_node(server: Any, address: str) -> int:
            if address != _INTERNAL_ADDRESS:
                raise ray_changed(f"binds a replica's internal port to {address!r} instead of {_INTERNAL_ADDRESS!r}")
            port = int(bind(server, f"[{self._node}]:0" if ":" in self._node else f"{self._node}:0"))
            self._internal_ports.add(port)
            return port

        replica.add_port_to_grpc_server = bind_to_node

    def check(self, http_host: str) -> None:
        """Raise LibraryChangedError if Ray bypassed our binding or the replica listens on an unexpected address.

        http_host: address of Serve's HTTP server; a replica behind HAProxy listens on it too.
        """
        if not self._internal_ports:
            raise ray_changed("did not call add_port_to_grpc_server, so a replica's internal port may be public")
        open_ports = sorted(
            listener
            for listener in listeners() - self._ray_core_listeners
            if not exposure.is_loopback(listener.ip) and not self._is_expected(listener, _addresses(http_host))
        )
        if open_ports:
            shown = ", ".join(map(str, open_ports))
            raise ray_changed(
                f"lets a replica listen on {shown}; expected were {self._node}, and Serve's HTTP on {http_host}"
            )

    def _is_expected(self, listener: Listener, http_addresses: Collection[str]) -> bool:
        if listener.ip == self._node:
            return True
        if listener.port in self._internal_ports:
            return False
        first, last = (_serve_constant(f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT") for end in ("MIN", "MAX"))
        return listener.ip in http_addresses and first <= listener.port <= last


def is_behind_haproxy(environment: Mapping[str, str]) -> bool:
    """Whether this process's Ray runs HAProxy in front of replicas that take HTTP themselves."""
    return environment.get(HAPROXY_VARIABLE) == "1"


def serve_host() -> str:
    """The address that Serve's HTTP servers listen on, from Serve's controller."""
    from ray.serve import context

    # A replica's constructor may run on its event loop, where Ray warns about blocking calls.
    with ThreadPoolExecutor(1) as pool:
        try:
            config = pool.submit(lambda: context._get_global_client().http_config).result()
            host = config.host
        except AttributeError as error:
            raise ray_changed(f"does not name the address of Serve's HTTP server ({error})") from error
    return str(host or exposure.LOOPBACK)


def free_cpus_by_node() -> list[float]:
    """Free CPUs of each node. The public `ray.available_resources()` returns only their sum."""
    from ray._private import state

    by_node = getattr(state, "available_resources_per_node", None)
    if by_node is None:
        raise ray_changed("has no ray._private.state.available_resources_per_node, which lists each node's free CPUs")
    return [resources.get("CPU", 0.0) for resources in by_node().values()]


def check_variables(names: Collection[str]) -> None:
    """Raise LibraryChangedError for a RAY_SERVE_* variable that Ray does not read, so that would have no effect."""
    package = importlib.util.find_spec("ray")
    folder = Path(package.origin or "").parent if package else Path()
    path = folder / "serve" / "_private" / "constants.py"
    try:
        known = set(re.findall(r'"(RAY_SERVE_\w+)"', path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ray_changed(f"has no readable {path.name} for Serve's settings ({error.strerror})") from None
    if unknown := sorted(set(names) - known):
        raise ray_changed(f"reads no {', '.join(unknown)}")


def _serve_constant(name: str) -> int:
    from ray.serve._private import constants

    value = getattr(constants, name, None)
    if not isinstance(value, int):
        raise ray_changed(f"has no ray.serve._private.constants.{name}")
    return value


def _addresses(host: str) -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return {host}
