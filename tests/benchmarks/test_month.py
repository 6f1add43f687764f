"""The month's replay on a dozen days of few rows: every command runs, every record is there, the picture is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.month import criteria, world
from benchmarks.month.__main__ import main
from fraud.schema.validation import validate


@pytest.mark.slow
def test_a_short_month_runs_through_the_real_commands(tmp_path: Path):
    out, image = tmp_path / "month.json", tmp_path / "month.png"
    assert main(["--small", "--seeds", "1", "--out", str(out), "--picture", str(image)]) in (0, 1)
    (result,) = json.loads(out.read_text())["months"]
    assert [day["day"] for day in result["days"]] == list(range(1, 14))
    assert all(day["verdict"] != "drift" for day in result["days"][:3])
    assert result["judged"]["alarm_day"] in (4, 5, 6)
    assert result["days"][-1]["estimate"] is not None and result["days"][-1]["flagged"] > 0
    kinds = {gate["kind"]: gate for gate in result["gates"]}
    assert list(kinds) == ["worse", "poisoned", "weekly"]
    assert kinds["worse"]["decision"] == kinds["poisoned"]["decision"] == "refused"
    assert "better" in kinds["worse"]["texts"] and kinds["weekly"]["frauds"] >= 5
    assert image.read_bytes().startswith(b"\x89PNG") and image.stat().st_size < 200_000


def test_what_happens_does_not_depend_on_who_asks():
    small = world.World(rows=400, days=6, before=3, drift_day=4)
    before, after = small.day(3), small.day(4)
    assert small.day(4).equals(after) and not len(validate(after, world.schema()).quarantine)
    assert after.loc[after["is_fraud"] == 0, "amount"].median() > 1.2 * before["amount"].median()
    quiet = world.World(rows=400, days=6, before=3, drift_day=5).day(4)
    assert after["is_fraud"].sum() > quiet["is_fraud"].sum(), "the new kind of fraud"


def day(number: int, **changes: object) -> dict:
    record = {"day": number, "champion": 1, "verdict": "ok", "precision": 0.5, "low": 0.4, "high": 0.6}
    return record | changes


@pytest.mark.parametrize(
    ("days", "gates", "failing"),
    [
        ([day(1), day(2, verdict="drift")], [("worse", "refused"), ("weekly", "promoted")], None),
        ([day(1), day(2)], [("worse", "refused"), ("weekly", "promoted")], "drift alarm"),
        ([day(1, low=0.55), day(2, verdict="drift")], [("worse", "refused"), ("weekly", "promoted")], "precision's"),
        ([day(1, low=None), day(2, verdict="drift")], [("worse", "refused"), ("weekly", "promoted")], "precision's"),
        ([day(1), day(2, verdict="drift")], [("worse", "promoted"), ("weekly", "promoted")], "worse and poisoned"),
        ([day(1), day(2, verdict="drift")], [("worse", "refused"), ("weekly", "refused")], "the model that handles"),
    ],
)
def test_a_demand_that_is_not_met_is_told(days: list[dict], gates: list[tuple[str, str]], failing: str | None):
    result = {"days": days, "gates": [{"kind": kind, "decision": decision} for kind, decision in gates]}
    wrong = [name for name, holds in criteria.judge(result, 2)["demands"].items() if not holds]
    assert (not wrong) if failing is None else (len(wrong) == 1 and wrong[0].startswith(failing))
