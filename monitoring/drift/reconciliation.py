"""Our verdict and Evidently's side by side: where they differ, and why, in words.

Ours needs an effect beyond the column's limit and a corrected p-value below alpha, and also judges distances, missing,
new and refused values. Evidently compares one number per column, its PSI on a smaller sample, with the same limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitoring.drift.verdict import TOO_FEW_ROWS, WORDS, shortened


def reconcile(report: Mapping[str, Any], psi: Mapping[str, float | None]) -> dict[str, Any]:
    """Compare both verdicts. report: the JSON document. psi: Evidently's PSI by column; None if it has no value.

    Returns psi, the columns `marked` by Evidently, a `summary`, and `differences`: {column, ours, evidently, why}.
    """
    columns = [*(report["score"]["columns"] if report["score"] else ()), *report["columns"]]
    marked = [c["column"] for c in columns if c["column"] in psi and _marks(psi[c["column"]], c)]
    differences = [
        {
            "column": column["column"],
            "ours": column["level"],
            "evidently": _side(column["column"], psi, marked),
            "why": _why(column, psi, marked, report),
        }
        for column in columns
        if (column["level"] == "drift") != (column["column"] in marked)
    ]
    return {"psi": dict(psi), "marked": marked, "summary": _summary(report, psi, marked, differences)} | {
        "differences": differences
    }


def _marks(psi: float | None, column: Mapping[str, Any]) -> bool:
    return psi is not None and psi >= column["thresholds"]["psi"]["drift"]


def _side(name: str, psi: Mapping[str, float | None], marked: list[str]) -> str:
    return "drift" if name in marked else "no drift" if name in psi else "not drawn"


def _summary(
    report: Mapping[str, Any],
    psi: Mapping[str, float | None],
    marked: list[str],
    differences: list[dict[str, Any]],
) -> str:
    """Both verdicts, and whether they differ on a column."""
    verdict = WORDS.get(report["verdict"], report["verdict"])
    ours = f"Our verdict is {verdict!r}. "
    theirs = f"Evidently marks {len(marked)} of the {len(psi)} columns it draws as drifted. "
    if report["verdict"] == TOO_FEW_ROWS:
        return ours + theirs + "With so few rows its marks say nothing: chance moves PSI that far."
    if not differences:
        return ours + theirs + "Both agree on every column."
    n = len(differences)
    more = "1 column, for the reason" if n == 1 else f"{n} columns, for the reasons"
    return f"{ours}{theirs}They differ on {more} given by column. Jobs and alerts use ours."


def _why(
    column: Mapping[str, Any], psi: Mapping[str, float | None], marked: list[str], report: Mapping[str, Any]
) -> str:
    if column["column"] in marked:
        return _why_only_evidently(column, psi[column["column"]], report)
    return _why_only_ours(column, psi)


def _why_only_evidently(column: Mapping[str, Any], theirs: float | None, report: Mapping[str, Any]) -> str:
    if column["level"] == TOO_FEW_ROWS:
        return "there are too few rows for a verdict"
    ours, limit = column["statistics"].get("psi"), column["thresholds"]["psi"]["drift"]
    alpha, p_value = report["limits"]["alpha"], column["p_value_adjusted"]
    if p_value >= alpha:
        return (
            f"our PSI is {_number(ours)}, and chance explains it: p is {p_value:.2g} after the correction for many "
            f"columns, and must be below {alpha:g}; Evidently's PSI has no p-value"
        )
    bins = (
        "over the reference's deciles; Evidently takes bins of equal width, where a few rows far out weigh more"
        if column["kind"] in ("numeric", "score")
        else "with rare values taken together; Evidently counts each, and one that is absent weighs much"
    )
    also = "; we call it a warning" if column["level"] == "warning" else ""
    return f"our PSI is {_number(ours)} and the limit {limit:.2f}, {bins}: {_number(theirs)}{also}"


def _why_only_ours(column: Mapping[str, Any], psi: Mapping[str, float | None]) -> str:
    name, statistics, limits = column["column"], column["statistics"], column["thresholds"]
    reasons = []
    if column["missing"]["level"] == "drift":
        reasons.append("missing values count for us; Evidently compares only the values that are there")
    if column.get("unseen", {}).get("level") == "drift":
        reasons.append("values that the reference never had count for us by their share of rows")
    for key, text in (("ks", "the Kolmogorov–Smirnov distance is {0:.2f}, beyond its limit of {1:.2f}"),
                      ("psi", "our PSI is {0:.2f}, beyond its limit of {1:.2f}")):  # fmt: skip
        value = statistics.get(key)
        if not reasons and key in limits and value is not None and value >= limits[key]["drift"]:
            reasons.append(text.format(value, limits[key]["drift"]))
    if not reasons:
        reasons.append(f"we found: {shortened(column['change'], 80)}")
    if name not in psi:
        return f"{'; '.join(reasons)}. Evidently does not draw this column"
    return f"{'; '.join(reasons)}. Evidently's PSI is {_number(psi[name])}"


def _number(value: float | None) -> str:
    return "without a value" if value is None else f"{value:.2f}"
