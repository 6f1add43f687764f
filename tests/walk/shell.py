"""A newcomer's shell: a copy of the working tree, and one documented line after the other as written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.documentation import ROOT

LINE_TIMEOUT_S = 900
VENVS = (".venv", ".venv-airflow")
PASSED_ON = ("PATH", "LANG", "NUMBA_CACHE_DIR", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Shell:
    """A shell in `folder`. What a line exports is there for the next one."""

    folder: Path
    variables: Path

    @classmethod
    def open(cls, folder: Path, home: Path) -> Shell:
        """Copy the files that git knows, or would take, and link the installed environments."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)  # with its time: a newer lock would install again
        for name in VENVS:
            if (ROOT / name).exists():
                (folder / name).symlink_to((ROOT / name).resolve())
        return cls(folder, home / "variables.sh")

    def run(self, line: str) -> tuple[int, str]:
        """Run a line. Returns its exit code and everything that it printed."""
        home = self.variables.parent
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        saved = self.variables
        script = f"test ! -e {saved} || . {saved}\n{line}\nwalked=$?\nexport -p > {saved}\nexit $walked"
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env={**environment, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LINE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return 124, f"not finished after {LINE_TIMEOUT_S} s:\n{process.communicate()[0]}"
        return process.returncode, output
