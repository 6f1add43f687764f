"""The summary counts what the log holds, and pairs champion with challenger."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraud.errors import ConfigError, DataError
from fraud.schema import Schema
from serve_app.decision_summary import main
from serve_app.decisions.log import DecisionLog
from tests.serve_app.decision_cases import NOON_US, SCHEMA, a_decision, settings_of

DAY_US = 86_400_000_000


def pair(number: int, champion: bool, challenger: bool | None, outcome: str = "scored"):
    return a_decision(number, is_fraud=champion, shadow_version="8", shadow_is_fraud=challenger, shadow_outcome=outcome)


def test_counts_and_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, SCHEMA)
    other = log.register(Schema.load("transactions"))
    verdicts = [(True, True)] * 3 + [(False, False)] * 5 + [(True, False)] * 2 + [(False, True)] * 4
    for number, (champion, challenger) in enumerate(verdicts):
        log.put(pair(number, champion, challenger))
    log.put(pair(20, True, None, "late"))
    log.put(a_decision(21, score=None, is_fraud=None, fallback="review"))
    log.put(a_decision(22, version="8", role="canary", schema_fingerprint=other, inputs={"amount": 2.0}))
    log.put(a_decision(23, time_us=NOON_US + DAY_US, is_fraud=False))
    log.close()
    assert main([str(settings.url)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("18 decisions, 2025-06-15 15:06 to 2025-06-16 15:06 UTC")
    rows = [line.split()[1:] for line in output.splitlines() if line.startswith("fraud-detector ")]
    assert rows == [["7", "champion", "17", "6", "37.50%", "1"], ["8", "canary", "1", "1", "100.00%", "0"]]
    assert "champion 7 beside challenger 8: 14 pairs (0 shed, 1 late, 0 failed)" in output
    assert "both flag 3, neither 5, only the champion 2, only the challenger 4" in output
    assert main([str(settings.url), "--since", "2025-06-16"]) == 0
    assert capsys.readouterr().out.startswith("1 decision, ")


def test_mistakes_are_told_in_one_line(tmp_path: Path):
    with pytest.raises(DataError, match="no decision"):
        main([str(tmp_path)])
    with pytest.raises(DataError, match="cannot be read"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="--since 'soon'"):
        main([str(tmp_path), "--since", "soon"])
