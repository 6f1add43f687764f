"""What `make test` runs: commands side by side, each output whole, any failure a failure, ctrl-C for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import __main__ as side_by_side

ROOT = Path(__file__).parent.parent
# Each waits for the other's file, so one after the other they would not end.
MEETING = """
import pathlib, sys, time
mine, others, code = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
print("begin", mine.name, flush=True)
mine.touch()
while not others.exists():
    time.sleep(0.05)
print("end", mine.name)
sys.exit(code)
"""


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((0, 3), 3), ((1, 0), 1)])
def test_both_run_at_once_and_any_failure_counts(
    tmp_path: Path, codes: tuple[int, int], expected: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    commands = {
        "first": [sys.executable, "-c", MEETING, a, b, str(codes[0])],
        "second": [sys.executable, "-c", MEETING, b, a, str(codes[1])],
    }
    assert side_by_side.run(commands) == expected
    assert capfdbinary.readouterr().out.split() == b"begin a end a begin b end b".split()


def test_a_later_part_begins_after_the_first_and_counts(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    first = [sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", str(tmp_path / "first")]
    second = [sys.executable, "-c", "print('second')"]
    last = [
        sys.executable,
        "-c",
        "import pathlib, sys; print('last'); sys.exit(4 * pathlib.Path(sys.argv[1]).exists())",
    ]
    assert side_by_side.run({"first": first, "second": second}, {"last": [*last, str(tmp_path / "first")]}) == 4
    assert capfdbinary.readouterr().out.split() == [b"second", b"last"]


def test_a_part_that_is_killed_is_a_failure() -> None:
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert side_by_side.run({"killed": killed, "fine": [sys.executable, "-c", ""]}) == signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_unwinds_every_part_once(tmp_path: Path, number: signal.Signals) -> None:
    part = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n pathlib.Path(sys.argv[1] + '.began').touch(); time.sleep(600)\n"
        "except KeyboardInterrupt:\n time.sleep(1); pathlib.Path(sys.argv[1] + '.unwound').touch()\n"
    )
    code = (
        "import sys; from tests.__main__ import run; "
        "sys.exit(run({name: [sys.executable, '-c', sys.argv[1], f'{sys.argv[2]}/{name}'] for name in 'ab'}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, part, str(tmp_path)], cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("*.began"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, number)  # as a terminal does
        assert process.wait(120) == side_by_side.INTERRUPTED
    finally:
        process.kill()
        process.wait()
    assert {path.name for path in tmp_path.glob("*.unwound")} == {"a.unwound", "b.unwound"}


def test_every_test_is_in_one_part() -> None:
    parts = {**side_by_side.PARTS, **side_by_side.LATER}
    chosen = {name: command[command.index("-m", 3) + 1] for name, command in parts.items()}
    assert chosen == {
        "quick": "not (shared_ray or live)",
        "shared Ray": "shared_ray",
        "live": "live and not airflow",
        "Airflow": "live and airflow",
    }
    measured = [name for name, command in parts.items() if "--cov-fail-under=90" in command]
    assert measured == ["quick"]
