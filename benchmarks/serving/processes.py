"""Start, find, measure and stop the processes of one server.

Processes are found by an environment variable that children inherit: Ray's processes leave the process tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fraud.errors import DataError

MARK = "BENCHMARK_SERVER"
GRACE_S = 8.0
_MIB = 2.0**20


@dataclass(frozen=True)
class Memory:
    """Memory of all processes of a server. pss_mib counts shared pages once, rss_mib once per process."""

    pss_mib: float
    rss_mib: float
    processes: int


@dataclass
class Processes:
    """The processes of one server. log: file for their output. folders: deleted by `stop`."""

    log: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> None:
        """Start a command in `folder`, in a new session."""
        with self.log.open("ab") as output:
            self.started.append(
                subprocess.Popen(
                    list(map(str, command)), env={**environment, MARK: self.mark}, cwd=folder,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                )
            )  # fmt: skip

    def check(self) -> None:
        """Raise DataError with the end of the log if a started command has ended."""
        for process in self.started:
            if process.poll() is not None:
                raise DataError(f"the server ended with {process.returncode}: {self.last_lines()}")

    def last_lines(self) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else ""

    def all(self) -> list[psutil.Process]:
        """Every process with the mark and its descendants (some clear their environment)."""
        marked: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) == self.mark:
                    marked[process.pid] = process
                    marked.update((child.pid, child) for child in process.children(recursive=True))
            except psutil.Error:
                continue  # ended meanwhile, or another user's
        return [process for process in marked.values() if _runs(process)]

    def cpu_seconds(self) -> dict[psutil.Process, float]:
        """User and system time of each process since its start, seconds; resolution 10 ms."""
        seconds = {}
        for process in self.all():
            try:
                times = process.cpu_times()
                seconds[process] = times.user + times.system
            except psutil.Error:
                continue
        return seconds

    def memory(self) -> Memory:
        """Current memory of all processes."""
        pss = rss = 0
        processes = self.all()
        for process in processes:
            try:
                full = process.memory_full_info()
                pss, rss = pss + getattr(full, "pss", full.rss), rss + full.rss
            except psutil.Error:
                continue
        return Memory(pss / _MIB, rss / _MIB, len(processes))

    def stop(self) -> None:
        """Stop the started processes, which stop their children, then any process that is left.

        Raises DataError if one survives.
        """
        everything = self.all()
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        psutil.wait_procs(everything, timeout=GRACE_S)
        for act in (psutil.Process.terminate, psutil.Process.kill):
            left = self.all()
            for process in left:
                try:
                    act(process)
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=GRACE_S / 3)
        for process in self.started:
            process.wait(GRACE_S)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        if left := self.all():
            raise DataError(f"could not stop processes {[process.pid for process in left]}: kill them by hand")


def cpu_between(before: Mapping[psutil.Process, float], after: Mapping[psutil.Process, float]) -> float:
    """CPU seconds between two samples; excludes processes that ended in between."""
    return sum(seconds - before.get(process, 0.0) for process, seconds in after.items())


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
