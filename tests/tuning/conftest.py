"""One finished sweep of both detectors, with MLflow, that many tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tuning.small import Workspace
from tuning.record.journal import Journal, Trial


@dataclass(frozen=True)
class Finished:
    """A sweep that has ended. text: what it printed."""

    workspace: Workspace
    text: str
    journal: Journal

    @property
    def trials(self) -> list[Trial]:
        return list(self.journal.trials().values())

    @property
    def outdir(self) -> Path:
        return self.workspace.folder / "sweep"


@pytest.fixture(scope="session")
def finished(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Eight trials, two at once; nobody may change it."""
    workspace = Workspace.make(tmp_path_factory.mktemp("finished"))
    text = workspace.run(workspace.command("--trials", "8"))
    (journal,) = workspace.journals()
    return Finished(workspace, text, journal)
