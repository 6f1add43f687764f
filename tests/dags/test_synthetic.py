"""Real Airflow, real Ray: a synthetic world begins, is trained on, and goes on day by day with labels in time."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from deploy.local import airflow
from ray_jobs.synthetic import FIRST_DAY, HISTORY_DAYS
from tests.dags.local_airflow import LocalAirflow, running
from tests.dags.test_whole_runs import run

pytestmark = [pytest.mark.airflow, pytest.mark.drill]

FIRST = FIRST_DAY + dt.timedelta(days=HISTORY_DAYS)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAirflow]:
    monkeypatch.setenv("FRAUD_SYNTHETIC", "0")  # not the running Airflow: `dags test` gets it below
    with running(tmp_path, Path(__file__).parent / "faults") as started:
        yield started


def test_a_first_try_goes_on_day_by_day(local: LocalAirflow, tmp_path: Path):
    variables = local.variables_of_a_test_run(tmp_path / "airflow.db", **airflow.SYNTHETIC, FRAUD_RETRIES="0")
    world = tmp_path / "synthetic"

    def trigger(dag_id: str, logical: str) -> None:
        run([str(airflow.binary()), "dags", "test", dag_id, logical], variables)

    trigger("fraud_first_try", "2026-01-01")
    for number in (1, 2):
        trigger("fraud_daily_scoring", f"2026-01-0{number}")

    days = [f"{FIRST + dt.timedelta(days=number)}" for number in range(2)]
    assert sorted(path.name for path in (world / "scored").glob("date=*")) == [f"date={day}" for day in days]
    for day in days:
        assert {path.stem for path in (world / "reports").glob(f"*/{day}.json")} == {day}
        for kind in ("drift", "volume", "performance"):
            assert json.loads((world / "reports" / kind / f"{day}.json").read_text())
        assert (world / "labels" / "incoming" / f"{day}.csv").exists()
    ingested = pd.concat(pd.read_parquet(path) for path in (world / "var" / "labels").rglob("*.parquet"))
    assert len(ingested) > 10_000
    assert not (tmp_path / "scored").exists() and not (local.stack.settings.state / "labels").exists()
