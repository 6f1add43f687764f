"""Where a measured server runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.processes import Processes
from benchmarks.serving.workload import Workload


@dataclass(frozen=True)
class Sandbox:
    """Where a server runs. folder: its own, empty; programs: of its environment; port: to listen on."""

    processes: Processes
    workload: Workload
    programs: Path
    folder: Path
    port: int
    environment: Mapping[str, str]

    def start(self, *command: str | Path, **environment: str) -> None:
        """Start one of its programs."""
        program, *arguments = command
        self.processes.start([self.programs / program, *arguments], {**self.environment, **environment}, self.folder)
