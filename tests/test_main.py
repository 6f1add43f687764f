"""What `make check`, `make test` and `make drills` run: parts, two at once, any failure a failure, ctrl-C for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import __main__ as parts

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
def test_two_run_at_once_and_any_failure_counts(
    tmp_path: Path, codes: tuple[int, int], expected: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    commands = {
        "first": [sys.executable, "-c", MEETING, a, b, str(codes[0])],
        "second": [sys.executable, "-c", MEETING, b, a, str(codes[1])],
    }
    assert parts.run(commands) == expected
    lines = capfdbinary.readouterr().out.splitlines()
    for name, path in ((b"first", b"a"), (b"second", b"b")):
        ours = [line for line in lines if line.startswith(name)]
        assert ours == [name + b" | begin " + path, name + b" | end " + path]


def test_what_failed_is_shown_again_at_the_end(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    says = "print('FAILED a test'); print('E   because'); print('noise'); raise SystemExit(1)"
    assert (
        parts.run({"bad": [sys.executable, "-c", says], "good": [sys.executable, "-c", says.replace("(1)", "(0)")]}, 1)
        == 1
    )
    lines = [line for line in capfdbinary.readouterr().out.splitlines() if b" | " in line]
    assert lines[-2:] == [b"bad | FAILED a test", b"bad | E   because"]


def test_a_third_part_waits_until_one_has_ended(tmp_path: Path) -> None:
    first = [sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", str(tmp_path / "ended")]
    waits = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"
    second = [sys.executable, "-c", waits, str(tmp_path / "third")]
    ends = "import pathlib, sys; pathlib.Path(sys.argv[2]).touch(); sys.exit(4 * pathlib.Path(sys.argv[1]).exists())"
    third = [sys.executable, "-c", ends, str(tmp_path / "ended"), str(tmp_path / "third")]
    assert parts.run({"first": first, "second": second, "third": third}) == 4
    assert parts.run({"first": first, "third": third}, at_once=1) == 4


def test_a_line_is_shown_before_its_part_has_ended(tmp_path: Path) -> None:
    waits = "import pathlib, sys, time\nprint('begun', flush=True)\n"
    waits += "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"
    code = "import sys; from tests.__main__ import run; sys.exit(run({'a': [sys.executable, '-c', *sys.argv[1:]]}))"
    command = [sys.executable, "-c", code, waits, str(tmp_path / "seen")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "a | begun\n"
        (tmp_path / "seen").touch()
        assert process.wait(120) == 0


def test_a_part_that_is_killed_is_a_failure() -> None:
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert parts.run({"killed": killed, "fine": [sys.executable, "-c", ""]}) == signal.SIGKILL


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
        deadline = time.monotonic() + 300
        while len(list(tmp_path.glob("*.began"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, number)  # as a terminal does
        assert process.wait(120) == parts.INTERRUPTED
    finally:
        process.kill()
        process.wait()
    assert {path.name for path in tmp_path.glob("*.unwound")} == {"a.unwound", "b.unwound"}


def test_a_failure_is_shown_before_the_next_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_logreport\n")
    (tmp_path / "test_two.py").write_text(
        "def test_one():\n    assert 1 == 2\n\ndef test_two():\n    import os\n    os._exit(9)\n"
    )
    command = [sys.executable, "-u", "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    assert "FAILED test_two.py::test_one (call)" in ended.stdout and "assert 1 == 2" in ended.stdout


def chosen_by(command: list[str], is_core: bool, marks: set[str]) -> bool:
    """Whether a part runs a test of these marks; an expression of pytest's -m reads as Python's."""
    expression = command[command.index("-m", 4) + 1]
    names = dict.fromkeys(("live", "shared_ray", "airflow", "drill", "slow"), False) | dict.fromkeys(marks, True)
    takes_all = not any(argument.startswith(("tests", "--ignore")) for argument in command)
    return (takes_all or is_core == ("tests/fraud" in command)) and bool(eval(expression, names))


@pytest.mark.parametrize("extra", [(), ("drill",), ("slow",), ("drill", "slow")])
@pytest.mark.parametrize(
    ("needs", "is_core"),
    [((), True), ((), False), (("live",), False), (("live", "airflow"), False), (("shared_ray",), False)],
)
def test_every_test_is_in_one_part_of_test_or_drills(needs: tuple, extra: tuple, is_core: bool) -> None:
    both = {**parts.PARTS["test"], **parts.PARTS["drills"]}
    chosen = [name for name, command in both.items() if chosen_by(command, is_core, {*needs, *extra})]
    assert len(chosen) == 1
    assert (chosen[0] in parts.PARTS["drills"]) == ("drill" in extra)
    is_quick = any(chosen_by(command, is_core, {*needs, *extra}) for command in parts.PARTS["check"].values())
    assert is_quick == (not needs and not extra)


def test_the_core_is_measured() -> None:
    measured = [name for name, command in parts.PARTS["test"].items() if "--cov-fail-under=90" in command]
    assert measured == ["core"]


def test_the_measured_part_is_there() -> None:
    assert all((ROOT / path).exists() for path in parts.CORE), "pytest would measure nothing there"
