"""Which local Airflow feeds itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import airflow
from deploy.local.services import Stack
from fraud.settings import Settings


def is_synthetic(root: Path) -> bool:
    return airflow.is_synthetic(Stack(Settings.from_environment({"FRAUD_ROOT": str(root)})))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRAUD_SYNTHETIC", "FRAUD_DAILY_DATA", "FRAUD_HISTORY_DATA", "FRAUD_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAUD_SYNTHETIC", "0"),
        ("FRAUD_DAILY_DATA", "s3://bank/{date}.parquet"),
        ("FRAUD_HISTORY_DATA", "past/*.parquet"),
        ("FRAUD_MODE", "production"),
    ],
)
def test_a_stack_that_somebody_set_up_makes_no_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    assert is_synthetic(tmp_path)
    monkeypatch.setenv(name, value)
    assert not is_synthetic(tmp_path)


def test_nor_one_with_daily_files_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data" / "daily").mkdir(parents=True)
    assert not is_synthetic(tmp_path)
    monkeypatch.setenv("FRAUD_SYNTHETIC", "1")  # below a folder of its own, so the files are safe
    assert is_synthetic(tmp_path)
