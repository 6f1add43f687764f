"""A day's rows, alerts and refused rows against the days before it, from the manifests of batch scoring."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fraud.data import tables
from fraud.errors import ConfigError, DataError
from monitoring.volume import DayCount, VolumeLimits, content, judge, main, read_counts

DAY = dt.date(2026, 3, 4)  # a Wednesday


def days(n: int, *, rows: int = 10_000, weekend: float = 1.0, seed: int = 1) -> list[DayCount]:
    """So many days before DAY, 1 % flagged and 0.1 % refused, with chance variation."""
    rng = np.random.default_rng(seed)
    counts = []
    for back in range(n, 0, -1):
        day = DAY - dt.timedelta(days=back)
        scored = int(rng.poisson(rows * (weekend if day.weekday() >= 5 else 1.0)))
        counts.append(DayCount(day, scored, int(rng.poisson(scored / 100)), int(rng.poisson(scored / 1000)), "3"))
    return counts


def levels(before: list[DayCount], today: DayCount | None) -> dict[str, str]:
    volume = judge([*before, *([today] if today else [])], DAY if today is None else today.day)
    return {finding.subject: finding.level for finding in volume.findings if finding.level != "ok"}


def today(scored: int = 10_000, flagged: int = 100, quarantined: int = 10, model: str = "3") -> DayCount:
    return DayCount(DAY, scored, flagged, quarantined, model)


def test_an_ordinary_day_is_ok_and_chance_never_alarms():
    volume = judge([*days(28), today()], DAY)
    assert (volume.verdict, volume.reason) == ("ok", "10,010 rows, as usual") and len(volume.compared) == 4
    for seed in range(20):
        history = days(60, rows=300, weekend=0.4, seed=seed)
        for end in range(3, 60):
            assert judge(history[: end + 1], history[end].day).verdict == "ok", (seed, end)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (today(scored=6_500, flagged=65), {"rows": "warning"}),
        (today(scored=3_000, flagged=30), {"rows": "critical"}),
        (today(scored=25_000, flagged=250), {"rows": "critical"}),
        (today(flagged=190), {"flagged share": "warning"}),
        (today(flagged=900), {"flagged share": "critical"}),
        (today(flagged=10), {"flagged share": "critical"}),
        (today(quarantined=200), {"refused rows": "warning"}),
        (today(scored=9_000, flagged=90, quarantined=1_000), {"refused rows": "critical"}),
        (today(scored=0, flagged=0, quarantined=10_000), {"refused rows": "critical"}),
        (today(scored=0, flagged=0, quarantined=0), {"rows": "critical"}),
        (None, {"day": "critical"}),
    ],
)
def test_what_is_out_of_the_ordinary_is_told(count: DayCount | None, expected: dict[str, str]):
    assert {name: level for name, level in levels(days(28), count).items() if name in expected} == expected


def test_a_day_is_compared_with_its_own_weekday_where_there_are_enough():
    weekly = days(35, weekend=0.3)
    sunday = weekly[-3]
    assert sunday.day.weekday() == 6 and judge(weekly, sunday.day).verdict == "ok"
    volume = judge(weekly, sunday.day)
    assert volume.same_weekday and {day.weekday() for day in volume.compared} == {6}
    busy = DayCount(sunday.day, 10_000, 100, 10)
    assert levels([c for c in weekly if c.day < sunday.day], busy)["rows"] == "critical"


def test_missing_is_critical_and_few_days_are_not_judged():
    document = content(judge(days(28), DAY))
    assert document["verdict"] == "critical" and document["rows"] is None
    assert [(a["kind"], a["severity"]) for a in document["alerts"]] == [("missing_data", "critical")]
    young = judge([*days(3), today(scored=1, flagged=0, quarantined=0)], DAY)
    assert young.verdict == "ok" and "3 earlier days, 7 are needed" in young.reason


def test_another_model_is_named_with_its_alerts():
    document = content(judge([*days(28), today(flagged=900, model="4")], DAY))
    assert "(model 4, before 3)" in document["alerts"][0]["text"] and document["model_version"] == "4"


def write(counts: list[DayCount], root: str) -> None:
    for count in counts:
        rows = {"scored": count.scored, "flagged": count.flagged, "quarantined": count.quarantined}
        manifest = {"rows": rows, "model_version": count.model}
        tables.write_text(json.dumps(manifest), f"{root}/date={count.day}/_manifest.json")


def test_the_command_reads_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    write([*days(28), today(scored=3_000, flagged=30)], str(tmp_path / "scored"))
    write([DayCount(DAY + dt.timedelta(days=1), 9, 9, 9)], str(tmp_path / "scored"))
    (tmp_path / "scored/date=2026-02-20/_manifest.json").write_text("{")
    (tmp_path / "scored/_quarantine/date=2026-03-04").mkdir(parents=True)
    assert main(["--scored", "scored", "--date", "2026-03-04", "--out", "reports/v.json"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("critical: 3,010 rows, usually 10,")
    assert printed.endswith("\nnext: python -m monitoring.alerts --volume reports/v.json\n")
    (tmp_path / "mine.json").write_text('{"date": "2026-03-04"}')
    with pytest.raises(DataError, match=r"mine\.json exists.*--force"):
        main(["--scored", "scored", "--date", "2026-03-04", "--out", "mine.json"])
    assert main(["--scored", "scored", "--date", "2026-03-04", "--out", "reports/v.json"]) == 0, "its own is replaced"
    capsys.readouterr()
    assert main(["--scored", "scored/", "--date", "2026-03-03", "--out", "ok.json"]) == 0
    drift = "--cur scored/date=2026-03-03 --out reports/drift/2026-03-03.html"
    assert capsys.readouterr().out.endswith(f"\nnext: python -m monitoring.drift --model champion {drift}\n")
    document = json.loads((tmp_path / "reports/v.json").read_text())
    assert document["rows"] == {"all": 3_010, "scored": 3_000, "flagged": 30, "quarantined": 10}
    assert document["alerts"] == [
        {"kind": "volume", "subject": "rows", "severity": "critical", "text": document["alerts"][0]["text"]}
    ]
    assert main(["--scored", "nowhere", "--date", "2026-03-04", "--out", "none.json"]) == 0
    assert json.loads((tmp_path / "none.json").read_text())["alerts"][0]["kind"] == "missing_data"
    with pytest.raises(ConfigError, match="--date"):
        main(["--scored", "scored", "--date", "yesterday"])


def test_manifests_are_read_from_a_url():
    write([*days(28), today()], "memory://volume/scored")
    counts = read_counts("memory://volume/scored", DAY, VolumeLimits().days)
    assert len(counts) == 29 and counts[-1] == today()
    fsspec.filesystem("memory").rm("/volume", recursive=True)
