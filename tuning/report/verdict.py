"""The first section of a sweep's page: headline, tiles and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fraud.judging.page import fixed, signed
from tuning.record.journal import Trial
from tuning.record.results import Results, objective_of
from tuning.report.plots import is_pair
from tuning.report.run_plots import stopping

FEW_TRIALS = 10
_ALIKE = 0.005  # a smaller gain on one validation window may be chance
OUTCOMES = {  # by trial status: the badge's colour and word
    "finished": ("ok", "finished"),
    "stopped": ("unknown", "stopped early"),
    "failed": ("bad", "failed"),
    "running": ("warning", "not ended"),
}
_WORDS = {
    "ok": "Done",
    "warning": "Done, with points to check",
    "bad": "No usable result",
    "unknown": "Not finished",
}


def headline(results: Results) -> str:
    """The result in one sentence."""
    winner, baseline = _winner_and_baseline(results)
    ended, planned = sum(trial.has_ended for trial in results.trials), results.request["trials"]
    if winner.get("objective") is not None:
        name = winner_name(winner).capitalize()
        text = f"{name} won with {results.objective} {winner['objective']:.3f} on validation"
        if baseline.get("objective") is not None:
            gain = winner["objective"] - baseline["objective"]
            rival = f"{baseline_name(baseline)} ({baseline['objective']:.3f})"
            text += f", {gain:.3f} more than {rival}" if gain > _ALIKE else f"; no better than {rival}"
        return f"{text}."
    best = results.best()
    if best is None:
        failed = sum(trial.status == "failed" for trial in results.trials)
        why = f"all {failed} trials that ended have failed" if failed and failed == ended else "no trial has ended"
        return f"No result yet: {why} ({ended} of {planned} ended)."
    return (
        f"Best so far: {best.detector} {best.number} with {results.objective} {objective_of(best):.3f} on validation, "
        f"after {ended} of {planned} trials."
    )


def findings(results: Results) -> list[tuple[str, str]]:
    """(level, sentence) of each finding, the worst first."""
    warnings, good = [], []
    winner, baseline = _winner_and_baseline(results)
    failed = [trial for trial in results.trials if trial.status == "failed"]
    bad = [f"Every trial that ended has failed: {failed[0].reason}"] if failed and not results.judged else []
    if failed and results.judged:
        warnings.append(f"{len(failed)} of {len(results.trials)} trials failed: {_reasons(failed)}")
    if results.state != "finished":
        how = "was ended before its last trial" if results.state == "closed" else "is running, or its driver was killed"
        warnings.append(f"The sweep {how}, so no pair has been joined yet. Continue: --resume {results.sweep_id}")
    if not results.has_labels:
        warnings.append(f"There are no labels: {results.objective} is a stand-in that ranks settings without frauds")
    is_judged = winner.get("objective") is not None
    if is_judged and baseline.get("objective") is not None and winner["objective"] - baseline["objective"] <= _ALIKE:
        warnings.append(f"The gain over {baseline_name(baseline)} is too small to rely on: keep what you have")
    best = results.best()
    if is_judged and is_pair(winner) and best is not None and winner["objective"] < objective_of(best):
        value = objective_of(best)
        warnings.append(f"{best.detector} {best.number} alone ranks better ({value:.3f}) than the pair")
    if 0 < len(results.judged) < FEW_TRIALS:
        warnings.append(f"Only {count(len(results.judged), 'trial')} judged: most of the space is untried")
    record = results.winner or {}
    note = (record.get("grid") or {}).get("note")
    notes = [*(results.request.get("warnings") or ()), *(record.get("warnings") or ()), *([note] if note else ())]
    warnings += [str(text) for text in dict.fromkeys(notes)]
    if any(trial.status == "stopped" for trial in results.trials):
        good.append(stopping(results))
    if results.fits:
        combinations = f"{results.combinations:,} combinations of settings"
        good.append(f"{results.fits:,} fits covered {combinations}: {results.combinations / results.fits:,.0f} a fit")
    return [(level, text) for level, texts in (("bad", bad), ("warning", warnings), ("ok", good)) for text in texts]


def verdict(results: Results) -> dict[str, Any]:
    """The page's first section: level, word, findings, tiles (value, label, note), facts, has_stopped."""
    texts = findings(results)
    worst = texts[0][0] if texts else "ok"
    level = "unknown" if results.winner is None and worst != "bad" else worst
    request = results.request
    facts = (
        f"Sweep {results.sweep_id}, schema {request['schema']}, data {request['data']}: "
        f"{_detectors(request['detector'])}, seed {request['seed']}, {count(request['folds'], 'validation fold')}, "
        f"{_resources(request)}"
    )
    has_stopped = any(trial.status == "stopped" for trial in results.trials)
    return {
        "level": level, "word": _WORDS[level], "findings": texts, "tiles": _tiles(results), "facts": facts,
        "has_stopped": has_stopped,
    }  # fmt: skip


def _tiles(results: Results) -> list[tuple[str, str, str]]:
    winner, baseline = _winner_and_baseline(results)
    tiles = []
    if winner.get("objective") is not None:
        tiles.append((fixed(winner["objective"]), results.objective, winner_name(winner)))
        if baseline.get("objective") is not None:
            gain = winner["objective"] - baseline["objective"]
            tiles.append((signed(gain), "gained", f"before: {baseline['objective']:.3f}"))
    elif best := results.best():
        tiles.append((fixed(objective_of(best)), results.objective, f"{best.detector} {best.number}"))
    counts: Counter[str] = Counter(trial.status for trial in results.trials)
    note = ", ".join(f"{counts[key]} {word}" for key, (_, word) in OUTCOMES.items() if counts[key])
    tiles.append((f"{sum(t.has_ended for t in results.trials)} of {results.request['trials']}", "trials ended", note))
    run, saved = results.saved("autoencoder")
    if saved:
        tiles.append((f"{saved / (run + saved):.0%}", "of the epochs saved", f"{run:,} run, {saved:,} not"))
    if results.fits:
        tiles.append((f"{results.combinations:,}", "combinations", f"from {count(results.fits, 'fit')}"))
    fitting = sum((trial.result or {}).get("seconds") or 0.0 for trial in results.trials)
    tiles.append((duration(results.clock.total, short=True), "from start to end", f"{duration(fitting)} of fitting"))
    return tiles


def _winner_and_baseline(results: Results) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    record = results.winner or {}
    return record.get("winner") or {}, record.get("baseline") or {}


def duration(seconds: float, short: bool = False) -> str:
    """A time span in words; short: in one unit."""
    if short and seconds >= 60:
        return f"{seconds:,.0f} s" if seconds < 180 else f"{seconds / 60:,.0f} min"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _reasons(trials: Sequence[Trial]) -> str:
    counted = Counter(trial.reason for trial in trials).most_common(3)
    return "; ".join(f"{reason} ({count}×)" if count > 1 else reason for reason, count in counted)


def winner_name(winner: Mapping[str, Any]) -> str:
    """The winning pair or detector, with trial numbers."""
    parts = [f"{name} {winner[name]}" for name in ("forest", "autoencoder") if winner.get(name) is not None]
    return " with ".join(parts) or "the configuration chosen"


def baseline_name(baseline: Mapping[str, Any]) -> str:
    """What the winner is compared with."""
    return str(baseline.get("what") or "the base configuration")


def _detectors(name: str) -> str:
    return "both detectors" if name == "both" else f"{name} only"


def _resources(request: Mapping[str, Any]) -> str:
    gpus = f", {request['gpus_per_trial']:g} GPU" if request.get("gpus_per_trial") else ""
    most = f", at most {request['max_concurrent']} at once" if request.get("max_concurrent") else ""
    return f"{request['cpus_per_trial']:g} CPU a trial{gpus}{most}"


def count(number: int, thing: str) -> str:
    """The number with its noun, e.g. "3 trials"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
