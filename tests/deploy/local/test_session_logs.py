"""Logs of jobs and replicas outlive Ray's session folder, and stay small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.local import session_logs


def test_the_newest_logs_are_kept_from_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session_logs, "MOST", 3)
    monkeypatch.setattr(session_logs, "LONGEST", 10)
    session = tmp_path / "session"
    written = session / "r" / "session_latest" / "logs"
    (written / "serve").mkdir(parents=True)
    (written / "serve" / "replica.log").write_text("the end of a replica")
    (written / "raylet.out").write_text("not a job's")
    (written / "job-driver-empty.log").touch()
    for number in range(4):
        path = written / f"job-driver-{number}.log"
        path.write_text(f"job {number}")
        os.utime(path, (1000 + number, 1000 + number))
    session_logs.keep(session, tmp_path / "log")
    kept = {path.relative_to(tmp_path / "log").as_posix(): path.read_text() for path in tmp_path.glob("log/*/*")}
    jobs = {f"jobs/job-driver-{number}.log": f"job {number}" for number in (1, 2, 3)}
    assert kept == {**jobs, "serve/replica.log": " a replica"}

    (written / "job-driver-4.log").write_text("job 4")  # the next session
    session_logs.keep(session, tmp_path / "log")
    assert len(list((tmp_path / "log" / "jobs").iterdir())) == 3
    session_logs.keep(tmp_path / "none", tmp_path / "log")
    assert len(list((tmp_path / "log" / "jobs").iterdir())) == 3
