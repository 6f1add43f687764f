"""Two files become one drift verdict: read, check, sample, judge, and say it in one sentence."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import fsspec
import numpy as np
import pandas as pd

from fraud import data, scored
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.schema import Column, Schema, Validated, infer, validate
from fraud.thresholds import Threshold
from monitoring.verdict import ColumnVerdict, Limits, corrected, judge, share_finding, shortened, worst

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
SCORES = ("score", "forest_score", "autoencoder_score", "head_score")
ALERTS = "alert rate"
_LEADING = ("score", ALERTS)
_KINDS = ("numeric", "categorical", "boolean")
_NAMED = 3
_DECISION = "__decision"


@dataclass(frozen=True)
class Side:
    """One of the two files: good rows (canonical), scores (some of `SCORES`), decisions, and what was refused."""

    path: str
    rows: pd.DataFrame
    scores: pd.DataFrame
    decisions: pd.Series | None
    models: tuple[str, ...]
    quarantine: pd.DataFrame
    warnings: tuple[str, ...]
    refused_earlier: int = 0

    @property
    def refused(self) -> int:
        """Rows refused here, and before when the file was scored."""
        return len(self.quarantine) + self.refused_earlier

    @property
    def total(self) -> int:
        """Rows in the file, and those that scoring kept out of it."""
        return len(self.rows) + self.refused


@dataclass(frozen=True)
class Comparison:
    """The verdict as the JSON document, and the sampled columns it was reached on, for the page."""

    found: dict[str, Any]
    reference: pd.DataFrame
    current: pd.DataFrame
    kinds: dict[str, str]


def compare(
    reference: str,
    current: str,
    schema: Schema | None = None,
    *,
    threshold: Threshold | None = None,
    sample: int = 50_000,
    seed: int = 7,
    limits: Limits | None = None,
) -> Comparison:
    """Compare a current file with a reference; both raw data or scored tables.

    schema: guessed from the reference when None. threshold: turns scores into alert rates. sample: rows drawn from a
    longer file, without replacement, by `seed`. Raises DataError, SchemaError or ConfigError.
    """
    limits = limits or Limits()
    if sample < limits.min_rows:
        raise ConfigError(f"sample (--sample) is {sample}: take at least {limits.min_rows} rows, e.g. 50000")
    if seed < 0:
        raise ConfigError(f"seed (--seed) is {seed}: give a whole number that is not negative, such as 7")
    guessed = schema is None
    schema = schema or _guess(reference)
    old, new = (_side(path, schema, threshold) for path in (reference, current))
    drawn = [_draw(side, sample, seed + i) for i, side in enumerate((old, new))]
    kinds = {c.name: c.kind for c in schema.features} | {n: "score" for n in SCORES if n in drawn[0] and n in drawn[1]}
    if ALERTS in drawn[0] and ALERTS in drawn[1]:
        kinds[ALERTS] = "boolean"
    refused = share_finding("refused rows", old.refused, old.total, new.refused, new.total, limits)
    judged = judge(drawn[0], drawn[1], kinds, limits)
    quality = ColumnVerdict("refused rows", "quality", (refused,))
    *columns, quality = corrected([*judged, quality], limits)
    found = _document(old, new, schema, columns, quality, limits)
    found["schema"] |= {"guessed": guessed}
    found["sampling"] = _sampling(old, new, drawn, sample, seed)
    return Comparison(found, drawn[0], drawn[1], kinds)


def _guess(path: str) -> Schema:
    """The schema of the reference, with limits and gaps left open: here they are changes to find, not mistakes."""
    frame = data.read(path)
    mine = (scored.ROW, *scored.ADDED, *SCORES) if scored.is_scored(frame) else SCORES
    frame = frame.drop(columns=[name for name in mine if name in frame.columns])
    if frame.empty:
        raise DataError(f"{path} holds nothing but scores: give the schema (--schema) or a file with its columns")
    schema = infer(frame, "guessed")
    columns = []
    for column in schema.columns:
        if column.kind in _KINDS:
            column = replace(column, nullable=True)
        if column.kind == "numeric":
            column = replace(column, minimum=None, maximum=None, integer=False, transform="none")
        columns.append(replace(column, categories=()) if column.kind == "categorical" else column)
    return replace(schema, columns=tuple(columns), history=(), label_delay_days=0.0)


def _side(path: str, schema: Schema, threshold: Threshold | None) -> Side:
    names = {column.name for column in schema.columns}
    head = next(data.iter_frames(path, rows=1))
    is_scored = scored.is_scored(head)
    held = [name for name in SCORES if name in head.columns and name not in names]
    checked, models = _read_scored(path, schema, held) if is_scored else (_read_raw(path, schema, held), ())
    scores = checked.rows[held]
    decisions = checked.rows.get(_DECISION)
    if threshold is not None and "score" in held:
        decisions = pd.Series(threshold.decide(scores["score"].to_numpy()), index=scores.index)
    rows = checked.rows[[name for name in checked.rows.columns if name in names]]
    earlier = _refused_by_scoring(path) if is_scored else 0
    return Side(path, rows, scores, decisions, models, checked.quarantine, checked.warnings, earlier)


def _refused_by_scoring(path: str) -> int:
    """Rows that batch scoring quarantined, by the manifest beside its output; 0 without one."""
    try:
        with fsspec.open(f"{path}.manifest.json", "rt") as text:
            return int(json.load(text)["rows"]["quarantined"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _read_raw(path: str, schema: Schema, held: Sequence[str]) -> Validated:
    """Read raw data, whose scores are more numbers beside the schema's columns."""
    more = tuple(Column(name=name, kind="numeric", nullable=True) for name in held)
    return data.load(path, replace(schema, columns=schema.columns + more))


def _read_scored(path: str, schema: Schema, held: Sequence[str]) -> tuple[Validated, tuple[str, ...]]:
    """Read what batch scoring wrote, with the decisions as a column of their own."""
    frame = data.read(path)
    try:
        checked = validate(scored.source_columns(frame, schema), schema)
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}") from None
    if not len(checked.rows):
        first = checked.quarantine.iloc[0]
        told = f"row {first['row']}, column {first['column']!r}: {first['value']!r} {first['reason']}"
        raise DataError(f"{path}: none of {len(frame):,} rows fits schema {schema.name!r}; {told}")
    beside = frame[list(held)].assign(**{_DECISION: frame["is_fraud"].astype(bool)})
    rows = checked.rows.join(beside, validate="one_to_one")
    models = tuple(sorted(str(version) for version in frame["model_version"].dropna().unique()))
    return replace(checked, rows=rows), models


def _draw(side: Side, sample: int, seed: int) -> pd.DataFrame:
    """The rows to test on, with scores and decisions beside the schema's columns."""
    frame = pd.concat([side.rows, side.scores], axis=1)
    if side.decisions is not None:
        frame[ALERTS] = side.decisions.astype(np.float64)
    if len(frame) <= sample:
        return frame
    chosen = np.sort(np.random.default_rng(seed).choice(len(frame), sample, replace=False))
    return frame.iloc[chosen]


def _document(
    old: Side, new: Side, schema: Schema, columns: list[ColumnVerdict], quality: ColumnVerdict, limits: Limits
) -> dict[str, Any]:
    ours = (*SCORES, ALERTS)
    scores = [column for column in columns if column.column in ours]
    features = [column for column in columns if column.column not in ours]
    verdict, reason = _overall(old, new, features, scores, quality, limits)
    entities = [_unseen_entities(old, new, column.name) for column in schema.entities]
    warnings = [*old.warnings, *new.warnings]
    if not scores:
        lacking = [side.path for side in (old, new) if "score" not in side.scores]
        warnings.append(f"score drift was not judged: no score column in {' and '.join(lacking)}")
    if old.models and new.models and old.models != new.models:
        warnings.append(
            f"the files were scored by different models ({', '.join(old.models)}; {', '.join(new.models)}): a change "
            "of scores may come from the model"
        )
    timestamp = schema.timestamp.name if schema.timestamp else None
    return {
        "format_version": FORMAT_VERSION,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "verdict": verdict,
        "reason": reason,
        "schema": {"name": schema.name, "fingerprint": schema.fingerprint},
        "reference": _facts(old, timestamp),
        "current": _facts(new, timestamp),
        "limits": _limits(limits),
        "columns": [_told(column) for column in features],
        "score": {"level": worst([c.level for c in scores]), "drifted": any(c.drifted for c in scores),
                  "columns": [_told(column) for column in scores]} if scores else None,
        "entities": entities,
        "quality": {
            "refused": {"level": quality.level} | _told(quality),
            "told": _quality_lines(old, new, quality, entities, warnings),
        },
        "warnings": warnings,
    }  # fmt: skip


def _overall(
    old: Side,
    new: Side,
    features: list[ColumnVerdict],
    scores: list[ColumnVerdict],
    quality: ColumnVerdict,
    limits: Limits,
) -> tuple[str, str]:
    """The verdict on the data set and the sentence that gives the reason."""
    everything = [*scores, *features, quality]
    level = worst([column.level for column in everything])
    few = [side for side in (old, new) if len(side.rows) < limits.min_rows]
    if level == "ok" and few:
        return "warning", f"too few rows to judge: {few[0].path} has {len(few[0].rows)}, {limits.min_rows} are needed"
    if level == "ok":
        return level, f"no column of {len(features)} changed by more than the limits" + (
            ", nor did the score" if scores else ""
        )
    degree = "strongly" if level == "drift" else "somewhat"
    moved = sorted((c for c in features if c.level == level), key=lambda c: -c.size)
    told = []
    if moved:
        named = "; ".join(f"{shortened(c.column)} ({c.change})" for c in moved[:_NAMED])
        more = f"; and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
        lesser = sum(c.level == "warning" for c in features) if level == "drift" else 0
        also = f"; {lesser} changed somewhat" if lesser else ""
        told.append(f"{len(moved)} of {len(features)} columns changed {degree}: {named}{more}{also}")
    told += [
        f"the {c.column} changed {degree} ({c.change})" for c in scores if c.level == level and c.column in _LEADING
    ]
    told += [quality.change] if quality.level == level else []
    return level, ". ".join(part[:1].upper() + part[1:] for part in told or ["a part of the score changed " + degree])


def _told(column: ColumnVerdict) -> dict[str, Any]:
    return {**column.to_dict(), "size": round(column.size, 4)}


def _facts(side: Side, timestamp: str | None) -> dict[str, Any]:
    times = side.rows[timestamp].dropna() if timestamp else pd.Series(dtype="datetime64[us]")
    window = {"start": f"{times.min():%F %T}", "end": f"{times.max():%F %T}"} if len(times) else None
    return {
        "path": side.path,
        "rows": side.total,
        "usable_rows": len(side.rows),
        "refused_rows": side.refused,
        "models": list(side.models),
        "window": window,
    }


def _sampling(old: Side, new: Side, drawn: list[pd.DataFrame], sample: int, seed: int) -> dict[str, Any]:
    taken = [len(frame) for frame in drawn]
    if taken == [len(old.rows), len(new.rows)]:
        stated = "Every usable row was tested."
    else:
        stated = (
            f"Tested on samples without replacement: {taken[0]:,} reference and {taken[1]:,} current rows, seed {seed}."
        )
    return {"limit": sample, "seed": seed, "reference_rows": taken[0], "current_rows": taken[1], "stated": stated}


def _unseen_entities(old: Side, new: Side, name: str) -> dict[str, Any]:
    """How many of the current rows and entities the reference did not have, counted on all rows."""
    known = set(old.rows[name].dropna().unique())
    now = new.rows[name].dropna()
    strange = ~now.isin(known)
    return {
        "column": name,
        "reference_entities": len(known),
        "current_entities": int(now.nunique()),
        "unseen_entities_share": round(now[strange].nunique() / max(now.nunique(), 1), 6),
        "unseen_rows_share": round(float(strange.mean()) if len(now) else 0.0, 6),
    }


def _limits(limits: Limits) -> dict[str, Any]:
    raw = dataclasses.asdict(limits)
    return {k: {"warning": v[0], "drift": v[1]} if isinstance(v, tuple) else v for k, v in raw.items()}


def _quality_lines(
    old: Side, new: Side, quality: ColumnVerdict, entities: Sequence[Mapping[str, Any]], warnings: list[str]
) -> list[str]:
    lines = [f"{quality.findings[0].change} ({old.refused:,} and {new.refused:,}): {quality.level}"]
    for side in (old, new):
        counts = side.quarantine.groupby(["column", "reason"], sort=False).size().sort_values(ascending=False)
        if side.refused_earlier:
            lines.append(
                f"{side.path}: {side.refused_earlier:,} rows were refused when it was scored, see its quarantine"
            )
        lines += [f"{side.path}: {n:,} × {column!r} {reason}" for (column, reason), n in list(counts.items())[:_NAMED]]
    lines += [
        f"{e['column']}: {e['unseen_entities_share']:.1%} of {e['current_entities']:,} values are not in the reference "
        f"({e['unseen_rows_share']:.1%} of rows)"
        for e in entities
    ]
    return [*lines, *warnings]
