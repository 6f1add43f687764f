"""Every picture of the evaluation is written, and its title says what was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fraud.judging import evaluation_plots, plot_style


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Figure, str]]:
    """The figures that were saved with their titles, beside the real PNG."""
    saved: list[tuple[Figure, str]] = []
    save = plot_style.save

    def remember(figure, path, title, subtitle):
        saved.append((figure, title))
        return save(figure, path, title, subtitle)

    monkeypatch.setattr(plot_style, "save", remember)
    return saved


def figure(value: float) -> dict:
    return {"value": value, "interval": (value - 0.1, value + 0.1)}


def test_rarity_title_states_whether_the_score_is_calibrated(tmp_path: Path, drawn):
    def level(expected: float, observed: float, holds: bool | None) -> dict:
        low, high = observed / 2, observed * 2 + 1e-4
        return {"expected": expected, "observed": observed, "rows": int(observed * 1e4), "interval": (low, high),
                "holds": holds, "ratio": observed / expected, "score": 0.4}  # fmt: skip

    good = [level(0.1, 0.11, True), level(0.01, 0.012, True), level(0.0001, 0.0, None)]
    off = [level(0.1, 0.11, True), level(0.01, 0.05, False), level(0.0001, 0.001, None)]
    for levels, title in ((good, "High scores are as rare as expected"), (off, "not as rare as expected")):
        section = {"normal_rows": 10_000, "scores": {"joined": levels, "forest": good}}
        path = evaluation_plots.rarity(section, tmp_path / "r.png")
        assert path.read_bytes().startswith(b"\x89PNG") and title in drawn[-1][1]
    (axes,) = drawn[0][0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["joined", "forest"]
    assert np.isnan(axes.lines[1].get_ydata()[0]), "a level that no row reaches has no point"


def test_reliability_marks_the_threshold_in_its_bin(tmp_path: Path, drawn):
    bins = [
        {"low": 0.0, "high": 0.4, "rows": 90, "frauds": 3, "precision": 3 / 90, "interval": (0.01, 0.1)},
        {"low": 0.4, "high": 0.5, "rows": 0, "frauds": 0, "precision": None, "interval": None},
        {"low": 0.5, "high": 1.0, "rows": 10, "frauds": 10, "precision": 1.0, "interval": (0.7, 1.0)},
    ]
    evaluation_plots.reliability({"bins": bins}, 0.45, tmp_path / "r.png")
    axes = drawn[0][0].axes[0]
    assert len(axes.patches) == 2 and 0.5 < axes.lines[-1].get_xdata()[0] < 1.5
    assert {"3 of\n90", "10 of\n10"} <= {text.get_text() for text in axes.texts}


def test_stability_names_the_weak_parts_and_bears_undefined_ones(tmp_path: Path, drawn):
    keys = ("average_precision", "recall", "precision", "alert_rate")
    parts = [{"name": f"2026-01-0{i}", "figures": dict.fromkeys(keys, figure(0.5)), "weak": None} for i in range(1, 4)]
    evaluation_plots.stability({"step": "day", "parts": parts}, tmp_path / "s.png")
    parts[1] = {"name": "2026-01-02", "figures": dict.fromkeys(keys), "weak": "finds 0% of its 9 frauds"}
    evaluation_plots.stability({"step": "day", "parts": parts}, tmp_path / "s.png")
    assert [title for _, title in drawn] == ["Steady from day to day", "Weaker than usual in 1 of 3 days"]


def test_cards_a_day_and_ablation_name_what_matters(tmp_path: Path, drawn):
    days = [{"day": f"2026-01-0{i}", "precision": 0.1 * i} for i in range(1, 4)]
    section = {"k": 50, "unit": "card", "days": days, "attainable": 0.5, "mean": {"value": 0.2, "interval": None}}
    evaluation_plots.cards_a_day(section, tmp_path / "c.png")
    groups = [
        {"name": "amount", "worth": -0.02, "worth_interval": (-0.03, -0.01)},
        {"name": "$\\frac", "worth": 0.3, "worth_interval": (0.2, 0.4)},
        {"name": "hour", "worth": 0.0, "worth_interval": None},
    ]
    evaluation_plots.ablation(groups, tmp_path / "a.png")
    assert "50 most suspicious cards of a day, 20% are compromised" in drawn[0][1]
    assert "is worth most: +0.300" in drawn[1][1]
    assert drawn[1][0].axes[0].get_yticklabels()[0].get_text() == "amount", "the least valuable stands last"
