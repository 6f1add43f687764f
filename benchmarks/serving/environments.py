"""Virtual environments for peers whose packages are not in our lock, created once and reused."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.workload import cache
from fraud.errors import DataError
from fraud.settings import Settings

REQUIREMENTS = Path(__file__).parent / "requirements"
_STAMP = ".requirements"


def folder_of_programs(settings: Settings, peer: str | None) -> Path:
    """Folder with python and the peer's programs; installs them if missing or out of date.

    peer: name of a requirements file; None: our own environment. Raises DataError with pip's last error.
    """
    if peer is None:
        return Path(sys.executable).parent
    requirements = REQUIREMENTS / f"{peer}.txt"
    folder = cache(settings) / "peers" / peer
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = folder / _STAMP
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)])
        stamp.write_text(digest)
    return folder / "bin"


def version_of(programs: Path, package: str) -> str:
    """Version of an installed package, "?" if it is missing."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([programs / "python", "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "?"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("ERROR")]
        raise DataError((lines or ["ERROR: pip failed"])[-1].removeprefix("ERROR: "))
