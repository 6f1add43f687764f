"""The table about bad input says what was measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.fuzz import table
from benchmarks.pages import replace_section


def test_the_table_counts_answers_and_failures() -> None:
    part = {"requests": 5010, "statuses": {"422": 4000, "200": 1010}, "longest_ms": 81.4, "failures": {}}
    parts = {**dict.fromkeys(table.PARTS, part), "attacks": {**part, "failures": {"empty": "500"}}}
    rss = {"before_mib": 260.0, "after_mib": 330.0, "kib_a_request": 0.254}
    run = {"server": "uvicorn", "schema": "handbook", "parts": parts, "rss": rss, "requests": 10_020}
    markdown = table.markdown({"uvicorn handbook": run})
    assert "| requests without a valid key | 5,010 | 200: 1,010, 422: 4,000 | 81 ms | 0 |" in markdown
    assert "| attacks on the socket | 5,010 | 200: 1,010, 422: 4,000 | 81 ms | 1 |" in markdown
    assert "260 MiB before, 330 MiB after; over the second half of the 10,020 generated requests +0.25 KiB" in markdown


def test_the_page_says_what_the_last_run_found() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.BEGIN in page
    if not table.RESULTS.exists():
        pytest.skip(f"{table.RESULTS.name} is not measured yet")
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert replace_section(page, table.markdown(results), table.BEGIN) == page, "run python -m benchmarks.fuzz --table"
