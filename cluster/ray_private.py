"""Every private part of Ray that a running process leans on, read in Ray 2.60.0, with a check of each effect.

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
# Names "module:function"; the function returns a list of middleware for every HTTP server of the process.
MIDDLEWARES_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
# Set to 1 by `cluster.ingress`: replicas listen for HTTP themselves.
HAPROXY_VARIABLE = "RAY_SERVE_ENABLE_HA_PROXY"
_INTERNAL_ADDRESS = "[::]:0"


def ray_changed(change: str) -> LibraryChangedError:
    """The error to raise where Ray does not do what 2.60.0 did."""
    return library_changed("ray", _VERSION_READ, change)


class ReplicaPorts:
    """Binds a Serve replica's internal gRPC server to its node's address, and checks every port of the replica.

    Ray binds that server to every interface (`add_port_to_grpc_server(server, "[::]:0")` in
    ray/serve/_private/replica.py), asks for no token, and unpickles what arrives: whoever reaches the port runs code.
    Ray binds it after the deployment's constructor and before the first health check. Other nodes call the node's
    address, so nothing is lost; where Ray runs on 127.0.0.1 the port is closed to the network.

    Construct it in the deployment's constructor. Raises LibraryChangedError where Ray has no such function.
    """

    def __init__(self) -> None:
        import ray.util
        from ray.serve._private import replica

        bind = getattr(replica, "add_port_to_grpc_server", None)
        if bind is None:
            raise ray_changed("has no ray.serve._private.replica.add_port_to_grpc_server, which binds a replica's port")
        self._node = ray.util.get_node_ip_address()
        self._internal_ports: set[int] = set()
        self._of_ray_core = listeners()  # the worker process's own, which ask for Ray's token

        def bind_to_node(server: Any, address: str) -> int:
            if address != _INTERNAL_ADDRESS:
                raise ray_changed(f"binds a replica's internal port to {address!r} and not to {_INTERNAL_ADDRESS!r}")
            port = int(bind(server, f"[{self._node}]:0" if ":" in self._node else f"{self._node}:0"))
            self._internal_ports.add(port)
            return port

        replica.add_port_to_grpc_server = bind_to_node

    def check(self, http_host: str) -> None:
        """Raise LibraryChangedError where Ray bound its port another way, or listens on an address nobody asked for.

        http_host: the address of Serve's HTTP server, on which a replica behind HAProxy listens too.
        """
        if not self._internal_ports:
            raise ray_changed("did not call add_port_to_grpc_server, so a replica's internal port may be open to all")
        open_ports = sorted(
            listener
            for listener in listeners() - self._of_ray_core
            if not exposure.is_loopback(listener.ip) and not self._is_asked_for(listener, _addresses(http_host))
        )
        if open_ports:
            shown = ", ".join(map(str, open_ports))
            raise ray_changed(
                f"lets a replica listen on {shown}; asked for were {self._node}, and Serve's HTTP on {http_host}"
            )

    def _is_asked_for(self, listener: Listener, http_addresses: Collection[str]) -> bool:
        if listener.ip == self._node:
            return True
        if listener.port in self._internal_ports:
            return False
        first, last = (_serve_constant(f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT") for end in ("MIN", "MAX"))
        return listener.ip in http_addresses and first <= listener.port <= last


def is_behind_haproxy(environment: Mapping[str, str]) -> bool:
    """Whether this process's Ray was started to put HAProxy before replicas that take HTTP themselves."""
    return environment.get(HAPROXY_VARIABLE) == "1"


def host_of_serve() -> str:
    """The address on which Serve's HTTP servers listen, as its controller has it."""
    from ray.serve import context

    # A replica's constructor may run on its event loop, where Ray warns of a call that waits.
    with ThreadPoolExecutor(1) as pool:
        try:
            config = pool.submit(lambda: context._get_global_client().http_config).result()
            host = config.host
        except AttributeError as error:
            raise ray_changed(f"does not name the address of Serve's HTTP server ({error})") from error
    return str(host or exposure.LOOPBACK)


def free_cpus_by_node() -> list[float]:
    """Free CPUs of each node; the public `ray.available_resources()` adds the nodes up."""
    from ray._private import state

    by_node = getattr(state, "available_resources_per_node", None)
    if by_node is None:
        raise ray_changed("has no ray._private.state.available_resources_per_node, which lists each node's free CPUs")
    return [resources.get("CPU", 0.0) for resources in by_node().values()]


def check_variables(names: Collection[str]) -> None:
    """Raise LibraryChangedError for a variable RAY_SERVE_* that Ray does not read: it would have no effect."""
    package = importlib.util.find_spec("ray")
    folder = Path(package.origin or "").parent if package else Path()
    path = folder / "serve" / "_private" / "constants.py"
    try:
        known = set(re.findall(r'"(RAY_SERVE_\w+)"', path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ray_changed(f"has no readable {path.name} of Serve's settings ({error.strerror})") from None
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
