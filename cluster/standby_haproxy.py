"""Run a second HAProxy on Serve's port, so that no connection is refused when Serve's HAProxy dies.

Serve notices a dead HAProxy after three health checks and needs seconds more to start another. The kernel spreads
connections over all processes that listen on a port with SO_REUSEPORT, and skips dead ones. So a second HAProxy with
the same routes takes over at once. The wrapper of `cluster.ingress` calls this module before every start and reload of
Serve's HAProxy:

    python -m cluster.standby_haproxy HAPROXY CONFIG METRICS STATS MANAGER PID ARGUMENT...

HAPROXY: the program. CONFIG: the file that Serve wrote; it is edited first (`cluster.haproxy_template`). METRICS,
STATS: ports of HAProxy's own pages. MANAGER: process id of Serve's proxy actor. PID, ARGUMENT: process id and arguments
of its HAProxy.

The first call starts a keeper process. It runs the second HAProxy and reloads it when routes change. It ends when Ray
has ended, or LINGER_S after the last manager died. It then also ends a HAProxy that a killed manager left behind, which
would share the port with the next Ray's.

After every start and reload the keeper checks the listening sockets of both. If one is not in the configuration, it
kills both and writes the reason to REFUSAL, and every later start fails with it. A restarted Ray uses another folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from cluster import haproxy_template
from cluster.listeners import Listener, listeners
from cluster.ray_private import ray_changed
from fraud.errors import LibraryChangedError

LINGER_S = 45.0
KEEP = "--keep"
REFUSAL = "refused"
_PORTS = "main.ports"  # file with the listeners that the configuration names
_LOOK_S = 1.0
_SOON_S = 0.05
_RELOAD_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 5.0
_SET_PARENT_DEATH_SIGNAL = 1


def main(arguments: list[str]) -> int:
    """Edit CONFIG, pass the routes to the second HAProxy and start its keeper. Returns 1 if HAProxy must not start."""
    if arguments[0] == KEEP:
        return _Keeper(arguments[1], Path(arguments[2])).run()
    try:
        return _before_start(arguments[0], Path(arguments[1]), *map(int, arguments[2:6]), arguments=arguments[6:])
    except LibraryChangedError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _before_start(
    binary: str, path: Path, metrics_port: int, stats_port: int, manager: int, pid: int, *, arguments: list[str]
) -> int:
    folder, copy = path.parent, path.with_name("standby.cfg")
    if (refusal := folder / REFUSAL).exists():
        sys.stderr.write(refusal.read_text(encoding="utf-8"))
        return 1
    config = haproxy_template.harden(path.read_text(encoding="utf-8"), metrics_port, stats_port)
    _write(path, config)
    if arguments[:1] == ["-c"]:  # HAProxy only checks its configuration
        return 0
    alone = haproxy_template.standby_config(config)
    _write(folder / "standby.manager", f"{manager} {_parent(manager)}")
    _end_orphan(folder, manager)
    _write(folder / _PORTS, json.dumps(sorted(haproxy_template.configured_listeners(config))))
    _write(folder / "main.pid", str(pid))
    keeper = _keeper(folder)
    is_new = keeper and "-sf" not in arguments
    if is_new and not haproxy_template.has_routes(config) and haproxy_template.has_routes(copy.read_text("utf-8")):
        # A new proxy actor does not know the routes yet: its HAProxy would answer 503. The second one answers alone.
        _write(path, haproxy_template.without_serve_port(config))
        return 0
    _write(copy, alone)
    if keeper:
        os.kill(keeper, signal.SIGHUP)
    else:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.standby_haproxy", KEEP, binary, str(folder)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return 0


class _Keeper:
    """Keep the second HAProxy (master and worker) running. folder: holds its configuration."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._socket = str(folder / "standby.sock")
        self._command = [binary, "-W", "-db", "-f", str(folder / "standby.cfg"), "-S", f"{self._socket},mode,600"]
        self._folder = folder
        self._main = 0  # process id of Serve's HAProxy
        self._is_checked = False  # both listen as configured, since the last start or reload

    def run(self) -> int:
        """Run until no manager lives, Ray ends, or SIGTERM. Returns the exit code."""
        awaited = {signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        lock = os.open(self._folder / "standby.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another keeper runs
            if keeper := _keeper(self._folder):
                os.kill(keeper, signal.SIGHUP)
            return 0
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        pause, began, last_seen = _FIRST_PAUSE_S, time.monotonic(), time.monotonic()
        process, is_stale = self._start(), False
        while time.monotonic() - last_seen < LINGER_S:
            received = signal.sigtimedwait(awaited, _LOOK_S if self._is_checked and not is_stale else _SOON_S)
            is_stale |= received is not None and received.si_signo == signal.SIGHUP
            if received is not None and received.si_signo == signal.SIGTERM:
                break
            if process.poll() is not None:
                pause = _FIRST_PAUSE_S if time.monotonic() - began > _LONGEST_PAUSE_S else pause * 2
                time.sleep(min(pause, _LONGEST_PAUSE_S))
                process, began = self._start(), time.monotonic()
            elif is_stale:
                is_stale = not self._reload()
            if reason := self._check(process):
                _write(self._folder / REFUSAL, f"{ray_changed(reason)}\n")
                self._kill(process)
                return 1
            manager, raylet = map(int, (self._folder / "standby.manager").read_text(encoding="utf-8").split())
            if not _lives(raylet):
                break
            if _lives(manager):
                last_seen = time.monotonic()
        _end_orphan(self._folder, None)
        process.send_signal(signal.SIGUSR1)  # finishes open requests
        with suppress(subprocess.TimeoutExpired):
            process.wait(LINGER_S)
        return 0

    def _check(self, process: subprocess.Popen[bytes]) -> str:
        """Describe listeners that are not configured; "" for none. process: the master of the second HAProxy."""
        main = _main(self._folder)
        self._is_checked &= main == self._main
        self._main = main
        if self._is_checked:
            return ""
        configured: set[Listener] = set()
        with suppress(FileNotFoundError):  # not written yet
            entries = json.loads((self._folder / _PORTS).read_text(encoding="utf-8"))
            configured |= {Listener(*entry) for entry in entries}
        workers = _children(process.pid)
        sockets = [_listeners(pid) for pid in (main, *workers) if pid and _lives(pid)]
        self._is_checked = bool(workers) and all(sockets)
        if unexpected := sorted(set().union(*sockets) - configured):
            return f"has a HAProxy that listens on {', '.join(map(str, unexpected))}, which is not in its configuration"
        return ""

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        for pid in (self._main, *_children(process.pid), process.pid):
            with suppress(OSError):
                if pid and _is_ours(pid, self._folder):
                    os.kill(pid, signal.SIGKILL)
        process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self._is_checked = False
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)

    def _reload(self) -> bool:
        """Ask the master to start a worker with the new routes. Returns False while the master still starts.

        Uses the master's socket, because a starting master loses SIGUSR2.
        """
        answer = b""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as master:
            master.settimeout(_RELOAD_S)
            master.connect(self._socket)
            master.sendall(b"reload\n")
            while b"Success=" not in answer and (part := master.recv(4096)):
                answer += part
        is_taken = b"Success=" in answer
        self._is_checked &= not is_taken
        return is_taken


def _end_with_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGUSR1)


def _keeper(folder: Path) -> int | None:
    """The process id of the running keeper, or None."""
    try:
        lock = os.open(folder / "standby.lock", os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(lock, 20, 0) or 0) or None
    finally:
        os.close(lock)
    return None


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def _end_orphan(folder: Path, manager: int | None) -> None:
    """Let the HAProxy of another, killed manager finish its requests and end: it gets no new routes."""
    with suppress(OSError):
        main = _main(folder)
        if _is_ours(main, folder) and _parent(main) != manager:
            os.kill(main, signal.SIGUSR1)


def _main(folder: Path) -> int:
    """The process id of Serve's HAProxy; 0 if unknown."""
    with suppress(OSError, ValueError):
        return int((folder / "main.pid").read_text(encoding="utf-8"))
    return 0


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether the process was started with a configuration of this folder. Raises OSError if there is no process."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return any(str(folder / name).encode() in command for name in ("haproxy.cfg", "standby.cfg"))


def _listeners(pid: int) -> set[Listener]:
    with suppress(psutil.Error):
        return listeners(pid)
    return set()


def _children(pid: int) -> list[int]:
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
