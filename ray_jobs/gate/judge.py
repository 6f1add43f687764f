"""Judge a challenger against the champion on rows that neither was trained on; promote or refuse it; write a record."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fraud.data import tables
from fraud.errors import BundleError, ConfigError, RegistryError, SchemaError
from fraud.judging import evaluation, gate
from fraud.judging.evaluation import Plan, Scored
from fraud.judging.gate import Check
from fraud.judging.gate_limits import GateLimits
from fraud.judging.page import render
from fraud.registry import promotion, versions
from fraud.registry.changes import PROMOTED, REFUSED, Change
from fraud.registry.versions import CHALLENGER, RegistryState, TaggedVersion
from fraud.schema.validation import Validated
from fraud.scoring import latency
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from ray_jobs.evaluate import rows as evaluate_rows
from ray_jobs.evaluate.rows import Model, Window
from ray_jobs.gate import history_ready

logger = logging.getLogger(__name__)

FORMAT = 1
TAG = "gate"  # tag of a model version: its last gate decision
_ROWS_TIMED = 300


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """What to judge; paths are absolute. plan: settings of `fraud.judging.evaluation.Plan`; None means the default.

    golden: rows with final labels. override: promote despite failed checks.
    """

    reference: str
    data: str
    by: str
    out: str | None = None
    reason: str = ""
    start: str | None = None
    end: str | None = None
    golden: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    limits: GateLimits = field(default_factory=GateLimits)
    allow_schema_change: bool = False
    override: bool = False


def decide(request: GateRequest, settings: Settings) -> dict[str, Any]:
    """Judge, promote or refuse, write the record to `request.out` (JSON, a page beside it) and MLflow, and return it.

    If the version is already champion, nothing is judged and the record of its promotion stays. Raises FraudError for
    a mistake in the command, the data or the registry; the champion does not change.
    """
    if request.out is not None and not request.out.endswith(".json"):
        raise ConfigError(f"--out {request.out!r} must end in .json")
    if request.override and not request.reason:
        raise ConfigError("--override needs --reason TEXT and --by NAME: the record says why the gate was overridden")
    standing = versions.registry_state(settings)
    target = _target(request.reference, standing, settings)
    out = request.out or settings.locate(f"gate/{settings.model_name}/version-{target.number}.json")
    if standing.champion is not None and standing.champion.number == target.number:
        return _already_champion(request, target, out, settings)
    if standing.champion is not None and not request.override:
        schema = evaluate_rows.open_model(str(target.number), settings).schema
        history_ready.check(settings, target.number, schema, standing.champion)
    document = judge(request, target, standing.champion, settings)
    if document["decision"] == PROMOTED:
        move = Change(
            action=PROMOTED, time=document["time"], by=request.by, reason=_reason(document), version=target.number
        )
        try:
            versions.move_champion(settings, move, expected=standing.champion.number if standing.champion else None)
        except RegistryError:
            if versions.champion_version(settings) != target.number:
                raise
            return _already_champion(request, target, out, settings)  # another gate promoted the same version first
    document["record"] = out
    _save(document, out, target, settings)
    return document


def judge(
    request: GateRequest, target: TaggedVersion, before: TaggedVersion | None, settings: Settings
) -> dict[str, Any]:
    """The record of one judgement: decision, checks, figures. Changes nothing."""
    challenger = evaluate_rows.open_model(str(target.number), settings)
    champion = None if before is None else evaluate_rows.open_model(str(before.number), settings)
    models = [challenger] if champion is None else [challenger, champion]
    fingerprint = tables.fingerprint(request.data)
    checked = evaluate_rows.read(request.data, challenger.schema)
    plan = evaluate_rows.plan_of(request.plan, champion or challenger)
    window = evaluate_rows.unseen(checked.rows, models, fingerprint, request.start, request.end)
    checks: list[Check] = []
    compared: dict[str, Any] = {}
    scored: tuple[Scored, Scored | None] | None = None
    if champion is not None:
        checks.append(gate.schema(challenger.schema, champion.schema, is_allowed=request.allow_schema_change))
    if isinstance(window, str):
        checks.append(gate.evidence(None, request.limits, window))
    else:
        try:
            scored = _score(request.data, checked, window, challenger, target, champion, before)
        except SchemaError as error:
            checks.append(gate.evidence(None, request.limits, f"the champion cannot score these data ({error})"))
    if scored is not None:
        comparison_checks, compared = _checks(request, scored, challenger, champion, plan, fingerprint)
        checks += comparison_checks
        if request.golden is not None and champion is not None:
            golden = evaluate_rows.read(request.golden, challenger.schema)
            everything = Window(np.arange(len(golden.rows)), None, None, "golden rows")
            mine, other = _score(request.golden, golden, everything, challenger, target, champion, before)
            assert other is not None
            checks.append(gate.golden(mine.labelled, other.labelled, plan, request.limits))
        rows = checked.rows.iloc[window.positions] if isinstance(window, Window) else checked.rows
        checks.append(gate.latency(_p99(models, rows), request.limits))
    failed = [check.name for check in gate.failed(checks)]
    overridden = request.override and bool(failed)
    document: dict[str, Any] = {
        "format": FORMAT,
        "decision": PROMOTED if not failed or overridden else REFUSED,
        "already_champion": False,
        "time": promotion.now(),
        "by": request.by,
        "reason": request.reason,
        "override": {"by": request.by, "reason": request.reason, "failed": failed} if overridden else None,
        "failed": failed,
        "checks": [dataclasses.asdict(check) for check in checks],
        "model": settings.model_name,
        "challenger": _about(challenger),
        "champion": _about(champion) if champion else None,
        "data": {"path": request.data, "fingerprint": fingerprint, "rows": len(checked.rows)},
        "window": None if isinstance(window, str) else {"start": window.start, "end": window.end,
                                                        "rows": len(window.positions), "source": window.source},
        "comparison": compared,
        "limits": dataclasses.asdict(request.limits),
        "plan": dataclasses.asdict(plan),
    }  # fmt: skip
    return dict(evaluation.plain(document))


def _target(reference: str, standing: RegistryState, settings: Settings) -> TaggedVersion:
    """The version to judge. Without a challenger: the champion, because a first version becomes it when registered."""
    if reference == CHALLENGER and standing.challenger is None and standing.champion is not None:
        return standing.champion
    return versions.look_up(reference, settings)


def _score(
    path: str, checked: Validated, window: Window, challenger: Model, target: TaggedVersion,
    champion: Model | None, before: TaggedVersion | None,
) -> tuple[Scored, Scored | None]:  # fmt: skip
    """Both models' scores of the rows that both schemas accept, each with its live threshold."""
    schema, rows = challenger.schema, checked.rows
    card, amount = evaluate_rows.columns_of(challenger, None, None)
    scores = _scores_of(checked, window, challenger)
    labels = evaluate_rows.labels_of(rows, schema)[window.positions]
    frame = rows.iloc[window.positions]
    ours = Scored(schema, frame, scores, labels, _threshold(challenger, target), amount, card)
    if champion is None or before is None:
        return ours, None
    same = champion.schema.fingerprint == schema.fingerprint
    theirs = checked if same else evaluate_rows.read(path, champion.schema)
    positions = theirs.rows.index.get_indexer(frame.index)
    shared = positions >= 0
    if not shared.any():
        raise SchemaError(f"its schema {champion.schema.name!r} refuses every judged row")
    champion_window = Window(positions[shared], window.start, window.end, window.source)
    scores = _scores_of(theirs, champion_window, champion)
    ours = ours.at(shared)
    return ours, dataclasses.replace(ours, scores=scores, threshold=_threshold(champion, before))


def _scores_of(checked: Validated, window: Window, model: Model) -> dict[str, np.ndarray]:
    scores, notes = evaluate_rows.score(checked.rows, window, model)
    for note in notes:
        logger.info("%s", note)
    if evaluate_rows.JOINED not in scores:
        raise BundleError(f"{model.name} gives NaN scores for some of these rows: train it again")
    return scores


def _checks(
    request: GateRequest, scored: tuple[Scored, Scored | None], challenger: Model, champion: Model | None,
    plan: Plan, fingerprint: str,
) -> tuple[list[Check], dict[str, Any]]:  # fmt: skip
    (ours, theirs), limits = scored, request.limits
    checks, auc = [gate.evidence(ours, limits)], None
    compared: dict[str, Any] = {}
    if not ours.unrankable and checks[0].passed:
        if theirs is None:
            checks.append(gate.better_than_chance(ours, plan))
        else:
            more, compared = gate.better(ours, theirs, plan, limits)
            checks += [*more, gate.segments(ours, theirs, plan, limits)]
            auc = compared["figures"]["roc_auc"]["theirs"]
    checks.append(gate.calibration(ours, theirs, plan, limits, challenger.bundle.detector.threshold.achieved))
    judged = {"rows": int((ours.labels >= 0).sum()), "frauds": int((ours.labels == 1).sum())}
    training_counts, champion_counts = (_training_counts(model) if model else None for model in (challenger, champion))
    sources = read_sources(request.data, fingerprint)
    checks.append(gate.labels(judged, training_counts, champion_counts, auc, sources, limits))
    return checks, compared


def _training_counts(model: Model) -> dict[str, int] | None:
    """Rows and frauds that a model was trained on; None if it had no labels."""
    windows = [window for name, window in model.windows.items() if name in ("train", "validation")]
    if not windows or any(window.get("frauds") is None for window in windows):
        return None
    return {key: sum(int(window[key]) for window in windows) for key in ("rows", "frauds")}


def read_sources(path: str, fingerprint: str) -> dict[str, Any] | None:
    """The label sources that `labels join` recorded beside `path`; None without a record, or if it is of other data."""
    beside = Path(f"{path.removesuffix('.parquet')}.labels.json")
    try:
        content = json.loads(beside.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("output_fingerprint") != fingerprint:
        logger.warning("%s does not describe %s: its label sources are ignored", beside, path)
        return None
    return dict(content.get("sources") or {})


def _p99(models: list[Model], rows: pd.DataFrame) -> dict[str, float]:
    """p99 latency of single rows in ms by "challenger" and "champion", on up to 300 rows that both accept."""
    schemas = [model.schema for model in models]
    names = [c.name for c in schemas[0].inputs if c.name in rows]
    spread = np.unique(np.linspace(0, len(rows) - 1, min(_ROWS_TIMED, len(rows))).astype(int))
    frame = rows.iloc[spread][names]
    records = [
        {name: None if pd.isna(value) else value for name, value in record.items()}
        for record in frame.to_dict(orient="records")
    ]
    engines = {
        name: Engine(model.bundle.detector) for name, model in zip(("challenger", "champion"), models, strict=False)
    }
    return latency.p99_ms(engines, records)


def _threshold(model: Model, version: TaggedVersion) -> float:
    try:
        live = promotion.live_threshold(version.tags)
    except ConfigError as error:
        logger.warning("%s", error)
        live = None
    return live.value if live else model.bundle.detector.threshold.value


def _about(model: Model) -> dict[str, Any]:
    manifest = model.bundle.manifest
    metrics = (manifest.get("metrics") or {}).get("joined") or {}
    return {
        "version": model.number,
        "sha256": model.bundle.sha256,
        "trained": manifest.get("created"),
        "trained_on": manifest.get("data_fingerprint"),
        "schema": model.schema.name,
        "windows": manifest.get("windows") or [],
        "average_precision_when_trained": metrics.get("average_precision"),
    }


def _reason(document: Mapping[str, Any]) -> str:
    """The reason that the history shows for the move."""
    if document["override"]:
        return f"override: {document['reason']} (failed: {', '.join(document['failed'])})"
    comparison = next((check["text"] for check in document["checks"] if check["name"].startswith("better")), "")
    return f"gate: {comparison}" + (f"; {document['reason']}" if document["reason"] else "")


def _refused(document: Mapping[str, Any]) -> Change:
    """The entry of a refusal in the history of the model."""
    champion = document["champion"] and document["champion"]["version"]
    reason = f"failed: {', '.join(document['failed'])}" + (f"; {document['reason']}" if document["reason"] else "")
    return Change(action=REFUSED, time=document["time"], by=document["by"], reason=reason,
                  version=document["challenger"]["version"], before=champion, after=champion)  # fmt: skip


def refusal(version: TaggedVersion) -> str | None:
    """When and why the gate refused a version, if its last decision on it is a refusal."""
    try:
        decided = json.loads(version.tags.get(TAG) or "{}")
        if decided.get("decision") != REFUSED:
            return None
        return f"refused by the gate {decided['time']} (failed: {', '.join(decided['failed'])})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("tag %r of version %d is not a decision of the gate (%s)", TAG, version.number, error)
        return "refused by the gate, perhaps: the record in MLflow cannot be read"


def _already_champion(request: GateRequest, target: TaggedVersion, out: str, settings: Settings) -> dict[str, Any]:
    document = {
        "format": FORMAT, "decision": PROMOTED, "already_champion": True, "time": promotion.now(), "by": request.by,
        "reason": request.reason, "override": None, "failed": [], "checks": [], "model": settings.model_name,
        "challenger": {"version": target.number}, "record": out,
    }  # fmt: skip
    if not _is_record_of(out, target.number, settings.model_name):
        tables.write_text(json.dumps(document, indent=2) + "\n", out)
    return document


def _is_record_of(path: str, number: int, model_name: str) -> bool:
    try:
        record = json.loads(Path(path).read_text())
        is_same = record["challenger"]["version"] == number and record.get("model", model_name) == model_name
        return bool(record["decision"] == PROMOTED and is_same)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _save(document: Mapping[str, Any], out: str, target: TaggedVersion, settings: Settings) -> None:
    """Write JSON and page, and log both to the version's MLflow run. Logs a warning when MLflow does not answer."""
    from fraud.registry import runs

    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    page = render("ray_jobs", "gate.html", record=document)
    tables.write_text(text, out)
    tables.write_text(page, f"{out.removesuffix('.json')}.html")
    name = f"gate/{document['time'].replace(':', '').replace('+0000', 'Z')}"
    tag = {"decision": document["decision"], "time": document["time"], "by": document["by"],
            "failed": document["failed"], "override": bool(document["override"])}  # fmt: skip
    try:
        run = runs.Run(settings, target.run_id)
        run.set_tags({f"gate_{key}": document[key] for key in ("decision", "by", "time", "failed")})
        run.set_tags({"gate_data": document["data"]["fingerprint"]})
        run.log_metrics(_flat(document))
        run.log_text(text, f"{name}.json")
        run.log_text(page, f"{name}.html")
        versions.set_tag(settings, TAG, json.dumps(tag), version=target.number)
        if document["decision"] == REFUSED:
            versions.record(settings, _refused(document))
    except RegistryError as error:
        logger.warning("%s; the record is complete, but MLflow has no copy", error)


def _flat(document: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, one in (document["comparison"].get("figures") or {}).items():
        flat[f"gate_{name}_difference"] = one["difference"]
        if one["interval"]:
            flat |= {
                f"gate_{name}_difference_low": one["interval"][0],
                f"gate_{name}_difference_high": one["interval"][1],
            }
    return {key: value for key, value in flat.items() if value is not None}
