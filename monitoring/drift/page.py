"""The drift page: our verdict and table, then Evidently's report, in one file that needs no network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fraud.judging.page import render
from monitoring.drift.verdict import shortened

if TYPE_CHECKING:
    from evidently.presets.dataset_stats import ValueStatsTests

MOST_LEVELS = 20
SHOWN_COLUMNS = 15
# More rows do not change Evidently's figures; its running time grows with rows and columns.
PICTURED_ROWS, PICTURED_COLUMNS = 5_000, 30
_LONGEST_NAME = 60
_UNSAFE = str.maketrans({"<": "‹", ">": "›", "&": "＆", '"': "”", "'": "’", "`": "‵", "\\": "＼"})


def evidently_page(
    reference: pd.DataFrame, current: pd.DataFrame, kinds: Mapping[str, str], limits: Mapping[str, Any]
) -> str:
    """Evidently's page for the columns of `kinds` ({name: kind}, see `monitoring.drift.verdict.judge`).

    Names and values are escaped first, because Evidently writes them into a script unescaped. Only the MOST_LEVELS most
    common levels keep their names. limits: its PSI drift limit also goes into Evidently's tests. Longer frames are
    sampled (`pictured`).
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    reference, current = pictured(reference), pictured(current)
    old, new = pd.DataFrame(index=reference.index), pd.DataFrame(index=current.index)
    numeric, categorical = [], []
    for name, kind in kinds.items():
        pair = [reference[name], current[name]]
        # Evidently fails on a column without values on one side. Our own table lists it.
        if any(values.notna().sum() == 0 for values in pair):
            continue
        label = _unique(plain(name), set(old.columns))
        if kind in ("numeric", "score"):
            numeric.append(label)
            old[label], new[label] = pair
        else:
            categorical.append(label)
            old[label], new[label] = _levels(pair[0], pair[1], kind)
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    drift_limit = limits["psi"]["drift"]
    presets = [
        DataDriftPreset(
            num_method="psi",
            cat_method="psi",
            num_threshold=drift_limit,
            cat_threshold=drift_limit,
            drift_share=int(1000 / max(len(numeric + categorical), 1))
            / 1000,  # one drifted column is enough, as in our verdict
        ),
        DataSummaryPreset(
            row_count_tests=[],
            column_count_tests=[],
            duplicated_row_count_tests=[],
            column_tests={label: _no_tests() for label in numeric + categorical},
        ),
    ]
    report = Report(presets, include_tests=True, metadata={}, tags=[])
    snapshot = report.run(
        Dataset.from_pandas(new, data_definition=definition), Dataset.from_pandas(old, data_definition=definition)
    )
    return str(snapshot.get_html_str(as_iframe=False))


def pictured(frame: pd.DataFrame) -> pd.DataFrame:
    """A deterministic sample of `PICTURED_ROWS` rows, in order; all rows of a shorter frame."""
    if len(frame) <= PICTURED_ROWS:
        return frame
    return frame.iloc[np.sort(np.random.default_rng(len(frame)).choice(len(frame), PICTURED_ROWS, replace=False))]


def _no_tests() -> ValueStatsTests:
    """Switch off Evidently's column tests: they allow 10 % change of mean, extremes and quantiles, so always fail.

    Uses empty lists, because in 0.7.23 `include_tests=False` raises a KeyError for a column of three or fewer levels.
    """
    from evidently.presets.dataset_stats import ValueStatsTests

    return ValueStatsTests(**{field.name: [] for field in dataclasses.fields(ValueStatsTests)})


def page(report: Mapping[str, Any], evidently: str) -> str:
    """Put our summary on top of Evidently's page. report: the JSON document as a dict.

    Evidently's HTML is the only foreign markup on the page; our templates escape everything else.
    """
    head = render("monitoring", "drift_head.html", verdict=report["verdict"])
    summary = _summary(report)
    html, heads = re.subn(r"<head>", lambda match: match.group() + head, evidently, count=1)
    html, bodies = re.subn(r"<body[^>]*>", lambda match: match.group() + summary, html, count=1)
    if heads != 1 or bodies != 1:
        raise ValueError("Evidently's page has no head or body: read how this version of Evidently writes its page")
    return html


def plain(text: str) -> str:
    """Replace characters with a meaning in HTML or JavaScript, and cut to the length of a label."""
    harmless = "".join(c if c.isprintable() else " " for c in str(text).translate(_UNSAFE)).strip() or "(no name)"
    return shortened(harmless, _LONGEST_NAME)


def _unique(label: str, taken: set[str]) -> str:
    n, candidate = 2, label
    while candidate in taken:
        candidate, n = f"{label} ({n})", n + 1
    return candidate


def _levels(old: pd.Series, new: pd.Series, kind: str) -> tuple[pd.Series, pd.Series]:
    """Both columns as escaped text; all but the MOST_LEVELS most common levels become "(other)"."""
    if kind == "boolean":
        names = {0.0: "no", 1.0: "yes"}
        return old.map(names), new.map(names)
    counts = old.value_counts(normalize=True).add(new.value_counts(normalize=True), fill_value=0.0)
    labels: dict[Any, str] = {}
    for level in counts.sort_values(ascending=False).index[:MOST_LEVELS]:
        labels[level] = _unique(plain(str(level)), set(labels.values()))

    def shown(values: pd.Series) -> pd.Series:
        named = values.map(labels).astype(object)
        named[values.notna() & named.isna()] = "(other)"
        return named

    return shown(old), shown(new)


def _summary(report: Mapping[str, Any]) -> str:
    score = report["score"]
    ranked = sorted(report["columns"], key=lambda c: (("drift", "warning", "ok").index(c["level"]), -c["size"]))
    shown = [*(score["columns"] if score else ()), *ranked[:SHOWN_COLUMNS]]
    return render(
        "monitoring", "drift_summary.html",
        report=report, shown=[_column(column) for column in shown],
        more=[_column(column) for column in ranked[SHOWN_COLUMNS:]],
        pictured_rows=PICTURED_ROWS, pictured_columns=PICTURED_COLUMNS,
    )  # fmt: skip


def _column(column: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the page's table."""
    statistics, p_value = column["statistics"], column["decisive_p_value"]
    distance = statistics.get("ks", statistics.get("jensen_shannon"))
    return {
        "name": shortened(column["column"], _LONGEST_NAME), "kind": column["kind"], "level": column["level"],
        "change": column["change"], "psi": _finite(statistics.get("psi")), "distance": _finite(distance),
        "p_value": "< 1e-300" if p_value == 0 else format(p_value, ".3f" if p_value >= 0.001 else ".0e"),
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
