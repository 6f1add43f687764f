"""Where things are, from the environment; and how a command ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fraud.errors import ConfigError
from fraud.settings import TELEMETRY_OFF, Settings, git_commit, turn_telemetry_off


def test_defaults_lie_below_the_root(tmp_path: Path) -> None:
    settings = Settings.from_environment({"FRAUD_ROOT": str(tmp_path)})
    assert settings.state == tmp_path / "var"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/var/mlflow.db"
    assert settings.mode == "production"  # only dev serves without a key, and nobody gets it by accident


def test_relative_paths_mean_the_root_and_urls_stay(tmp_path: Path) -> None:
    settings = Settings.from_environment({"FRAUD_ROOT": str(tmp_path)})
    assert settings.locate("data/a.csv") == f"{tmp_path}/data/a.csv"
    assert settings.locate("/elsewhere/a.csv") == "/elsewhere/a.csv"
    assert settings.locate("s3://bucket/a.csv") == "s3://bucket/a.csv"


def test_a_relative_path_inside_rays_copy_is_refused_rather_than_lost() -> None:
    settings = Settings.from_environment(
        {"FRAUD_ROOT": "/tmp/ray/session/runtime_resources/working_dir_files/_ray_pkg"}
    )
    with pytest.raises(ConfigError, match=r"'artifacts' is relative.*FRAUD_ROOT"):
        settings.locate("artifacts")


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ConfigError, match="FRAUD_MODE='development'"):
        Settings.from_environment({"FRAUD_MODE": "development"})


def test_telemetry_is_off_unless_the_user_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TELEMETRY_OFF:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    turn_telemetry_off()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"


def test_the_commit_comes_from_the_environment_or_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert git_commit() == "abc"
    monkeypatch.delenv("GIT_COMMIT")
    commit = git_commit()
    assert commit is None or len(commit) == 40
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("raise DataError('file x.csv\\n is empty')", 2, "error: file x.csv is empty\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_a_command_ends_with_one_line_and_a_code(body: str, code: int, line: str) -> None:
    imports = "from fraud.cli import run_command\nfrom fraud.errors import DataError"
    program = f"{imports}\ndef main(argv):\n    {body}\nrun_command(main)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, line)
