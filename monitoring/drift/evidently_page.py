"""Evidently's page: pictures of the columns that changed most, in a file of its own that needs no network."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fraud.judging.page import render
from monitoring.drift.verdict import WORDS, shortened

if TYPE_CHECKING:
    from evidently.presets.dataset_stats import ValueStatsTests

MOST_LEVELS = 20
# More rows do not change Evidently's figures; its running time grows with rows and columns.
PICTURED_ROWS, PICTURED_COLUMNS = 5_000, 30
LONGEST_NAME = 60
_UNSAFE = str.maketrans({"<": "‹", ">": "›", "&": "＆", '"': "”", "'": "’", "`": "‵", "\\": "＼"})


def evidently_page(
    reference: pd.DataFrame, current: pd.DataFrame, kinds: Mapping[str, str], limits: Mapping[str, float]
) -> tuple[str, dict[str, float | None]]:
    """Evidently's page for the columns of `kinds` ({name: kind}, see `monitoring.drift.verdict.judge`), and its PSI.

    Names and values are escaped first, because Evidently writes them into a script unescaped. Only the MOST_LEVELS most
    common levels keep their names. limits: by column, the PSI that is drift, for Evidently's tests. Longer frames are
    sampled (`pictured`). The PSI is by column, without those that Evidently cannot draw; None if there is none.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    reference, current = pictured(reference), pictured(current)
    old, new = pd.DataFrame(index=reference.index), pd.DataFrame(index=current.index)
    numeric, categorical = [], []
    names: dict[str, str] = {}  # by label
    for name, kind in kinds.items():
        pair = [reference[name], current[name]]
        # Evidently fails on a column without values on one side. Our own table lists it.
        if any(values.notna().sum() == 0 for values in pair):
            continue
        label = _unique(plain(name), set(old.columns))
        names[label] = name
        if kind in ("numeric", "score"):
            numeric.append(label)
            old[label], new[label] = pair
        else:
            categorical.append(label)
            old[label], new[label] = _levels(pair[0], pair[1], kind)
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    presets = [
        DataDriftPreset(
            num_method="psi",
            cat_method="psi",
            per_column_threshold={label: limits[name] for label, name in names.items()},
            drift_share=int(1000 / max(len(names), 1)) / 1000,  # one drifted column is enough, as in our verdict
        ),
        DataSummaryPreset(
            row_count_tests=[],
            column_count_tests=[],
            duplicated_row_count_tests=[],
            column_tests={label: _no_tests() for label in names},
        ),
    ]
    report = Report(presets, include_tests=True, metadata={}, tags=[])
    snapshot = report.run(
        Dataset.from_pandas(new, data_definition=definition), Dataset.from_pandas(old, data_definition=definition)
    )
    psi: dict[str, float | None] = {}
    for result in snapshot.dict()["metrics"]:
        if (label := result["config"].get("column")) in names and "ValueDrift(" in result["metric_name"]:
            value = float(result["value"])
            psi[names[label]] = value if math.isfinite(value) else None
    return str(snapshot.get_html_str(as_iframe=False)), psi


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


def guarded(report: Mapping[str, Any], evidently: str, link: str) -> str:
    """Evidently's page with a policy against the network, our verdict and a link back to our page on top.

    report: the JSON document; link: our page, relative. Evidently's HTML is the only foreign markup.
    """
    head = render("monitoring", "evidently_head.html", verdict=_word(report))
    note = render("monitoring", "evidently_note.html", report=report, verdict=_word(report), link=link)
    html, heads = re.subn(r"<head>", lambda match: match.group() + head, evidently, count=1)
    html, bodies = re.subn(r"<body[^>]*>", lambda match: match.group() + note, html, count=1)
    if heads != 1 or bodies != 1:
        raise ValueError("Evidently's page has no head or body: read how this version of Evidently writes its page")
    return html


def _word(report: Mapping[str, Any]) -> str:
    return WORDS.get(report["verdict"], report["verdict"])


def plain(text: str) -> str:
    """Replace characters with a meaning in HTML or JavaScript, and cut to the length of a label."""
    harmless = "".join(c if c.isprintable() else " " for c in str(text).translate(_UNSAFE)).strip() or "(no name)"
    return shortened(harmless, LONGEST_NAME)


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
