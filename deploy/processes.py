"""Start processes, find them again and stop only them.

Every process gets an environment variable that names our state folder. Children inherit it, even orphans adopted by
init. So a scan finds all of our processes and no others.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy import logs

MARK = "FRAUD_LOCAL_STATE"
# The kernel reports start times in ticks; two readings of one process differ by less than this.
SAME_START_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server that we started.

    name: "ray" or "mlflow".
    pid, started: process id and start time in seconds since 1970; both must match, because ids are reused.
    ports: its ports, by purpose.
    log: file with its output.
    """

    name: str
    pid: int
    started: float
    ports: dict[str, int]
    log: str

    @property
    def is_alive(self) -> bool:
        """Whether this process still runs, not another one with its id."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def start(
    name: str, command: Sequence[str], *, state: Path, environment: Mapping[str, str], ports: dict[str, int]
) -> Service:
    """Start `command` in its own session, marked as ours. Its output goes to <state>/log/<name>.log.

    The log of the process before is kept beside it, as <name>.log.1 (deploy.logs bounds all of them).
    """
    log = state / "log" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size:
        logs.rotate(log)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**environment, MARK: str(state)},
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(process.pid).create_time()
    return Service(name=name, pid=process.pid, started=started, ports=ports, log=str(log))


def find(state: Path) -> list[psutil.Process]:
    """Every running process with our mark, and its descendants (some clear their environment)."""
    by_pid: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(state):
                by_pid[process.pid] = process
                by_pid.update((child.pid, child) for child in process.children(recursive=True))
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return [process for process in by_pid.values() if process.pid != os.getpid() and _runs(process)]


def stop(state: Path, roots: Iterable[Service], *, grace_s: float = 20.0) -> list[psutil.Process]:
    """Stop all of our processes: `roots` first, which end their children in order, then the rest.

    Returns the processes that survived.
    """
    everything = {process.pid: process for process in find(state)}
    for root in roots:
        if root.is_alive:
            # A process that changes its title may have overwritten its environment, and so our mark.
            with contextlib.suppress(psutil.NoSuchProcess):
                _signal(everything.setdefault(root.pid, psutil.Process(root.pid)), kill=False)
    _, left = psutil.wait_procs(list(everything.values()), timeout=grace_s)
    for kill in (False, True):
        left = _unique([*left, *find(state)])
        for process in left:
            _signal(process, kill=kill)
        _, left = psutil.wait_procs(left, timeout=grace_s / 2)
    return [process for process in _unique([*left, *find(state)]) if _runs(process)]


def _unique(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return list({process.pid: process for process in processes}.values())


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    # psutil compares the start time before it sends a signal, so a recycled id is safe.
    with contextlib.suppress(psutil.NoSuchProcess):
        if kill:
            process.kill()
        else:
            process.terminate()


def free_port(preferred: int, *, avoid: Iterable[int] = ()) -> int:
    """`preferred`, or the next free port above it on loopback. Raises OSError if 1000 ports are taken."""
    taken = set(avoid)
    for port in range(preferred, min(preferred + 1000, 65536)):
        if port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port between {preferred} and {preferred + 999}")


def last_lines(path: str | Path, count: int = 20) -> str:
    """The end of a log file, or a note that it does not exist."""
    try:
        with Path(path).open("rb") as log:
            log.seek(max(0, Path(path).stat().st_size - 64 * 1024))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return f"(no log at {path})"
    return "\n".join(text.splitlines()[-count:])


class MemoryWatch:
    """Sample the memory of our processes and the machine's available memory, in a thread.

    peak_bytes: largest sum over our processes and this one: proportional set size if available, because Ray's workers
    share pages, else resident size. fall_bytes: largest drop of available memory since the start.
    """

    def __init__(self, state: Path, interval_s: float = 2.0) -> None:
        self.peak_bytes = 0
        self.fall_bytes = 0
        self._state = state
        self._interval_s = interval_s
        self._available_before = psutil.virtual_memory().available
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        while not self._over.is_set():
            used = sum(_used_bytes([psutil.Process(), *find(self._state)]))
            self.peak_bytes = max(self.peak_bytes, used)
            self.fall_bytes = max(self.fall_bytes, self._available_before - psutil.virtual_memory().available)
            self._over.wait(self._interval_s)


def _used_bytes(processes: Iterable[psutil.Process]) -> Iterator[int]:
    for process in processes:
        try:
            full = process.memory_full_info()
            yield getattr(full, "pss", 0) or full.rss
        except psutil.Error:
            continue
