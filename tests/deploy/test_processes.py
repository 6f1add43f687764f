"""Processes of ours are found and stopped, also orphans; nobody else's is touched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deploy import processes
from deploy.processes import MARK, MemoryWatch, Service

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
# A child of a child whose parent has gone, as HAProxy or a job's driver may be.
ORPHAN = [sys.executable, "-c", f"import subprocess; subprocess.Popen({SLEEP!r}, start_new_session=True)"]
# Ends only when it is killed.
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    folder.mkdir(exist_ok=True)
    yield folder
    for process in processes.find(folder):
        process.kill()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def start(state: Path, command: list[str], name: str = "server") -> Service:
    return processes.start(name, command, state=state, environment=dict(os.environ), ports={})


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_stop_ends_the_server_its_orphans_and_the_stubborn(state: Path, bystander: subprocess.Popen[bytes]):
    server, parent, deaf = (start(state, command) for command in (SLEEP, ORPHAN, STUBBORN))
    assert eventually(lambda: not parent.is_alive and len(processes.find(state)) == 3)

    assert processes.stop(state, [server], grace_s=2.0) == []

    assert processes.find(state) == []
    assert not server.is_alive
    assert not deaf.is_alive
    assert bystander.poll() is None


def test_another_clone_is_not_ours(state: Path, tmp_path: Path, bystander: subprocess.Popen[bytes]):
    neighbour = tmp_path / "state2"
    neighbour.mkdir()
    theirs = start(neighbour, SLEEP)
    assert eventually(lambda: len(processes.find(neighbour)) == 1)

    assert processes.find(state) == []
    assert processes.stop(state, []) == []
    assert theirs.is_alive
    assert processes.stop(neighbour, [theirs], grace_s=2.0) == []
    assert bystander.poll() is None


def test_a_recycled_process_id_is_neither_alive_nor_stopped(state: Path, bystander: subprocess.Popen[bytes]):
    began = psutil.Process(bystander.pid).create_time()
    now = Service(name="ray", pid=bystander.pid, started=began, ports={}, log="")
    earlier = replace(now, started=began - 3600)
    assert now.is_alive
    assert not earlier.is_alive

    processes.stop(state, [earlier], grace_s=0.5)

    assert bystander.poll() is None


def test_output_goes_to_a_log_and_its_end_is_shown(state: Path):
    service = start(state, [sys.executable, "-c", "print('first'); print('second'); print('third')"], name="talker")
    assert eventually(lambda: not service.is_alive)
    assert Path(service.log) == state / "log" / "talker.log"
    assert processes.last_lines(service.log, 2) == "second\nthird"
    assert "no log" in processes.last_lines(state / "absent.log")


def test_free_port_passes_over_taken_ones():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        chosen = processes.free_port(taken)
        assert chosen > taken
        assert processes.free_port(taken, avoid=[chosen]) > chosen


def test_memory_watch_counts_our_processes(state: Path):
    hungry = [sys.executable, "-c", "held = bytearray(b'x') * 200_000_000; import time; time.sleep(300)"]
    service = start(state, hungry)
    with MemoryWatch(state, interval_s=0.05) as watch:
        assert eventually(lambda: watch.peak_bytes > 200_000_000)
    assert processes.stop(state, [service], grace_s=2.0) == []


def test_the_mark_is_handed_on(state: Path):
    service = start(state, SLEEP)
    assert eventually(lambda: bool(processes.find(state)))
    assert psutil.Process(service.pid).environ()[MARK] == str(state)
