"""One holder at a time, named in the file; a killed process lets go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fraud.data.locks import AlreadyLockedError, exclusive

HOLD = """
import sys, time
from pathlib import Path
from fraud.data.locks import exclusive
with exclusive(Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "lock"


def test_another_process_is_named_and_a_killed_one_lets_go(lock: Path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        named = rf"^process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\d "
        with pytest.raises(AlreadyLockedError, match=named), exclusive(lock, wait=False):
            raise AssertionError("two hold it")
        holder.kill()
    with exclusive(lock, wait=False):
        assert lock.read_text().startswith(f"process {os.getpid()} ")
    assert lock.read_text() == ""


def test_who_waits_gets_it_next(lock: Path):
    order = []

    def work() -> None:
        with exclusive(lock):
            order.append("second")

    thread = threading.Thread(target=work)
    with exclusive(lock):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_fault_inside_lets_go_and_is_passed_on(lock: Path):
    with pytest.raises(ValueError, match="inside"), exclusive(lock):
        raise ValueError("inside")
    with exclusive(lock, wait=False):
        pass


def test_a_folder_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), exclusive(tmp_path / "file" / "lock"):
        pass
