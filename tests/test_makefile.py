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
    targets = ("help", "setup", "demo", "up", "airflow", "down", "check", "test", "drills", "lint", "format", "bench")
    for target in (*targets, "lock", "audit", "sbom", "backup", "restore", "clean"):
        assert f"make {target} " in listed


@pytest.mark.parametrize("target", ["check", "test", "drills"])
def test_each_target_runs_its_part_of_the_tests(target: str):
    commands = make("--dry-run", "--no-print-directory", target).stdout.splitlines()
    assert commands[-1].endswith(f"-m tests {target}") and "OMP_NUM_THREADS=1" in commands[-1]
    steps = "\n".join(commands)
    assert ("ruff check" in steps) == ("/mypy" in steps) == (target != "drills")
    assert ("hadolint" in steps) == (target == "test")


def test_check_needs_no_airflow(tmp_path: Path):
    assert "requirements-airflow" not in make("--dry-run", "check", f"AIRFLOW_VENV={tmp_path}/none").stdout
    assert "requirements-airflow" in make("--dry-run", "test", f"AIRFLOW_VENV={tmp_path}/none").stdout


def test_a_python_that_cannot_run_is_passed_over_with_a_clear_message(tmp_path: Path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "sh", "test", "touch"):
        if path := shutil.which(tool):
            (tools / tool).symlink_to(path)
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


# Stands for the Python of an environment: records what it is asked and which settings uv would see.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
    "-m pip config list") cat "$FAKE/pip-settings" ;;
    *"pip install"*)
        echo "$* | $PWD | $UV_FIND_LINKS | $UV_DEFAULT_INDEX | $UV_INDEX | $SSL_CERT_FILE" >> "$FAKE/calls"
        case "$*" in *$FAILS*) exit 1 ;; esac ;;
esac
"""


def install(folder: Path, *, fails: str = "nothing", settings: str = "") -> tuple[int, list[str], str]:
    """Exit code of `.ci/install`, the commands it ran, and its errors."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(FAKE_PYTHON)
    (folder / "bin" / "python").chmod(0o755)
    (folder / "pip-settings").write_text(settings)
    environment = {"PATH": os.environ["PATH"], "FAKE": str(folder), "FAILS": fails}
    command = [str(ROOT / ".ci" / "install"), str(folder), "some.lock", "."]
    (folder / "some.lock").touch()
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return ended.returncode, (folder / "calls").read_text().splitlines(), ended.stderr


def test_uv_installs_the_lock_and_the_project_from_where_pip_looks(tmp_path: Path):
    settings = (
        ":env:.find-links='/one /two'\n:env:.cert='/ca.crt'\nglobal.find-links='/three'\n"
        "global.index-url='https://mirror.invalid/simple'\nglobal.extra-index-url='file:///a file:///b'\n"
    )
    code, calls, _ = install(tmp_path, settings=settings)
    assert code == 0
    seen = " | / | /one,/two | https://mirror.invalid/simple | file:///a file:///b | /ca.crt"
    assert calls[0].startswith("-m pip install") and " uv==" in calls[0]
    assert calls[1] == f"-m uv pip install --python {tmp_path}/bin/python --requirement {tmp_path}/some.lock{seen}"
    assert calls[2].startswith("-m uv pip install")
    assert f"--no-deps --no-build-isolation --editable {tmp_path} " in calls[2]
    assert len(calls) == 3


@pytest.mark.parametrize("fails", ["uv==", "uv pip install", "-m uv pip install*editable"])
def test_pip_installs_where_uv_cannot(tmp_path: Path, fails: str):
    code, calls, errors = install(tmp_path, fails=fails)
    assert code == 0 and "installing with pip" in errors
    assert calls[-2].startswith("-m pip install") and f"--requirement {tmp_path}/some.lock" in calls[-2]
    assert calls[-1].startswith("-m pip install") and f"--editable {tmp_path}" in calls[-1]


def test_an_installation_that_fails_with_pip_too_is_an_error(tmp_path: Path):
    assert install(tmp_path, fails="some.lock")[0] != 0


def test_ci_is_executable_and_ends_in_the_tests_and_the_drills():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-2:] == ["make test", "make drills"]


def test_ci_installs_what_is_missing_without_asking_the_archive_first(tmp_path: Path):
    """On a machine without any of the packages, apt-get update comes only after an install has failed."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (tools / "id").write_text("#!/bin/bash\necho 0\n")
    # The first install fails, as with lists that were never fetched; the last one too, or make would run.
    (tools / "apt-get").write_text('#!/bin/bash\necho "$*" >> "$CALLS"\ntest "$1" = update\n')
    for name in ("id", "apt-get"):
        (tools / name).chmod(0o755)
    script = (ROOT / ".ci" / "run").read_text().replace(":/usr/sbin:/sbin", "")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(script)
    environment = {"PATH": str(tools), "CALLS": str(tmp_path / "calls")}
    ended = subprocess.run(["/bin/bash", str(tmp_path / ".ci" / "run")], env=environment, capture_output=True)
    assert ended.returncode != 0
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[0] for call in calls] == ["install", "update", "install"]
    packages = {word for word in calls[0][1:] if not word.startswith("-")}
    needed = {"chromium", "redis-server", "wrk", "prometheus", "prometheus-node-exporter"}
    assert needed | {"openssh-server", "openssh-client", "rsync", "iproute2", "make"} <= packages
