"""Our verdict and Evidently's are explained for every way in which they can differ."""

from __future__ import annotations

from typing import Any

import pytest

from monitoring.drift.reconciliation import reconcile
from monitoring.drift.verdict import TOO_FEW_ROWS


def column(level: str, **more: Any) -> dict[str, Any]:
    return {
        "column": "amount", "kind": "numeric", "level": level, "change": "median 1 → 2", "p_value_adjusted": 1e-9,
        "statistics": {"psi": 0.05, "ks": 0.02}, "missing": {"level": "ok"},
        "thresholds": {"psi": {"warning": 0.1, "drift": 0.25}, "ks": {"warning": 0.1, "drift": 0.2}},
    } | more  # fmt: skip


def report(*columns: dict[str, Any], verdict: str = "ok") -> dict[str, Any]:
    return {"verdict": verdict, "score": None, "columns": list(columns), "limits": {"alpha": 0.01}}


WIDE = {"psi": {"warning": 0.7, "drift": 0.85}}
CATEGORY = {"kind": "categorical", "statistics": {"psi": 0.05}}


@pytest.mark.parametrize(
    ("ours", "psi", "evidently", "why"),
    [
        (column("ok"), 0.4, "drift", "our PSI is 0.05 and the limit 0.25, over the reference's deciles"),
        (column("ok", **CATEGORY), 0.4, "drift", "rare values taken together"),
        (column("ok", p_value_adjusted=0.2), 0.4, "drift", "chance explains it: p is 0.2"),
        (column("warning", statistics={"psi": 0.2}), 0.3, "drift", "PSI is 0.20 and the limit 0.25"),
        (column("warning", statistics={"psi": 0.2}), 0.3, "drift", "we call it a warning"),
        (column(TOO_FEW_ROWS), 0.4, "drift", "too few rows"),
        (
            column("drift", statistics={"psi": 0.3, "ks": 0.1}),
            0.2,
            "no drift",
            "our PSI is 0.30, beyond its limit of 0.25",
        ),
        (column("drift", statistics={"psi": 0.2, "ks": 0.3}), 0.2, "no drift", "Smirnov distance is 0.30"),
        (column("drift", missing={"level": "drift"}), 0.2, "no drift", "missing values count for us"),
        (
            column("drift", **CATEGORY, unseen={"level": "drift"}),
            0.2,
            "no drift",
            "values that the reference never had",
        ),
        (column("drift", statistics={"psi": 0.3}), None, "no drift", "Evidently's PSI is without a value"),
        (
            column("drift", statistics={}, missing={"level": "drift"}),
            "absent",
            "not drawn",
            "does not draw this column",
        ),
    ],
)
def test_every_difference_has_its_reason(ours: dict[str, Any], psi: float | str | None, evidently: str, why: str):
    verdict = {"ok": "ok", "warning": "warning", "drift": "drift", TOO_FEW_ROWS: TOO_FEW_ROWS}[ours["level"]]
    compared = reconcile(report(ours, verdict=verdict), {} if psi == "absent" else {"amount": psi})  # type: ignore[dict-item]
    (difference,) = compared["differences"]
    assert (difference["ours"], difference["evidently"]) == (ours["level"], evidently) and why in difference["why"]
    assert compared["marked"] == (["amount"] if evidently == "drift" else [])
    assert "agree" not in compared["summary"]


@pytest.mark.parametrize(("level", "psi"), [("ok", 0.1), ("warning", 0.2), ("drift", 0.3)])
def test_no_reason_where_both_agree(level: str, psi: float):
    compared = reconcile(report(column(level), verdict=level), {"amount": psi})
    assert not compared["differences"] and "Both agree on every column" in compared["summary"]
    assert f"Our verdict is {level!r}" in compared["summary"]


def test_a_limit_that_the_reference_raised_holds_for_evidently_too():
    ours = column("ok", statistics={"psi": 0.5}, thresholds=WIDE)
    assert not reconcile(report(ours), {"amount": 0.6})["differences"]


def test_few_rows_are_no_disagreement_to_act_on():
    compared = reconcile(report(column(TOO_FEW_ROWS), verdict=TOO_FEW_ROWS), {"amount": 0.6})
    assert "'too few rows'" in compared["summary"] and "say nothing" in compared["summary"]
