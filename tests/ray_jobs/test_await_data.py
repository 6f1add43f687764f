"""Waiting for data: until they are there and whole, and no longer than allowed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fraud.errors import ConfigError
from ray_jobs import await_data


def test_data_that_are_there_end_the_wait(tmp_path: Path):
    (tmp_path / "day.csv").write_text("a\n1\n")
    assert await_data.main(["--data", str(tmp_path / "day.csv"), "--poll-s", "0.01"]) == 0
    assert await_data.main(["--data", str(tmp_path / "d*.csv"), "--poll-s", "0.01"]) == 0


@pytest.mark.parametrize("name", ["absent.csv", "absent/*.csv", "empty.csv"])
def test_missing_data_set_the_exit_code(tmp_path: Path, name: str):
    (tmp_path / "empty.csv").touch()
    assert await_data.main(["--data", str(tmp_path / name), "--hours", "0.00001", "--poll-s", "0.01"]) == 3


def test_a_file_that_grows_is_not_taken_yet(tmp_path: Path):
    path, ends = tmp_path / "day.csv", []

    def write() -> None:
        with path.open("w") as stream:
            for _ in range(20):
                stream.write("a\n")
                stream.flush()
                time.sleep(0.1)
            ends.append(path.stat().st_size)

    writer = threading.Thread(target=write)
    writer.start()
    assert await_data.wait(str(path), hours=0.1, poll_s=0.5)
    assert ends or not writer.is_alive()
    writer.join()


def test_a_senseless_wait_is_refused():
    with pytest.raises(ConfigError, match="hours"):
        await_data.main(["--data", "x.csv", "--hours", "-1"])
