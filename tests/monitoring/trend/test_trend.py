"""Daily reports become one page: worst columns first, gaps, other models marked, nothing from the network."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraud.errors import ConfigError, DataError
from monitoring.trend.command import main
from monitoring.trend.reports import align, read_reports

START = dt.date(2026, 1, 1)


def column(name: str, psi: float, limit: float = 0.25) -> dict[str, Any]:
    level = "drift" if psi >= limit else "warning" if psi >= limit / 2.5 else "ok"
    thresholds = {"psi": {"warning": limit / 2.5, "drift": limit}}
    return {"column": name, "level": level, "statistics": {"psi": psi}, "thresholds": thresholds}


def write_month(folder: Path, days: int, columns: int, *, missing: tuple[int, ...] = (), switch: int = 10**6) -> None:
    """Reports in which the last column has drifted from the middle on, and another has wide limits of its own."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(days):
        if i in missing:
            continue
        changes = [column(f"column <{c}>", float(rng.gamma(2, 0.006))) for c in range(columns - 2)]
        changes += [column("weekday", 7.0 + rng.random(), limit=30.0), column("moved", 0.4 if i >= days // 2 else 0.01)]
        scores = [column("score", 0.2 if i >= days // 2 else 0.02), column("alert rate", 0.01)]
        worst = max((c["level"] for c in [*changes, *scores]), key=["ok", "warning", "drift"].index)
        report = {
            "verdict": worst, "reason": "moved <b>", "columns": changes, "score": {"columns": scores},
            "current": {"models": ["1" if i < switch else "2"]},
        }  # fmt: skip
        (folder / f"{START + dt.timedelta(days=i)}.json").write_text(json.dumps(report))


def test_reports_are_put_side_by_side(tmp_path: Path):
    write_month(tmp_path, 20, 6, missing=(3, 4), switch=12)
    (tmp_path / "2026-01-05.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    trend = align(read_reports(str(tmp_path)))
    assert len(trend.days) == 20 and len(trend.reports) == 18
    assert trend.gaps == (dt.date(2026, 1, 4), dt.date(2026, 1, 5))
    assert trend.columns[:4] == ("score", "alert rate", "moved", "weekday")
    assert np.isnan(trend.psi[:, 3:5]).all() and not np.isnan(np.delete(trend.psi, [3, 4], axis=1)).any()
    assert trend.limits == (0.1, 0.25) and trend.switches == {dt.date(2026, 1, 13): "2"}
    assert trend.psi[2, -1] == 0.4 and np.nanmax(trend.psi[3]) < 0.1, "a column is held against its own limits"


def test_the_page_holds_pictures_days_and_no_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_month(tmp_path / "reports", 12, 4, missing=(2,), switch=7)
    out = tmp_path / "reports/trend.html"
    assert main(["--reports", str(tmp_path / "reports"), "--out", str(out), "--days", "11"]) == 0
    printed = capsys.readouterr().out
    assert "10 days, 6 columns" in printed and printed.endswith("\nnext: python -m monitoring.performance\n")
    assert main(["--reports", str(tmp_path / "reports"), "--out", str(out), "--days", "11"]) == 0, "its own is replaced"
    (tmp_path / "drift.html").write_text("<title>Drift: ok</title>")
    with pytest.raises(DataError, match=r"drift\.html exists.*--force"):
        main(["--reports", str(tmp_path / "reports"), "--out", str(tmp_path / "drift.html")])
    html = out.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 2 and "<script" not in html and "default-src 'none'" in html
    assert "No report of 2026-01-03" in html and "moved &lt;b&gt;" in html and "<b>" not in html.split("moved")[1][:20]
    assert html.count('<span class="badge bad">drift</span>') == 1 + 6


def test_a_day_with_too_few_rows_is_listed_and_not_drawn(tmp_path: Path):
    write_month(tmp_path, 5, 4)
    path = tmp_path / "2026-01-05.json"
    report = json.loads(path.read_text()) | {"verdict": "too_few_rows", "reason": "105 of 200 needed"}
    for column in (*report["columns"], *report["score"]["columns"]):
        column["level"] = "too_few_rows"
    path.write_text(json.dumps(report))
    trend = align(read_reports(str(tmp_path)))
    assert np.isnan(trend.psi[:, 4]).all() and not np.isnan(trend.psi[:, :4]).any() and not trend.gaps
    assert main(["--reports", str(tmp_path), "--out", str(tmp_path / "trend.html")]) == 0
    html = (tmp_path / "trend.html").read_text(encoding="utf-8")
    assert '<span class="badge unknown">too few rows</span> 2026-01-05: 105 of 200 needed' in html
    for other in tmp_path.glob("*.json"):
        if other != path:
            other.unlink()
    assert main(["--reports", str(tmp_path), "--out", str(tmp_path / "trend.html")]) == 0, "nothing else to draw"


def test_a_long_span_lists_the_newest_bad_days(tmp_path: Path):
    write_month(tmp_path, 70, 3)
    assert main(["--reports", str(tmp_path), "--out", str(tmp_path / "trend.html")]) == 0
    html = (tmp_path / "trend.html").read_text(encoding="utf-8")
    assert html.count("<tr><td>2026-") == 30 and "And 5 earlier days." in html


def test_nothing_to_draw_is_told(tmp_path: Path):
    with pytest.raises(DataError, match="no report named like"):
        main(["--reports", str(tmp_path)])
    with pytest.raises(ConfigError, match="--out"):
        main(["--reports", str(tmp_path), "--out", "trend.png"])
