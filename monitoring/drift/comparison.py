"""Compare two files and reach one drift verdict, with its reason in one sentence."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from fraud.data import tables
from fraud.errors import ConfigError, DataError
from fraud.schema import Schema, infer
from fraud.schema.zone import zone_of
from fraud.scoring import scored
from fraud.thresholds.selection import Threshold
from monitoring.drift.partial_day import PartialDay, partial_day
from monitoring.drift.sampling import ALERTS, SCORES, SampledData, read_sampled
from monitoring.drift.variation import Variation, own_variation
from monitoring.drift.verdict import (
    TOO_FEW_ROWS,
    ColumnVerdict,
    DriftLimits,
    corrected,
    judge,
    share_finding,
    shortened,
    worst,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_LEADING = ("score", ALERTS)
_KINDS = ("numeric", "categorical", "boolean")
_NAMED = 3


@dataclass(frozen=True)
class Comparison:
    """The verdict as a JSON document, and the sampled columns behind it, for the page."""

    document: dict[str, Any]
    reference: pd.DataFrame
    current: pd.DataFrame
    kinds: dict[str, str]

    def most_changed(self, columns: int) -> list[str]:
        """The names of at most `columns` columns: scores first, then by size of change."""
        score = self.document["score"]
        scores = [column["column"] for column in score["columns"]] if score else []
        others = sorted(self.document["columns"], key=lambda c: -c["size"])
        return [*scores, *(column["column"] for column in others)][:columns]


def compare(
    reference: str,
    current: str,
    schema: Schema | None = None,
    *,
    threshold: Threshold | None = None,
    sample: int = 50_000,
    seed: int = 7,
    limits: DriftLimits | None = None,
) -> Comparison:
    """Compare a current file with a reference. Both are raw data or scored tables.

    schema: None guesses it from the reference. threshold: turns scores into alert rates. sample: rows to draw from a
    longer file, without replacement. A part of a day is compared with the same hours of the reference. With fewer than
    `limits.min_rows` rows on a side, the verdict is TOO_FEW_ROWS. Raises DataError, SchemaError or ConfigError.
    """
    limits = limits or DriftLimits()
    if sample < limits.min_rows:
        raise ConfigError(f"sample (--sample) is {sample}: take at least {limits.min_rows} rows, e.g. 50000")
    if seed < 0:
        raise ConfigError(f"seed (--seed) is {seed}: give a whole number that is not negative, such as 7")
    guessed = schema is None
    schema = schema or _guess(reference)
    old, new = (
        read_sampled(path, schema, threshold, sample=sample, seed=seed + i)
        for i, path in enumerate((reference, current))
    )
    part = _partial_day(old, new, schema)
    if part is not None:
        old = replace(old, sample=old.sample[part.rows])
    drawn = [old.sample, new.sample]
    kinds = {c.name: c.kind for c in schema.features} | {n: "score" for n in SCORES if n in drawn[0] and n in drawn[1]}
    if ALERTS in drawn[0] and ALERTS in drawn[1]:
        kinds[ALERTS] = "boolean"
    refused = share_finding("refused rows", old.refused, old.total, new.refused, new.total, limits)
    variation = _own_variation(old, new, schema, kinds, limits)
    judged = judge(drawn[0], drawn[1], kinds, limits, variation.columns if variation else None)
    quality = ColumnVerdict("refused rows", "quality", (refused,))
    *columns, quality = corrected([*judged, quality], limits)
    document = _document(old, new, schema, columns, quality, limits, part)
    document["schema"] |= {"guessed": guessed}
    document["own_variation"] = variation and {"block_days": variation.days, "blocks": variation.blocks}
    document["sampling"] = _sampling(old, new, drawn, sample, seed, part)
    return Comparison(document, drawn[0], drawn[1], kinds)


def _partial_day(old: SampledData, new: SampledData, schema: Schema) -> PartialDay | None:
    if schema.timestamp is None or new.window is None or old.window is None:
        return None
    times = old.sample[schema.timestamp.name].to_numpy(dtype="datetime64[us]")
    return partial_day(times, new.window, new.usable, zone_of(schema))


def _own_variation(
    old: SampledData, new: SampledData, schema: Schema, kinds: dict[str, str], limits: DriftLimits
) -> Variation | None:
    """How much the reference's own days differ; None without times on both sides or with too few days."""
    if schema.timestamp is None or old.window is None or new.window is None:
        return None
    days = (new.window[1] - new.window[0]) / pd.Timedelta(days=1)
    return own_variation(old.sample, schema.timestamp.name, kinds, days, limits, zone_of(schema))


def _guess(path: str) -> Schema:
    """Guess the schema of the reference, without limits: a value out of range is a change to find, not an error."""
    frame = tables.read(path)
    mine = (scored.ROW, *scored.ADDED, *SCORES) if scored.is_scored(frame) else SCORES
    frame = frame.drop(columns=[name for name in mine if name in frame.columns])
    if frame.empty:
        raise DataError(f"{path} has only score columns: give the schema (--schema) or a file with its columns")
    schema = infer(frame, "guessed")
    columns = []
    for column in schema.columns:
        if column.kind in _KINDS:
            column = replace(column, nullable=True)
        if column.kind == "numeric":
            column = replace(column, minimum=None, maximum=None, integer=False, transform="none")
        columns.append(replace(column, categories=()) if column.kind == "categorical" else column)
    return replace(schema, columns=tuple(columns), history=(), label_delay_days=0.0)


def _document(
    old: SampledData,
    new: SampledData,
    schema: Schema,
    columns: list[ColumnVerdict],
    quality: ColumnVerdict,
    limits: DriftLimits,
    part: PartialDay | None,
) -> dict[str, Any]:
    ours = (*SCORES, ALERTS)
    scores = [column for column in columns if column.column in ours]
    features = [column for column in columns if column.column not in ours]
    few = _too_few(old, new, limits)
    verdict, reason = _overall(features, scores, quality)
    if few:
        # Refused rows are judged if there are enough rows with them: a day that is nearly all refused is no quiet day.
        is_judged = min(old.total, new.total) >= limits.min_rows and quality.level != "ok"
        verdict = quality.level if is_judged else TOO_FEW_ROWS
        reason = f"{quality.change[:1].upper()}{quality.change[1:]}. {few}" if is_judged else few
    if part is not None:
        reason += f"; {part.text}"
    entities = [_unseen_entities(old, new, column.name) for column in schema.entities]
    unjudged = {"level": TOO_FEW_ROWS, "drifted": False} if few else {}
    warnings = [*old.warnings, *new.warnings]
    if part is not None:
        warnings.append(
            f"{part.text}: it is compared with the same hours of the reference. Compare the whole day later"
        )
    if not scores:
        lacking = [side.path for side in (old, new) if "score" not in side.sample]
        warnings.append(f"score drift was not judged: no score column in {' and '.join(lacking)}")
    if old.models and new.models and old.models != new.models:
        warnings.append(
            f"the files were scored by different models ({', '.join(old.models)}; {', '.join(new.models)}): a change "
            "of scores may come from the model"
        )
    return {
        "format_version": FORMAT_VERSION,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "verdict": verdict,
        "reason": reason,
        "schema": {"name": schema.name, "fingerprint": schema.fingerprint},
        "reference": _facts(old),
        "current": _facts(new) | {"partial_day": part and part.to_dict()},
        "limits": _limits(limits),
        "columns": [_as_json(column) | unjudged for column in features],
        "score": {"level": worst([c.level for c in scores]), "drifted": any(c.drifted for c in scores),
                  "columns": [_as_json(column) | unjudged for column in scores]} | unjudged if scores else None,
        "entities": entities,
        "quality": {
            "refused": {"level": quality.level} | _as_json(quality),
            "told": _quality_lines(old, new, quality, entities, warnings),
        },
        "warnings": warnings,
    }  # fmt: skip


def _too_few(old: SampledData, new: SampledData, limits: DriftLimits) -> str:
    """Why there are too few rows for a verdict; empty if there are enough."""
    for side in (old, new):
        rows = min(side.usable, len(side.sample))
        if rows < limits.min_rows:
            return f"too few rows for a verdict: {side.path} has {rows:,} of {limits.min_rows:,} needed"
    return ""


def _overall(features: list[ColumnVerdict], scores: list[ColumnVerdict], quality: ColumnVerdict) -> tuple[str, str]:
    """The verdict on the whole file, and its reason as a sentence."""
    everything = [*scores, *features, quality]
    level = worst([column.level for column in everything])
    if level == "ok":
        return level, f"no column of {len(features)} changed by more than the limits" + (
            ", nor did the score" if scores else ""
        )
    degree = "strongly" if level == "drift" else "somewhat"
    moved = sorted((c for c in features if c.level == level), key=lambda c: -c.size)
    sentences = []
    if moved:
        named = "; ".join(f"{shortened(c.column)} ({c.change})" for c in moved[:_NAMED])
        more = f"; and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
        lesser = sum(c.level == "warning" for c in features) if level == "drift" else 0
        also = f"; {lesser} changed somewhat" if lesser else ""
        sentences.append(f"{len(moved)} of {len(features)} columns changed {degree}: {named}{more}{also}")
    sentences += [
        f"the {c.column} changed {degree} ({c.change})" for c in scores if c.level == level and c.column in _LEADING
    ]
    sentences += [quality.change] if quality.level == level else []
    return level, ". ".join(
        part[:1].upper() + part[1:] for part in sentences or ["a part of the score changed " + degree]
    )


def _as_json(column: ColumnVerdict) -> dict[str, Any]:
    return {**column.to_dict(), "size": round(column.size, 4)}


def _facts(side: SampledData) -> dict[str, Any]:
    window = (
        {end: f"{time:%F %T}" for end, time in zip(("start", "end"), side.window, strict=True)} if side.window else None
    )
    return {
        "path": side.path,
        "rows": side.total,
        "usable_rows": side.usable,
        "refused_rows": side.refused,
        "models": list(side.models),
        "window": window,
    }


def _sampling(
    old: SampledData,
    new: SampledData,
    drawn: list[pd.DataFrame],
    sample: int,
    seed: int,
    part: PartialDay | None,
) -> dict[str, Any]:
    taken = [len(frame) for frame in drawn]
    if taken == [old.usable, new.usable]:
        stated = "Every usable row was tested."
    else:
        stated = (
            f"Tested on samples without replacement: {taken[0]:,} reference and {taken[1]:,} current rows, seed {seed}."
        )
    if part is not None:
        stated += f" Of the reference: the rows from {part.first} to {part.last}."
    return {"limit": sample, "seed": seed, "reference_rows": taken[0], "current_rows": taken[1], "stated": stated}


def _unseen_entities(old: SampledData, new: SampledData, name: str) -> dict[str, Any]:
    """Shares of current entities and rows that are not in the reference, counted on all rows."""
    known, now = old.entities[name].index, new.entities[name]
    strange = now[~now.index.isin(known)]
    return {
        "column": name,
        "reference_entities": len(known),
        "current_entities": len(now),
        "unseen_entities_share": round(len(strange) / max(len(now), 1), 6),
        "unseen_rows_share": round(int(strange.sum()) / max(int(now.sum()), 1), 6),
    }


def _limits(limits: DriftLimits) -> dict[str, Any]:
    raw = dataclasses.asdict(limits)
    return {k: {"warning": v[0], "drift": v[1]} if isinstance(v, tuple) else v for k, v in raw.items()}


def _quality_lines(
    old: SampledData,
    new: SampledData,
    quality: ColumnVerdict,
    entities: Sequence[Mapping[str, Any]],
    warnings: list[str],
) -> list[str]:
    lines = [f"{quality.findings[0].change} ({old.refused:,} and {new.refused:,}): {quality.level}"]
    for side in (old, new):
        counts = sorted(side.reasons.items(), key=lambda item: -item[1])
        if side.refused_earlier:
            lines.append(
                f"{side.path}: {side.refused_earlier:,} rows were refused when it was scored, see its quarantine"
            )
        lines += [f"{side.path}: {n:,} × {column!r} {reason}" for (column, reason), n in counts[:_NAMED]]
    lines += [
        f"{e['column']}: {e['unseen_entities_share']:.1%} of {e['current_entities']:,} values are not in the reference "
        f"({e['unseen_rows_share']:.1%} of rows)"
        for e in entities
    ]
    return [*lines, *warnings]
