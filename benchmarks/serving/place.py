"""Where a measured server runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.material import Material
from benchmarks.serving.processes import Processes


@dataclass(frozen=True)
class Place:
    """Where a server runs. folder: its own, empty; programs: of its environment; port: to listen on."""

    processes: Processes
    material: Material
    programs: Path
    folder: Path
    port: int
    environment: Mapping[str, str]

    def start(self, *command: str | Path, **environment: str) -> None:
        """Start one of its programs."""
        program, *arguments = command
        self.processes.start([self.programs / program, *arguments], {**self.environment, **environment}, self.folder)
