"""The folder, port, environment and processes of a measured server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.processes import Processes
from benchmarks.serving.workload import Workload


@dataclass(frozen=True)
class Sandbox:
    """Where a server runs. folder: its own, initially empty; programs: bin folder of its environment."""

    processes: Processes
    workload: Workload
    programs: Path
    folder: Path
    port: int
    environment: Mapping[str, str]

    def start(self, *command: str | Path, **environment: str) -> None:
        """Start a program of the environment in the folder."""
        program, *arguments = command
        self.processes.start([self.programs / program, *arguments], {**self.environment, **environment}, self.folder)
