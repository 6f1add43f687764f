"""Logs of our servers never grow beyond a few files of a few MiB, and a replica's log is read as it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import log_keeper, logs, processes
from tests.deploy.live_stack import eventually

WRITER = "import sys\nfor line in sys.stdin: sys.stdout.write(line); sys.stdout.flush()"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "log").mkdir()
    yield tmp_path
    processes.stop(tmp_path, [], grace_s=2.0)


def test_a_rotated_log_goes_on_without_a_hole_or_a_lost_line(state: Path):
    log = state / "log" / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=output)
    assert server.stdin is not None
    for number in range(6):
        server.stdin.write(f"line {number}\n".encode() * 100)
        server.stdin.flush()
        eventually(lambda n=number: log.read_text() == f"line {n}\n" * 100, 60)  # type: ignore[misc]
        assert logs.rotate_large(log.parent, most_bytes=699) == [log]
        assert logs.rotate_large(log.parent, most_bytes=699) == []
    server.stdin.close()
    server.wait()
    old = sorted(log.parent.glob("server.log*"))
    assert [path.name for path in old] == ["server.log", "server.log.1", "server.log.2", "server.log.3"]
    assert [path.read_text() for path in old] == ["", *(f"line {number}\n" * 100 for number in (5, 4, 3))]


def test_a_restarted_server_keeps_the_log_of_the_one_before(state: Path):
    def run(text: str) -> None:
        command = [sys.executable, "-c", f"print({text!r})"]
        service = processes.start("server", command, state=state, environment=dict(os.environ), ports={})
        eventually(lambda: not service.is_alive and Path(service.log).read_text() == f"{text}\n", 60)

    for text in ("why it ended", "", "it runs again"):
        run(text)
    assert (state / "log/server.log").read_text() == "it runs again\n"
    assert (state / "log/server.log.2").read_text() == "why it ended\n"


def test_one_process_bounds_the_logs_while_servers_write(state: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(logs.__file__).parents[1])}
    log = state / "log" / "mlflow.log"
    log.write_bytes(b"x" * (logs.MOST_BYTES + 1))
    log_keeper.keep(state, environment)
    eventually(lambda: log.stat().st_size == 0 and (log.parent / "mlflow.log.1").exists(), 60)
    (keeper,) = processes.find(state)
    log_keeper.keep(state, environment)
    assert [process.pid for process in processes.find(state)] == [keeper.pid]
