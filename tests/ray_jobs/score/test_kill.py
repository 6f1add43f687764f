"""Real processes, really killed: scoring leaves a whole day or none, and the same command again completes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.data.simulation import transactions
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.training import fitting
from fraud.training.config import TrainConfig

pytestmark = [pytest.mark.ray, pytest.mark.drill]

ROOT = Path(__file__).parents[3]
DAY = "2026-01-31"
GROUP, PARTS = 60_000, 24  # rows of a file, which a part never crosses, and files
PATIENCE_SECONDS = 900  # for a loaded machine; nothing here asserts a time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a file of more rows than are scored between two looks."""
    folder = tmp_path_factory.mktemp("killed")
    schema = Schema.load("transactions")
    config = TrainConfig(
        forest=ForestConfig(n_estimators=100), autoencoder=AutoencoderConfig(epochs=1), head=HeadConfig(use="never")
    )
    detector, _ = fitting.fit_locally(validate(transactions(3_000, seed=1), schema).rows, schema, config)
    bundle.save(folder / "bundle", detector)
    (folder / "rows").mkdir()
    table = pa.Table.from_pandas(transactions(GROUP, seed=2), preserve_index=False)
    for i in range(PARTS):
        pq.write_table(table, folder / "rows" / f"{i:02}.parquet")
    return folder


def command(folder: Path, out: str, *more: str) -> list[str]:
    arguments = [sys.executable, "-m", "ray_jobs.score", "--input", str(folder / "rows"), "--output", out]
    return [*arguments, "--date", DAY, "--model", str(folder / "bundle"), "--no-reasons", *more]


class Running:
    """A command that runs, and everything that descends from it, orphans too."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log
        self._seen: dict[int, psutil.Process] = {}

    def family(self) -> list[psutil.Process]:
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self._seen |= {child.pid: child for child in children}
        return list(self._seen.values())

    def wait_for(self, what: str, is_true: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_true():
            self.family()
            assert self.process.poll() is None, f"ended while waiting for {what}: {self.log.read_text()}"
            assert time.monotonic() < end, f"no {what}: {self.log.read_text()}"
            time.sleep(0.01)

    def scorers(self) -> list[psutil.Process]:
        return [child for child in self.family() if "MapBatches(Scorer)" in _title(child)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def running(folder: Path, out: str, *more: str) -> Iterator[Running]:
    """Run the command; what it started is gone afterwards."""
    log = folder / "log.txt"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command(folder, out, *more), cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    run = Running(process, log)
    try:
        yield run
    finally:
        run.family()
        if process.poll() is None:
            process.kill()
        process.wait()
        _, left = psutil.wait_procs(run.family(), timeout=30)
        for child in left:
            child.kill()


def staged(out: Path, but: str = "") -> int:
    """Parts that runs have staged, but one."""
    return sum(but not in path.parts for path in out.glob("_staging/*/part/*/part-*.parquet"))


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / f"date={DAY}").glob("part-*"))}


def test_killed_driver_leaves_no_half_day_and_a_killed_worker_costs_nothing(folder: Path):
    out = folder / "scored"
    with running(folder, str(out), "--rows-on-ray", "0") as first:
        first.wait_for("half of the parts", lambda: staged(out) >= PARTS // 2)
        first.process.kill()
        first.process.wait()
    assert PARTS // 2 <= staged(out) < PARTS, "killed too late for this test to say anything"
    assert not (out / f"date={DAY}").exists()
    (dead,) = (path.name for path in (out / "_staging").iterdir())

    with running(folder, str(out), "--rows-on-ray", "0") as second:
        second.wait_for("a part of the second run", lambda: staged(out, but=dead) and second.scorers())
        second.scorers()[0].kill()
        assert staged(out, but=dead) < PARTS, "killed too late for this test to say anything"
        output, _ = second.process.communicate(timeout=PATIENCE_SECONDS)
        log = second.log.read_text()
        assert second.process.returncode == 0, log
    assert "left unfinished" in log and f"{PARTS * GROUP:,} scored" in output
    assert not list((out / "_staging").iterdir())
    manifest = json.loads((out / f"date={DAY}" / "_manifest.json").read_text())
    assert [part["rows"] for part in manifest["parts"]] == [GROUP] * PARTS

    undisturbed = folder / "undisturbed"
    done = subprocess.run(
        command(folder, str(undisturbed), "--rows-on-ray", "100000000"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert content(undisturbed) == content(out)


def test_two_processes_score_one_day_once(folder: Path):
    out = folder / "twice"
    arguments = command(folder, str(out), "--rows-on-ray", "100000000")
    processes = [
        subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted("already scored, verified" in text for text, _ in outputs) == [False, True]
    assert any("waiting for another scoring job (process" in log for _, log in outputs)
    assert len(content(out)) == PARTS and not list((out / "_staging").iterdir())
