"""The Makefile and CI script, as far as they can be tried without installing two gigabytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = [str(shutil.which("make")), "-C", str(ROOT), *arguments]
    return subprocess.run(
        command, env={**environment, "PATH": path or os.environ["PATH"]}, capture_output=True, text=True, check=False
    )


def test_help_lists_every_target_of_the_house():
    listed = make("help").stdout
    for target in ("help", "demo", "up", "airflow", "down", "test", "lint", "format", "bench", "clean"):
        assert f"make {target} " in listed


def test_a_python_that_cannot_run_is_passed_over_with_a_clear_message(tmp_path: Path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "sh", "test", "touch"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    for shim in ("python3.11", "python3.12", "python3"):
        (tools / shim).write_text("#!/bin/sh\nexit 127\n")
        (tools / shim).chmod(0o755)

    refused = make("setup", f"VENV={tmp_path}/venv", path=str(tools))
    assert refused.returncode != 0
    assert "no Python 3.11 or 3.12" in refused.stderr

    # Only the last name works, as on a machine whose shims stand before the real one.
    (tools / "python3").unlink()
    (tools / "python3").symlink_to(sys.executable)
    chosen = make("--dry-run", "setup", f"VENV={tmp_path}/venv", path=str(tools))
    assert '"python3" -m venv' in chosen.stdout


def test_ci_is_executable_and_ends_in_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make test"
