"""The scoring benchmark: its tables, the page that has them, and the usual way on a few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pages import replace_section
from benchmarks.scoring import table
from benchmarks.scoring.stages import STAGES

FOUND = {
    "rows": 1_000_000, "sample": 100_000, "small": 50_000, "cpus": 2, "difference": 3e-7,
    "usual": [{"rows": 1_000_000, "seconds": 8.0, "wall_s": 10.0}],
    "ours": [{"wall_s": 3.0}, {"wall_s": 1.0}], "ours_sample": [{"wall_s": 0.2}],
    "reasons": [{"wall_s": 4.0}], "cold": [{"wall_s": 5.0}],
    "memory": {"100000": 900.0, "1000000": 1_000.0},
    "small_runs": {"in the job's process": [2.0, 3.0], "on a Ray that runs": [6.0]},
    "stages": {"on a Ray that runs": dict.fromkeys(STAGES, 1.0)},
}  # fmt: skip


def test_the_tables_say_what_was_measured() -> None:
    markdown = table.markdown(FOUND)
    assert "| 1,000,000 | 2.0 | 500,000 | 5.0 × |" in markdown, "medians, against 100,000 rows a second"
    assert "| 900,000 | 1.8 | 500,000 | 5.0 × |" in markdown, "what further rows take"
    assert "900 MiB at 100,000 rows, 1,000 MiB at 1,000,000 rows" in markdown
    assert "| in the job's process | 2.5 s |  |" in markdown and "| on a Ray that runs | 6.0 s | 1.0 s |" in markdown


def test_the_page_says_what_the_last_run_measured() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.BEGIN in page
    if not table.RESULTS.exists():
        pytest.skip(f"{table.RESULTS.name} is not measured yet")
    results = json.loads(Path(table.RESULTS).read_text(encoding="utf-8"))
    assert replace_section(page, table.markdown(results), table.BEGIN) == page, (
        "run python -m benchmarks.scoring --table"
    )
