"""Judge a model on labelled rows and write an HTML page and the same figures as JSON."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.session import connected, terminable
from fraud.cli import add_force, examples, next_step
from fraud.data import tables
from fraud.errors import ConfigError, FraudError, RegistryError
from fraud.judging import conclusions, evaluation, paired, slices
from fraud.judging.evaluation import Plan, Scored
from fraud.registry.versions import CHALLENGER, CHAMPION
from fraud.schema.validation import Validated
from fraud.schema.zone import zone_of
from fraud.settings import Settings, turn_telemetry_off
from fraud.training.config import TrainConfig, from_mapping
from ray_jobs.evaluate import other_labels, overlap
from ray_jobs.evaluate import rows as evaluate_rows
from ray_jobs.evaluate.overlap import Overlap
from ray_jobs.evaluate.rows import Model, Window

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to judge; paths are absolute. plan: settings of `fraud.judging.evaluation.Plan`; None means the default.

    force: replace files that are no evaluations.
    """

    data: str
    out: str
    model: str = "champion"
    against: str | None = None
    start: str | None = None
    end: str | None = None
    card: str | None = None
    amount: str | None = None
    plan: Mapping[str, Any]
    ablation: bool = False
    force: bool = False
    include_training_rows: bool = False
    log_to_mlflow: bool = True


def evaluate(request: EvaluationRequest, settings: Settings) -> dict[str, Any]:
    """Judge, write the page to `request.out` and the JSON beside it, and return the JSON document.

    Raises ConfigError, DataError, SchemaError, BundleError, RegistryError; writes nothing in that case.
    """
    from ray_jobs.evaluate import page as evaluate_page

    began = time.monotonic()
    if not request.out.endswith(".html"):
        raise ConfigError(f"--out {request.out!r} must end in .html")
    tables.check_out(request.out, tables.marked("<title>Evaluation of "), force=request.force)
    tables.check_out(json_path(request.out), tables.marked('"format"', '"verdict"', '"headline"'), force=request.force)
    judged = _judge(request, settings)
    model, plan = judged.model, judged.plan
    sections, rival, overlaps = _sections(judged)
    warnings, doubts = ([text for one in overlaps for text in getattr(one, name)] for name in ("warnings", "doubts"))
    threshold = model.bundle.detector.threshold
    document = evaluation.plain(
        {
            "format": FORMAT,
            "verdict": conclusions.conclude(sections, plan, warnings, threshold.achieved, doubts),
            "model": _about(model),
            "data": {"path": request.data, "fingerprint": judged.fingerprint},
            **sections,
            "notes": judged.notes,
            "settings": {**asdict(plan), "card": judged.scored.card, "amount": judged.scored.amount},
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
        }
    )
    page = evaluate_page.page(document, judged.scored, rival, plan)
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    tables.write_text(page, request.out)
    tables.write_text(text, json_path(request.out))
    if request.log_to_mlflow and model.number is not None:
        _log(document, page, text, model.number, settings)
    return dict(document)


@dataclass(frozen=True, eq=False)
class _Judged:
    """The scored window. checked: all rows of the data; fingerprint: of the data; notes: shown on the page.

    overlap: with the model's training rows.
    """

    request: EvaluationRequest
    settings: Settings
    model: Model
    plan: Plan
    checked: Validated
    fingerprint: str
    window: Window
    scored: Scored
    notes: list[str]
    overlap: Overlap


def _judge(request: EvaluationRequest, settings: Settings) -> _Judged:
    model = evaluate_rows.open_model(request.model, settings)
    schema = model.schema
    plan = evaluate_rows.plan_of(request.plan, model)
    card, amount = evaluate_rows.columns_of(model, request.card, request.amount)
    fingerprint = tables.fingerprint(request.data)
    checked = evaluate_rows.read(request.data, schema)
    rows = checked.rows
    logger.info("%s: %s rows read", request.data, f"{len(rows):,}")
    window = evaluate_rows.choose_window(rows, model, fingerprint, request.start, request.end)
    shared = overlap.find(rows, window, model, fingerprint, leave_out=not request.include_training_rows)
    window = shared.window
    shared.doubts += other_labels.compare(rows.iloc[window.positions], schema, request.data, settings)
    scores, notes = evaluate_rows.score(rows, window, model)
    labels = evaluate_rows.labels_of(rows, schema)
    known = _known_compromised(rows, window, model, card, labels)
    threshold = model.bundle.detector.threshold
    scored = Scored(
        schema, rows.iloc[window.positions], scores, labels[window.positions], threshold.value, amount, card, known
    )
    logger.info("%s rows scored (%s to %s)", f"{len(scored.labels):,}", window.start, window.end)
    return _Judged(request, settings, model, plan, checked, fingerprint, window, scored, notes, shared)


def _sections(judged: _Judged) -> tuple[dict[str, Any], Scored | None, list[Overlap]]:
    """The page's sections, the other model's scores (None without --against), and both models' training rows."""
    request, model, plan, scored = judged.request, judged.model, judged.plan, judged.scored
    rows = judged.checked.rows
    overlaps = [judged.overlap]
    sections: dict[str, Any] = {
        "rows": {
            **_counts(scored, judged.window, len(rows), len(judged.checked.quarantine)),
            "trained_on_left_out": judged.overlap.left_out,
        },
        "ranking": evaluation.ranking(scored, plan),
        "card_precision": evaluation.daily_precision(scored, plan),
        "cost": evaluation.cost(scored, plan),
        "rarity": slices.rarity(scored),
        "reliability": slices.reliability(scored),
        "stability": slices.stability(scored, plan),
        "segments": slices.segments(scored, plan),
    }
    logger.info("figures computed")
    rival: Scored | None = None
    sections["comparison"] = {
        "missing": "no other model to compare with: add --against champion, challenger or a version"
    }
    if request.against is not None:
        sections["comparison"], rival, others = _compare(judged, request.against)
        overlaps += others
    sections["ablation"] = {"missing": "not computed: --ablation refits the model without each feature group"}
    if request.ablation:
        sections["ablation"] = _ablation(rows, model, plan, scored.card, judged.fingerprint)
    return sections, rival, overlaps


def json_path(out: str) -> str:
    """The JSON's path, beside the page."""
    return f"{out.removesuffix('.html')}.json"


def _known_compromised(
    rows: Any, window: Window, model: Model, card: str | None, labels: np.ndarray
) -> np.ndarray | None:
    """bool (n_window,): the card was known as compromised before the row's day. None without cards or times."""
    times = evaluate_rows.times_of(rows, model.schema)
    if card is None or times is None:
        return None
    train = model.windows.get("train")
    zone, since = zone_of(model.schema), None
    if train and not str(train["start"]).startswith("row "):
        since = zone.day_of(np.array([str(train["start"])], dtype="datetime64[us]"))[0]
    days = zone.day_of(times)
    if since is not None and days[window.positions].min() < since:
        since = None  # the window begins before the training: count every earlier fraud
    split = (model.bundle.manifest.get("config") or {}).get("split") or {}
    delay = max(model.schema.label_delay_days, float(split.get("delay_days") or 0.0))
    known = evaluation.known_compromised(days, rows[card].to_numpy(dtype=object), labels, delay, since)
    return known[window.positions]


def _counts(scored: Scored, window: Window, read: int, quarantined: int) -> dict[str, Any]:
    alerts = int((scored.main >= scored.threshold).sum())
    n = len(scored.labels)
    return {
        "read": read,
        "quarantined": quarantined,
        "in_window": n,
        "labelled": int((scored.labels >= 0).sum()),
        "unlabelled": int((scored.labels < 0).sum()),
        "frauds": int((scored.labels == 1).sum()),
        "alerts": alerts,
        "alert_rate": alerts / n,
        "days": scored.n_days,
        "start": window.start,
        "end": window.end,
        "window": window.source,
    }


def _compare(judged: _Judged, against: str) -> tuple[dict[str, Any], Scored | None, list[Overlap]]:
    """The comparison section, the other model's scores of the same rows, and which of them it was trained on."""
    request, model, scored, window = judged.request, judged.model, judged.scored, judged.window
    other = evaluate_rows.open_model(against, judged.settings)
    names = (_display_name(request.model, model), _display_name(against, other))
    if other.bundle.sha256 == model.bundle.sha256:
        return {"missing": f"{names[0]} and {names[1]} are the same bundle", "names": list(names)}, None, []
    is_same_schema = other.schema.fingerprint == model.schema.fingerprint
    checked = judged.checked if is_same_schema else evaluate_rows.read(request.data, other.schema)
    positions = checked.rows.index.get_indexer(scored.rows.index)
    if (positions < 0).all():
        raise ConfigError(f"--against {against}: its schema {other.schema.name!r} refuses every judged row")
    shared = positions >= 0
    other_window = Window(positions[shared], window.start, window.end, window.source)
    scores, _ = evaluate_rows.score(checked.rows, other_window, other)
    ours = scored.at(shared)
    theirs = Scored(
        ours.schema, ours.rows, scores, ours.labels, other.bundle.detector.threshold.value, ours.amount, ours.card
    )
    comparison = paired.compare(ours, theirs, judged.plan, names)
    comparison |= {"model": _about(other), "rows_only_one_takes": int((~shared).sum())}
    return (
        comparison,
        theirs if shared.all() else None,
        [overlap.find(checked.rows, other_window, other, judged.fingerprint, leave_out=False)],
    )


def _ablation(rows: Any, model: Model, plan: Plan, card: str | None, fingerprint: str) -> dict[str, Any]:
    from ray_jobs.evaluate.ablation import ablate

    raw = model.bundle.manifest.get("config")
    if not raw:
        return {"missing": f"the manifest of {model.name} has no training configuration: train it with ray_jobs.train"}
    config = from_mapping(TrainConfig, raw, where=f"{model.name}, manifest: config")
    with connected(), terminable():
        try:
            ablation = ablate(rows, model.schema, config, plan, card)
        except FraudError as error:
            return {"missing": f"the model cannot be retrained on these data: {error}"}
    same = fingerprint == model.bundle.manifest.get("data_fingerprint")
    return {**ablation, "same_data": same}


def _display_name(reference: str, model: Model) -> str:
    return model.name if model.number is None or reference.isdecimal() else f"{reference} ({model.name})"


def _about(model: Model) -> dict[str, Any]:
    detector, manifest = model.bundle.detector, model.bundle.manifest
    return {
        "name": model.name,
        "version": model.number,
        "sha256": model.bundle.sha256,
        "trained": manifest.get("created"),
        "schema": model.schema.name,
        "threshold": {"value": detector.threshold.value, "policy": detector.threshold.policy},
        "windows": manifest.get("windows") or [],
    }


def _log(document: Mapping[str, Any], page: str, text: str, number: int, settings: Settings) -> None:
    """Log page, JSON and figures to the version's MLflow run. Logs a warning when MLflow does not answer."""
    from fraud.registry import runs, versions

    try:
        run = runs.Run(settings, versions.resolve(number, settings).run_id)
        run.log_metrics(flat_metrics(document))
        run.log_text(page, "evaluation/evaluation.html")
        run.log_text(text, "evaluation/evaluation.json")
    except RegistryError as error:
        logger.warning("%s; the page is complete, but MLflow has no copy", error)


def flat_metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """MLflow metrics of the first score and the threshold: evaluation_average_precision, ..._low, ..._high."""
    ranking = document["ranking"]
    if "missing" in ranking:
        return {"evaluation_alert_rate": document["rows"]["alert_rate"]}
    flat: dict[str, float] = {}
    first = next(iter(ranking["scores"].values()))
    for prefix, figures in (("", first), ("threshold_", ranking["points"][0]["figures"])):
        for name, figure in figures.items():
            if figure["value"] is not None:
                flat[f"evaluation_{prefix}{name}"] = figure["value"]
            if figure["interval"]:
                low, high = figure["interval"]
                flat |= {f"evaluation_{prefix}{name}_low": low, f"evaluation_{prefix}{name}_high": high}
    return flat


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.evaluate",
        description="Judge a model on labelled rows. Writes an HTML page and the same figures as JSON: recall at the "
        "threshold and within an alert budget, in frauds and in money, with bootstrap intervals; cost, calibration, "
        "stability over time and segments; a comparison with another model on the same rows; and the worth of each "
        "feature group. Earlier rows of the data feed the entities' history.",
        **examples(
            "python -m ray_jobs.evaluate --data data/transactions.csv --out evaluation/evaluation.html",
            "python -m ray_jobs.evaluate --data cards.parquet --start 2026-01-01 --model challenger --against champion",
            "python -m ray_jobs.evaluate --data cards.parquet --model artifacts/bundle --ablation --segment COUNTRY",
        ),
    )
    parser.add_argument("--data", required=True, help="CSV or Parquet with labels: a file, folder, glob or URL")
    parser.add_argument(
        "--out", default="evaluation/evaluation.html", help="page to write, JSON beside it (default: %(default)s)"
    )
    parser.add_argument("--model", default="champion", help="alias, version or bundle folder (default: %(default)s)")
    parser.add_argument("--against", metavar="MODEL", help="another model, to compare on the same rows")
    parser.add_argument(
        "--start", metavar="TIME", help="judge rows from this instant (default: the model's test window)"
    )
    parser.add_argument("--end", metavar="TIME", help="judge rows before this instant")
    parser.add_argument("--card", metavar="COLUMN", help="entity that identifies a card (default: the schema's first)")
    parser.add_argument("--amount", metavar="COLUMN", help="amount at stake (default: the training's, else by name)")
    parser.add_argument("--k", type=int, help="cards reviewed per day, for card precision@k (default: 100)")
    parser.add_argument("--budget", type=float, help="share of rows alerted on (default: the training's)")
    parser.add_argument("--alerts-per-day", type=int, help="alerts that analysts can review per day (default: 100)")
    parser.add_argument("--alert-cost", type=float, help="cost of an alert in currency units (default: the training's)")
    parser.add_argument("--fraud-cost", type=float, help="cost of a missed fraud without an amount")
    parser.add_argument(
        "--segment", action="append", default=[], metavar="COLUMN", help="slice by this column; repeatable"
    )
    parser.add_argument("--ablation", action="store_true", help="refit without each feature group, in Ray tasks")
    parser.add_argument("--include-training-rows", action="store_true", help="also judge rows that the model was "
                        "trained on; without it they are left out")  # fmt: skip
    parser.add_argument("--resamples", type=int, help="bootstrap resamples (default: 200)")
    parser.add_argument("--seed", type=int, help="seed of the bootstrap (default: 7)")
    parser.add_argument(
        "--mlflow", action=argparse.BooleanOptionalAction, default=True, help="log to the version's run (default: yes)"
    )
    add_force(parser)
    return parser


def next_after(model: str, data: str) -> str:
    """The next command after judging `model`: an alias, version or bundle folder, as typed."""
    if model == CHAMPION:
        return next_step("serve deploy serve_app/config.yaml")
    if model == CHALLENGER or model.isdecimal():
        return next_step("python -m ray_jobs.promote", model, "--gate", "--data", data)
    return next_step("python -m ray_jobs.score", "--data", data, "--model", model, "--out", "scored.parquet")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 0."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    plan_flags = ("k", "budget", "alerts_per_day", "alert_cost", "fraud_cost", "resamples", "seed")
    request = EvaluationRequest(
        data=settings.locate(arguments.data), out=settings.locate(arguments.out),
        model=arguments.model, against=arguments.against,
        start=arguments.start, end=arguments.end, card=arguments.card, amount=arguments.amount,
        plan={name: getattr(arguments, name) for name in plan_flags} | {"segments": tuple(arguments.segment)},
        ablation=arguments.ablation, include_training_rows=arguments.include_training_rows, force=arguments.force,
        log_to_mlflow=arguments.mlflow,
    )  # fmt: skip
    with terminable():
        document = evaluate(request, settings)
    verdict = document["verdict"]
    lines = [f"{verdict['level']}: {verdict['headline']}"]
    lines += [f"  {finding['level']}: {finding['text']}" for finding in verdict["findings"]]
    sys.stdout.write("\n".join([*lines, f"report: {request.out}", f"figures: {json_path(request.out)}"]) + "\n")
    sys.stdout.write(next_after(arguments.model, arguments.data))
    return 0
