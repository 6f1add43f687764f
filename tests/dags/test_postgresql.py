"""Airflow's metadata on a real PostgreSQL, by one setting: tables are made, our DAGs are stored and listed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg2
import pytest

from deploy.local import airflow
from deploy.local.services import CODE
from fraud.errors import ConfigError
from tests.deploy.shared_backends import running

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

URL = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
DAGS = {"fraud_daily_scoring", "fraud_weekly_retraining", "fraud_backfill"}


def test_airflow_keeps_its_tables_in_postgresql(tmp_path: Path):
    try:
        command = airflow.binary()
    except ConfigError as error:
        pytest.skip(str(error))
    with running("postgresql") as servers:
        backends = servers.environment()
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env |= {
            "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__DAGS_FOLDER": str(CODE / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(CODE / "dags" / "plugins"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", URL: backends[URL],
        }  # fmt: skip

        def run(*arguments: str) -> str:
            done = subprocess.run([str(command), *arguments], env=env, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        output = run("db", "migrate") + run("db", "check") + run("dags", "reserialize")
        assert backends[URL].split(":")[2].split("@")[0] not in output, "the password is in what Airflow says"
        assert set(run("dags", "list", "--output", "plain").split()) >= DAGS
        with psycopg2.connect(backends[URL].replace("+psycopg2", "")) as database, database.cursor() as cursor:
            cursor.execute("SELECT dag_id FROM serialized_dag")
            assert {dag for (dag,) in cursor.fetchall()} >= DAGS
        assert not list(tmp_path.glob("*.db"))
