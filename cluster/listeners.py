"""The TCP sockets that a process listens on, as the kernel has them."""

from __future__ import annotations

from typing import NamedTuple

import psutil


class Listener(NamedTuple):
    """A listening TCP socket. ip: an IPv4 address is written as such, also on an IPv6 socket."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip} port {self.port}"


def listeners(pid: int | None = None) -> set[Listener]:
    """Of a process, by default this one. Raises psutil.Error where it has ended or belongs to another user."""
    sockets = psutil.Process(pid).net_connections("tcp")
    return {
        Listener(connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for connection in sockets
        if connection.status == psutil.CONN_LISTEN
    }
