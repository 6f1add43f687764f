"""A second HAProxy on Serve's port, so that a killed one refuses nobody.

Serve notices a dead HAProxy after three health checks and needs seconds more to start another; until then every
connection would be refused. The kernel spreads connections over all who listen on a port with SO_REUSEPORT, and as soon
as one dies over the others, so a second HAProxy with the same routes takes them. The wrapper of `cluster.ingress` calls
this before every start and reload of Serve's HAProxy:

    python standby.py HAPROXY CONFIG MANAGER PID ARGUMENT...

HAPROXY: the program. CONFIG: what Serve wrote. MANAGER: process id of Serve's actor. PID, ARGUMENT: process id and
arguments of its HAProxy. A keeper stays behind, which runs the second HAProxy and has it read new routes. When Ray has
ended, or no manager has lived for LINGER_S, it ends, and takes with it a HAProxy that a killed manager left: it would
share the port with the next Ray's. Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LINGER_S = 45.0
KEEP = "--keep"
_LOOK_S = 1.0
_SOON_S = 0.05
_RELOAD_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 5.0
_SET_PARENT_DEATH_SIGNAL = 1
# What two processes cannot share: the sockets and pages of statistics, the file of the servers' state.
_OWN_LINES = re.compile(
    r"^[ \t]*(?:stats socket|server-state-base|server-state-file|load-server-state-from-file)\b.*\n", re.MULTILINE
)
_OWN_SECTIONS = re.compile(r"^(?:frontend prometheus|listen stats)\b.*\n(?:[ \t]+.*\n|\n)*", re.MULTILINE)
_ROUTE = re.compile(r"^[ \t]+use_backend ", re.MULTILINE)
_ENTRANCE = re.compile(r"^(frontend http_frontend\n)[ \t]+bind .*\n", re.MULTILINE)


def routes_alone(config: str) -> str:
    """Serve's configuration without what belongs to its own HAProxy."""
    return _OWN_SECTIONS.sub("", _OWN_LINES.sub("", config))


def main(arguments: list[str]) -> int:
    """Give the second HAProxy the routes of CONFIG, and see that it runs."""
    if arguments[0] == KEEP:
        return _Keeper(arguments[1], Path(arguments[2])).run()
    binary, path, manager, pid = arguments[0], Path(arguments[1]), int(arguments[2]), int(arguments[3])
    folder, config = path.parent, path.read_text(encoding="utf-8")
    copy = folder / "standby.cfg"
    _write(folder / "standby.manager", f"{manager} {_parent(manager)}")
    _end_orphan(folder, manager)
    _write(folder / "main.pid", str(pid))
    keeper = _keeper(folder)
    if keeper and "-sf" not in arguments and not _ROUTE.search(config) and _ROUTE.search(copy.read_text("utf-8")):
        # Serve's actor is new and learns the routes in a moment; till then its HAProxy would answer 404.
        _write(path, _ENTRANCE.sub(r"\1", config))
        return 0
    _write(copy, routes_alone(config))
    if keeper:
        os.kill(keeper, signal.SIGHUP)
    else:
        command = [sys.executable, "-S", "-E", __file__, KEEP, binary, str(folder)]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    return 0


class _Keeper:
    """Keeps one HAProxy, master and worker, running. folder: of its configuration."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._socket = str(folder / "standby.sock")
        self._command = [binary, "-W", "-db", "-f", str(folder / "standby.cfg"), "-S", f"{self._socket},mode,600"]
        self._folder = folder

    def run(self) -> int:
        """Until no manager lives, or SIGTERM."""
        awaited = {signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        lock = os.open(self._folder / "standby.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another was quicker
            if keeper := _keeper(self._folder):
                os.kill(keeper, signal.SIGHUP)
            return 0
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        pause, began, last_seen = _FIRST_PAUSE_S, time.monotonic(), time.monotonic()
        process, is_stale = self._start(), False
        while time.monotonic() - last_seen < LINGER_S:
            told = signal.sigtimedwait(awaited, _SOON_S if is_stale else _LOOK_S)
            is_stale |= told is not None and told.si_signo == signal.SIGHUP
            if told is not None and told.si_signo == signal.SIGTERM:
                break
            if process.poll() is not None:
                pause = _FIRST_PAUSE_S if time.monotonic() - began > _LONGEST_PAUSE_S else pause * 2
                time.sleep(min(pause, _LONGEST_PAUSE_S))
                process, began = self._start(), time.monotonic()
            elif is_stale:
                is_stale = not self._reload()
            manager, raylet = map(int, (self._folder / "standby.manager").read_text(encoding="utf-8").split())
            if not _lives(raylet):
                break
            if _lives(manager):
                last_seen = time.monotonic()
        _end_orphan(self._folder, None)
        process.send_signal(signal.SIGUSR1)  # what is being answered is answered
        with suppress(subprocess.TimeoutExpired):
            process.wait(LINGER_S)
        return 0

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)

    def _reload(self) -> bool:
        """Whether the master took the order to start a worker with the new routes; one that still starts does not.

        Its socket and not SIGUSR2, which a starting master loses.
        """
        answer = b""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as master:
            master.settimeout(_RELOAD_S)
            master.connect(self._socket)
            master.sendall(b"reload\n")
            while b"Success=" not in answer and (part := master.recv(4096)):
                answer += part
        return b"Success=" in answer


def _end_with_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGUSR1)


def _keeper(folder: Path) -> int | None:
    """The process that keeps the second HAProxy running, where there is one."""
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
    """Have the HAProxy of another manager, which was killed, answer what it has and end: it gets no new routes."""
    with suppress(OSError, ValueError):
        main = int((folder / "main.pid").read_text(encoding="utf-8"))
        command = Path(f"/proc/{main}/cmdline").read_bytes().split(b"\0")
        if str(folder / "haproxy.cfg").encode() in command and _parent(main) != manager:
            os.kill(main, signal.SIGUSR1)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
