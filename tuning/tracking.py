"""Copy a sweep's journal into MLflow while the sweep runs: one parent run, one child run a trial.

    python -m tuning.tracking --sweep ID [--outdir FOLDER]     copies what MLflow lacks

A thread of the driver does it, so a slow or unreachable MLflow does not delay the sweep. The journal is the source of
truth; the thread sends MLflow what it lacks. <sweep>/mlflow.json records the progress. When that file is incomplete
(a driver was killed between a call and its record), the runs are found by their tags.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fraud.cli import examples, next_step, run_command
from fraud.errors import RegistryError, RegistryUnreachableError
from fraud.registry import runs
from fraud.registry.runs import Run
from fraud.settings import Settings, git_commit
from tuning.record import run_content
from tuning.record.journal import WINNER, Journal, Trial, locked_journal
from tuning.record.run_content import TRIAL, SweepContent

logger = logging.getLogger(__name__)

PROGRESS, SPACE_FILE = "mlflow.json", "space.yaml"
# Between two reads of the journal; reports of a trial in between go into one call.
_PAUSE_S = 4.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 15.0


class SweepTracker:
    """Copies one driver's sweep. Call `start`, `wake` after every event, and at the end `log_folder` and `finish`.

    They never raise because of MLflow.
    """

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._request = journal.read_request()
        self._identity = run_content.identity(journal.sweep_id, self._request)
        self._content = SweepContent()
        self._progress = _read_progress(journal.path / PROGRESS)
        self._parent: Run | None = None  # None: not opened by this driver, or MLflow was unreachable since
        self._is_sure = False  # whether we know every run that exists
        self._refused: dict[str, str] = {}
        self._folders: list[tuple[Path, str | None]] = []
        self._thread = threading.Thread(target=self._run, name="sweep-tracker", daemon=True)
        # Messages from the driver to the thread, guarded by the condition.
        self._condition = threading.Condition()
        self._has_news = True
        self._closing: str | None = None
        self._must_stop = False
        self._is_complete = False
        self._has_ended = False

    def start(self) -> None:
        """Begin copying, first what an earlier driver did not copy."""
        # We retry ourselves. A client that retries too creates a second run when the first answer was lost, and logs
        # a line for every try.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        self._thread.start()

    def wake(self) -> None:
        """Signal that the journal has grown. Returns at once."""
        with self._condition:
            self._has_news = True
            self._condition.notify_all()

    def log_folder(self, folder: Path, under: str | None = None) -> None:
        """Store a folder's files in the parent's artifacts, below `under`, when the sweep ends."""
        self._folders.append((folder, under))

    def finish(self, status: str, patience_s: float = 120.0) -> bool:
        """Copy the rest, end every run, and wait for it; status: the parent's, FINISHED, FAILED or KILLED.

        Marks unfinished trials as KILLED. Returns False if MLflow still lacks a part after `patience_s`, and logs the
        command that copies the rest. Stops copying either way.
        """
        with self._condition:
            self._closing, self._has_news = status, True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._has_ended, patience_s)
            self._must_stop = True
            self._condition.notify_all()
        if self._is_complete and not self._refused:
            return True
        reason = "; ".join(self._refused.values()) if self._is_complete else f"not done after {patience_s:.0f} s"
        folder = f" --outdir {self._folders[0][0]}" if self._folders else ""
        logger.warning(
            "MLflow at %s lacks a part of sweep %s (%s). Nothing is lost; copy the rest with: "
            "python -m tuning.tracking --sweep %s%s",
            *(runs.shown(self._settings), self._journal.sweep_id, reason, self._journal.sweep_id, folder),
        )
        return False

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self._condition:
                self._has_ended = True
                self._condition.notify_all()

    def _work(self) -> None:
        wait_s, away_since = _FIRST_WAIT_S, None
        while self._wait_for_news():
            closing = self._closing
            try:
                self._copy(closing)
            except Exception as error:
                if away_since is None:
                    away_since = time.monotonic()
                    text = "%s; the sweep continues, and MLflow gets everything when it answers again"
                    # Any other error is a bug of ours or of a plugin: log the traceback.
                    logger.warning(text, error, exc_info=not isinstance(error, RegistryError))
                self._parent, self._is_sure = None, False
                self._sleep(wait_s, closing)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                continue
            finally:
                _write_progress(self._journal.path / PROGRESS, self._progress)
            if away_since is not None:
                logger.warning("MLflow answers again after %.0f s and is up to date", time.monotonic() - away_since)
            wait_s, away_since = _FIRST_WAIT_S, None
            if closing is not None:
                self._is_complete = not self._must_stop
                return
            with self._condition:
                self._condition.wait_for(lambda: self._closing is not None or self._must_stop, _PAUSE_S)

    def _wait_for_news(self) -> bool:
        with self._condition:
            self._condition.wait_for(lambda: self._has_news or self._must_stop)
            self._has_news = False
            return not self._must_stop

    def _sleep(self, seconds: float, closing: str | None) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._must_stop or self._closing != closing, seconds)
            self._has_news = True

    def _copy(self, closing: str | None) -> None:
        """Copy what MLflow lacks. Raises RegistryUnreachableError; call again to continue."""
        self._content.add(self._journal.events(self._content.n_events))
        if self._parent is None:
            self._parent = self._open_parent()
        if closing is not None:
            self._refused.clear()  # one more try
        self._attempt("the sweep", self._copy_parent, self._parent)
        for trial in self._content.trials():
            if self._must_stop:
                return
            if str(trial.number) not in self._refused:
                self._attempt(str(trial.number), self._copy_trial, trial, self._parent, closing is not None)
        if closing is not None:
            self._attempt("duplicates", self._remove_duplicates)
            self._attempt("artifacts", self._store_artifacts, self._parent)
            self._parent.finish(closing)

    def _attempt(self, what: str, step: Callable[..., None], *arguments: object) -> None:
        """Run a step. If MLflow refuses it, log that and let the other steps run."""
        try:
            step(*arguments)
        except RegistryUnreachableError:
            raise
        except RegistryError as error:
            if what not in self._refused:
                name = f"trial {what}" if what.isdecimal() else what
                logger.warning("%s of sweep %s: %s", name, self._journal.sweep_id, error)
                self._refused[what] = f"{name} was refused"

    def _open_parent(self) -> Run:
        known = self._progress["parent"]
        run = runs.continue_run(self._settings, known) if known else None
        if run is None:
            if known:
                logger.warning(
                    "MLflow no longer has the runs of sweep %s: copying everything again", self._journal.sweep_id
                )
            self._progress = _no_progress()
            self._adopt()
            known = self._progress["parent"]
            run = runs.continue_run(self._settings, known) if known else None
        if run is None:
            started_ms = run_content.milliseconds(self._request["created"])
            named = self._identity | {
                "objective": self._request.get("objective_name", ""),
                runs.SOURCE: "tuning.sweep",
                runs.DESCRIPTION: run_content.description(self._journal.sweep_id, self._request),
                "mlflow.source.git.commit": git_commit() or "unknown",
            }
            name = run_content.parent_name(self._request)
            run = runs.start_run(self._settings, name, named, started_ms=started_ms)
            self._progress["parent"] = run.run_id
        return run

    def _adopt(self) -> None:
        """Find this sweep's runs by their tags and add those missing in the progress file."""
        for run_id, tags in runs.find_runs(self._settings, self._identity):
            if TRIAL not in tags:
                self._progress["parent"] = self._progress["parent"] or run_id
            else:
                self._progress["trials"].setdefault(tags[TRIAL], _copied_nothing(run_id))
        self._is_sure = True

    def _copy_parent(self, parent: Run) -> None:
        points = self._content.parent_points
        copied = self._progress["parent_points"]
        if self._progress["has_parameters"] and copied == len(points):
            return
        fresh = not self._progress["has_parameters"]
        parent.log(parameters=run_content.parameters(self._request) if fresh else None, points=points[copied:])
        self._progress |= {"has_parameters": True, "parent_points": len(points)}

    def _copy_trial(self, trial: Trial, parent: Run, is_closing: bool) -> None:
        number, points = str(trial.number), self._content.points(trial.number)
        status = run_content.status(trial, is_closing=is_closing)
        trials = self._progress["trials"]
        if number not in trials and not self._is_sure:
            self._adopt()
        if number not in trials:
            run = runs.start_run(
                self._settings,
                f"{trial.detector} {number}",
                self._identity | {TRIAL: number, "detector": trial.detector},
                parent=parent,
                started_ms=run_content.milliseconds(trial.started),
            )
            trials[number] = _copied_nothing(run.run_id) | {"status": "RUNNING"}
        note = trials[number]
        if (note["status"], note["points"], note["has_parameters"]) == (status, len(points), True):
            return
        run = Run(self._settings, note["run_id"])
        run.log(
            parameters=None if note["has_parameters"] else run_content.parameters(trial.params),
            points=points[note["points"] :],
            tags=(
                ({} if note["has_parameters"] else {runs.PARENT_RUN: parent.run_id})
                | ({} if status == note["status"] else run_content.tags(trial, status))
            ),
        )
        note |= {"points": len(points), "has_parameters": True}
        if status == "RUNNING" != note["status"]:
            run.reopen()
        elif status != note["status"]:
            run.finish(status, None if trial.ended is None else run_content.milliseconds(trial.ended))
        note["status"] = status

    def _remove_duplicates(self) -> None:
        """Delete runs that were created twice because MLflow's first answer was lost."""
        known = {self._progress["parent"], *(note["run_id"] for note in self._progress["trials"].values())}
        for run_id, tags in runs.find_runs(self._settings, self._identity):
            if run_id not in known and (TRIAL not in tags or tags[TRIAL] in self._progress["trials"]):
                logger.info("deleting run %s, a duplicate in sweep %s", run_id, self._journal.sweep_id)
                Run(self._settings, run_id).delete()

    def _store_artifacts(self, parent: Run) -> None:
        parent.log_text(str(self._request.get(run_content.SPACE, "")), SPACE_FILE)
        winner = self._journal.path / WINNER
        if winner.exists():
            time_ms, record = run_content.milliseconds(winner.stat().st_mtime), json.loads(winner.read_text())
            text = run_content.description(self._journal.sweep_id, self._request, record)
            parent.log(points=run_content.winner_points(record, time_ms), tags={runs.DESCRIPTION: text})
        for folder, under in self._folders:
            if folder.is_dir():
                parent.log_folder(folder, under)
            else:
                logger.warning("%s is not a folder: nothing of it is logged to MLflow", folder)


def _no_progress() -> dict[str, Any]:
    """parent: its run id; trials: by number, the run id and the progress of its copy."""
    return {"parent": None, "has_parameters": False, "parent_points": 0, "trials": {}}


def _copied_nothing(run_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "has_parameters": False, "points": 0, "status": None}


def _read_progress(file: Path) -> dict[str, Any]:
    try:
        progress: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return _no_progress()  # then the runs are found by their tags
    return _no_progress() | progress


def _write_progress(file: Path, progress: dict[str, Any]) -> None:
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(progress))
    draft.replace(file)


def main(argv: Sequence[str] | None = None) -> int:
    """Copy what MLflow lacks of a sweep that has ended."""
    parser = argparse.ArgumentParser(
        prog="python -m tuning.tracking",
        description="Copy what MLflow lacks of a sweep, after MLflow was unreachable or the driver was killed. "
        "Existing runs stay unchanged. Unfinished trials are marked as interrupted; to continue them instead, "
        "use `python -m tuning.sweep --resume ID`.",
        **examples("python -m tuning.tracking --sweep cards-1 --outdir out/sweep"),
    )
    parser.add_argument("--sweep", required=True, metavar="ID", help="the sweep's id, in the first line of its log")
    parser.add_argument(
        "--outdir", metavar="FOLDER", help="folder of report and best.yaml, to store in the run's artifacts"
    )
    parser.add_argument(
        "--patience", type=float, default=120.0, metavar="S", help="seconds to wait for MLflow (default: 120)"
    )
    arguments = parser.parse_args(argv)
    settings = Settings.from_environment()
    with locked_journal(settings.state / "sweeps", arguments.sweep, must_exist=True) as journal:
        tracker = SweepTracker(settings, journal)
        tracker.start()
        if arguments.outdir:
            tracker.log_folder(Path(settings.locate(arguments.outdir)))
        has_ended = all(trial.has_ended for trial in journal.trials().values())
        if not tracker.finish("FINISHED" if has_ended else "KILLED", arguments.patience):
            return 1
    report = ["--sweep", arguments.sweep, "--outdir", arguments.outdir or "sweep"]
    sys.stdout.write(next_step("python -m tuning.report", *report))
    return 0


if __name__ == "__main__":
    run_command(main)
