"""The drift page: our verdict and its table first, Evidently's report below; one file, nothing from the network."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from monitoring.drift.verdict import shortened

if TYPE_CHECKING:
    from evidently.presets.dataset_stats import ValueStatsTests

MOST_LEVELS = 20
SHOWN_COLUMNS = 15
# Evidently's figures say as much of this many rows; of every column and row it draws it takes its time.
PICTURED_ROWS, PICTURED_COLUMNS = 5_000, 30
_LONGEST_NAME = 60
_UNSAFE = str.maketrans({"<": "‹", ">": "›", "&": "＆", '"': "”", "'": "’", "`": "‵", "\\": "＼"})
# The page may run its own scripts and draw, and nothing else: whatever slips through, no request leaves it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
)
_STYLE = """
.verdict { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 1200px; margin: 24px auto; padding: 0 24px }
.verdict h1 { font-size: 20px; line-height: 1.4; margin: 0 0 8px; font-weight: 600 }
.verdict h2 { font-size: 17px; margin: 24px 0 8px }
.verdict .badge { border-radius: 4px; padding: 1px 8px; font-weight: 600; white-space: nowrap }
.verdict .ok { background: #dcf1e0; color: #14532d } .verdict .warning { background: #fdeec7; color: #6b4300 }
.verdict .drift { background: #fbdada; color: #7f1d1d }
.verdict table { border-collapse: collapse; width: 100%; font-size: 14px; background: #fff }
.verdict th { text-align: left; border-bottom: 2px solid #c6cfd9; padding: 4px 10px 4px 0; font-weight: 600 }
.verdict td { border-bottom: 1px solid #e3e8ee; padding: 4px 10px 4px 0; vertical-align: top }
.verdict td.number, .verdict th.number { text-align: right; font-variant-numeric: tabular-nums }
.verdict td.name { overflow-wrap: anywhere; max-width: 260px } .verdict .quiet { color: #5b6876; font-size: 14px }
.verdict ul { margin: 4px 0; padding-left: 20px }
"""


def evidently_page(
    reference: pd.DataFrame, current: pd.DataFrame, kinds: Mapping[str, str], limits: Mapping[str, Any]
) -> str:
    """Let Evidently compare the columns of `kinds` (as `monitoring.drift.verdict.judge` takes them); returns its whole
    page.

    Names and values are made harmless first: Evidently writes them into a script as they are. Long lists of levels are
    cut to the commonest. limits: psi's drift limit, which Evidently's own tests use too. Of longer frames
    `PICTURED_ROWS` are drawn (`pictured`).
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    reference, current = pictured(reference), pictured(current)
    old, new = pd.DataFrame(index=reference.index), pd.DataFrame(index=current.index)
    numeric, categorical = [], []
    for name, kind in kinds.items():
        pair = [reference[name], current[name]]
        # Evidently cannot draw a column that has no value on one side; our table tells of it.
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
            / 1000,  # one column is enough, as in our verdict
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
    """`PICTURED_ROWS` of its rows, the same ones every time; all of a shorter frame."""
    if len(frame) <= PICTURED_ROWS:
        return frame
    return frame.iloc[np.sort(np.random.default_rng(len(frame)).choice(len(frame), PICTURED_ROWS, replace=False))]


def _no_tests() -> ValueStatsTests:
    """Evidently's own tests of a column want its mean, extremes and quantiles within 10 %, and would cry wolf.

    Empty lists, because `include_tests=False` raises a KeyError in 0.7.23 for a column of three levels or fewer.
    """
    from evidently.presets.dataset_stats import ValueStatsTests

    return ValueStatsTests(**{field.name: [] for field in dataclasses.fields(ValueStatsTests)})


def page(found: Mapping[str, Any], evidently: str) -> str:
    """Put our summary of the verdict (the JSON document as a dict) on top of Evidently's page."""
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">'
        f"<title>Drift: {html.escape(found['verdict'])}</title><style>{_STYLE}</style>"
    )
    page, n = re.subn(r"<head>", lambda _: "<head>" + head, evidently, count=1)
    page, m = re.subn(r"<body[^>]*>", lambda match: match.group() + _summary(found), page, count=1)
    if n != 1 or m != 1:
        raise ValueError("Evidently's page has no head or body any more: this version is not the one we know")
    return page


def plain(text: str) -> str:
    """A text without characters that mean something to HTML or JavaScript, and no longer than a label may be."""
    harmless = "".join(c if c.isprintable() else " " for c in str(text).translate(_UNSAFE)).strip() or "(no name)"
    return shortened(harmless, _LONGEST_NAME)


def _unique(label: str, taken: set[str]) -> str:
    n, candidate = 2, label
    while candidate in taken:
        candidate, n = f"{label} ({n})", n + 1
    return candidate


def _levels(old: pd.Series, new: pd.Series, kind: str) -> tuple[pd.Series, pd.Series]:
    """The two columns as harmless texts, with all but the commonest levels of both together called "(other)"."""
    if kind == "boolean":
        names = {0.0: "no", 1.0: "yes"}
        return old.map(names), new.map(names)
    counts = old.value_counts(normalize=True).add(new.value_counts(normalize=True), fill_value=0.0)
    kept: dict[Any, str] = {}
    for level in counts.sort_values(ascending=False).index[:MOST_LEVELS]:
        kept[level] = _unique(plain(str(level)), set(kept.values()))

    def shown(values: pd.Series) -> pd.Series:
        named = values.map(kept).astype(object)
        named[values.notna() & named.isna()] = "(other)"
        return named

    return shown(old), shown(new)


def _summary(found: Mapping[str, Any]) -> str:
    columns, score = found["columns"], found["score"]
    shown = sorted(columns, key=lambda c: (("drift", "warning", "ok").index(c["level"]), -c["size"]))
    said = found["sampling"]["stated"]
    parts = [
        '<section class="verdict" id="verdict">',
        f"<h1>{_badge(found['verdict'])} {_text(found['reason'])}</h1>",
        f'<p class="quiet">{_side("Reference", found["reference"])}<br>{_side("Current", found["current"])}<br>'
        f"{_text(said)}</p>",
        "<h2>Columns, most changed first</h2>" if score is None else "<h2>Scores and columns, most changed first</h2>",
        _table([*(score["columns"] if score else ()), *shown[:SHOWN_COLUMNS]]),
    ]
    if len(shown) > SHOWN_COLUMNS:
        rest = shown[SHOWN_COLUMNS:]
        parts.append(f"<details><summary>{len(rest)} more columns</summary>{_table(rest)}</details>")
    parts += [
        "<h2>Data quality</h2>",
        _list(found["quality"]["told"]),
        '<p class="quiet">A column counts as changed when the effect is large enough to matter (PSI from '
        f"{found['limits']['psi']['warning']:g} a warning, from {found['limits']['psi']['drift']:g} drift) and its "
        f"p-value, corrected for the number of tests, is below {found['limits']['alpha']:g}. Evidently's "
        f"report follows, on at most {PICTURED_ROWS:,} of these rows and the {PICTURED_COLUMNS} most changed columns; "
        "jobs act on this verdict, not on Evidently's share of drifted columns.</p>",
        "</section>",
    ]
    return "".join(parts)


def _side(name: str, side: Mapping[str, Any]) -> str:
    window = side["window"]
    when = f", {window['start']} to {window['end']}" if window else ""
    return _text(f"{name}: {side['path']}, {side['rows']:,} rows{when}")


def _table(columns: Sequence[Mapping[str, Any]]) -> str:
    heads = ("Column", "Kind", "Verdict", "What changed", "PSI", "KS or JS", "p, corrected")
    rows = ["".join(f"<th{_align(i)}>{head}</th>" for i, head in enumerate(heads))]
    for column in columns:
        numbers = column["statistics"]
        distance = numbers.get("ks", numbers.get("jensen_shannon"))
        cells = [
            _text(shortened(column["column"], _LONGEST_NAME)),
            _text(column["kind"]),
            _badge(column["level"]),
            _text(column["change"]),
            _number(numbers.get("psi")),
            _number(distance),
            _p_value(column["decisive_p_value"]),
        ]
        rows.append("".join(f"<td{_align(i)}>{cell}</td>" for i, cell in enumerate(cells)))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _align(position: int) -> str:
    return ' class="name"' if position == 0 else ' class="number"' if position >= 4 else ""


def _badge(level: str) -> str:
    return f'<span class="badge {html.escape(level)}">{html.escape(level)}</span>'


def _p_value(value: float) -> str:
    return "&lt; 1e-300" if value == 0 else format(value, ".3f" if value >= 0.001 else ".0e")


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None or not np.isfinite(value) else format(value, form)


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _text(text: str) -> str:
    return html.escape(str(text))
