"""Each private part of Ray is changed as a later Ray might change it: nothing is served, and the error says why."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from cluster import ingress, ray_private
from fraud.errors import LibraryChangedError
from serve_app.http.direct import MIDDLEWARES


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Ray's module, as it was again at the end."""
    from ray.serve._private import replica

    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)
    return replica


def server() -> grpc.Server:
    from concurrent.futures import ThreadPoolExecutor

    return grpc.server(ThreadPoolExecutor(1))


def listen(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.bind((host, 0))
    opened.listen()
    return opened


def test_the_internal_port_is_on_the_nodes_address_only(replica, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    ports = ray_private.ReplicaPorts()
    opened = server()
    port = replica.add_port_to_grpc_server(opened, "[::]:0")
    opened.start()
    assert ray_private.Listener("127.0.0.1", port) in ray_private.listeners()
    ports.check("127.0.0.1")
    opened.stop(0)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:8000", "unix:/tmp/x", "*:0"])
def test_another_literal_opens_no_port(replica, address: str):
    ray_private.ReplicaPorts()
    before = ray_private.listeners()
    with pytest.raises(LibraryChangedError, match=r"binds a replica's internal port to .* instead of '\[::\]:0'"):
        replica.add_port_to_grpc_server(server(), address)
    assert ray_private.listeners() == before


def test_a_renamed_function_is_refused(replica, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    with pytest.raises(LibraryChangedError, match=r"has no ray\.serve\._private\.replica\.add_port_to_grpc_server"):
        ray_private.ReplicaPorts()


def test_a_function_that_ray_no_longer_calls_is_refused(replica):
    ports = ray_private.ReplicaPorts()
    with pytest.raises(LibraryChangedError, match="did not call add_port_to_grpc_server"):
        ports.check("127.0.0.1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize("http_host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_on_another_address_is_refused(replica, host: str, http_host: str):
    """Also where Serve's HTTP is open to all: an HTTP port comes from Serve's range."""
    ports = ray_private.ReplicaPorts()
    replica.add_port_to_grpc_server(server(), "[::]:0")
    with closing(listen(host)) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(LibraryChangedError, match=rf"lets a replica listen on {host} port {port};"):
            ports.check(http_host)
    ports.check(http_host)


def test_serves_http_port_is_where_it_was_asked_for(replica, monkeypatch: pytest.MonkeyPatch):
    from ray.serve._private import constants

    ports = ray_private.ReplicaPorts()
    replica.add_port_to_grpc_server(server(), "[::]:0")
    with closing(listen("0.0.0.0")) as opened:
        for end in ("MIN", "MAX"):
            name = f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"
            monkeypatch.setattr(constants, name, opened.getsockname()[1])
        ports.check("0.0.0.0")
        with pytest.raises(LibraryChangedError, match=r"listen on 0\.0\.0\.0"):
            ports.check("127.0.0.1")
        monkeypatch.delattr(constants, "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT")
        with pytest.raises(LibraryChangedError, match=r"has no .*RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"):
            ports.check("0.0.0.0")


def test_ray_reads_every_variable_that_is_set():
    with tempfile.TemporaryDirectory(prefix="ha-") as folder:  # pytest's own is too long for HAProxy's sockets
        names = [*ingress.environment(Path(folder)), *MIDDLEWARES]
    assert len(names) >= 20
    ray_private.check_variables(names)
    with pytest.raises(LibraryChangedError, match=r"reads no RAY_SERVE_HAPROXY_STATISTICS_PORT;"):
        ray_private.check_variables([*names, "RAY_SERVE_HAPROXY_STATISTICS_PORT"])


def test_a_moved_list_of_free_cpus_is_refused(monkeypatch: pytest.MonkeyPatch):
    from ray._private import state

    monkeypatch.delattr(state, "available_resources_per_node")
    with pytest.raises(LibraryChangedError, match="available_resources_per_node"):
        ray_private.free_cpus_by_node()


def test_a_moved_address_of_serve_is_refused(monkeypatch: pytest.MonkeyPatch):
    from ray.serve import context

    monkeypatch.delattr(context, "_get_global_client")
    with pytest.raises(LibraryChangedError, match="does not name the address of Serve's HTTP server"):
        ray_private.serve_host()
