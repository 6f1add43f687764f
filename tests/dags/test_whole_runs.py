"""Real Airflow, real Ray: a training, then a whole run of the daily and of the weekly DAG."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import airflow
from tests.dags import sample
from tests.dags.local_airflow import LocalAirflow, running

pytestmark = [pytest.mark.airflow, pytest.mark.drill]

TODAY = dt.datetime.now(dt.UTC).date()
TRAIN = ["python", "-m", "ray_jobs.train", "--data", "data/history.parquet", "--schema", "handbook"]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalAirflow]:
    sample.write(tmp_path, TODAY)
    with running(tmp_path, Path(__file__).parent / "faults") as started:
        yield started


def test_a_day_and_a_retraining_run_green(local: LocalAirflow, tmp_path: Path):
    """`airflow dags test` runs on a copy of the database, or the scheduler would run the same tasks."""
    variables = local.variables_of_a_test_run(tmp_path / "airflow.db", **sample.VARIABLES)
    for_ray = local.stack.environment() | {"RAY_API_SERVER_ADDRESS": local.stack.url("dashboard")}
    first = [*TRAIN, "--config", "quick.yaml", "--outdir", "artifacts/first"]
    run(["ray", "job", "submit", "--", *first], for_ray)
    for dag_id in ("fraud_daily_scoring", "fraud_weekly_retraining"):
        conf = json.dumps({"date": str(TODAY)})
        run([str(airflow.binary()), "dags", "test", dag_id, "--conf", conf], variables)

    root = local.stack.settings.root
    assert list((root / "scored" / f"date={TODAY}").glob("part-*.parquet"))
    for kind in ("drift", "volume", "performance"):
        assert (root / "reports" / kind / f"{TODAY}.json").exists()
    assert (root / "review" / f"{TODAY}.csv").exists()
    decided = json.loads((root / "gate" / f"{TODAY}.json").read_text())
    assert decided["decision"] in ("promoted", "refused")
    assert (root / "sweep" / str(TODAY) / "best.yaml").exists()


def run(command: list[str], environment: dict[str, str]) -> None:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    ended = subprocess.run(command, env=environment, text=True, **pipes)
    causes = [line for line in ended.stdout.splitlines() if "error:" in line or "FAILED" in line]
    assert ended.returncode == 0, "\n".join([*causes, ended.stdout[-3000:]])
