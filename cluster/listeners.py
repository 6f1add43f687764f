"""The TCP sockets that a process listens on, as the kernel reports them."""

from __future__ import annotations

from typing import NamedTuple

import psutil


class Listener(NamedTuple):
    """A listening TCP socket. ip: IPv4 addresses in dotted form, also for IPv6 sockets."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip} port {self.port}"


def listeners(pid: int | None = None) -> set[Listener]:
    """The listening sockets of a process (default: this one). Raises psutil.Error if it ended or is another user's."""
    sockets = psutil.Process(pid).net_connections("tcp")
    return {
        Listener(connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for connection in sockets
        if connection.status == psutil.CONN_LISTEN
    }
