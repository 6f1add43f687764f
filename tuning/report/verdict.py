"""What a sweep found, in words a reader meets first: a headline, the figures in tiles, and what to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fraud.judging import page as tag
from tuning.record.journal import Trial
from tuning.record.results import Results, objective_of
from tuning.report.plots import is_pair
from tuning.report.run_plots import stopping

FEW_TRIALS = 10
_ALIKE = 0.005  # a gain below this is no gain on one validation window
STATUS = {
    "finished": ("ok", "finished"),
    "stopped": ("unknown", "stopped early"),
    "failed": ("bad", "failed"),
    "running": ("warning", "not ended"),
}


def headline(results: Results) -> str:
    """What the sweep found, in a sentence."""
    found = results.winner or {}
    winner, baseline = found.get("winner") or {}, found.get("baseline") or {}
    ended, planned = sum(trial.has_ended for trial in results.trials), results.order["trials"]
    if winner.get("objective") is not None:
        text = f"{named(winner).capitalize()} won with {results.objective} {winner['objective']:.3f} on validation"
        if baseline.get("objective") is not None:
            gained = winner["objective"] - baseline["objective"]
            rival = f"{what(baseline)} ({baseline['objective']:.3f})"
            text += f", {gained:.3f} more than {rival}" if gained > _ALIKE else f"; no better than {rival}"
        return f"{text}."
    best = results.best()
    if best is None:
        failed = sum(trial.status == "failed" for trial in results.trials)
        why = f"all {failed} trials that ended have failed" if failed and failed == ended else "no trial has ended"
        return f"Nothing found yet: {why} ({ended} of {planned} ended)."
    return (
        f"Best so far: {best.detector} {best.number} with {results.objective} {objective_of(best):.3f} on validation, "
        f"after {ended} of {planned} trials."
    )


def findings(results: Results) -> list[tuple[str, str]]:
    """(level, sentence): what a reader must know beside the headline, the worst first."""
    found = results.winner or {}
    winner, baseline = found.get("winner") or {}, found.get("baseline") or {}
    failed = [trial for trial in results.trials if trial.status == "failed"]
    said: list[tuple[str, str]] = []
    if failed and not results.judged:
        said.append(("bad", f"Every trial that ended has failed: {failed[0].reason}"))
    elif failed:
        said.append(("warning", f"{len(failed)} of {len(results.trials)} trials failed: {_reasons(failed)}"))
    if results.state != "finished":
        how = "was ended before its last trial" if results.state == "closed" else "is running, or its driver was killed"
        said.append(
            ("warning", f"The sweep {how}: no pair has been joined yet. Go on with --resume {results.sweep_id}")
        )
    if not results.has_labels:
        said.append(
            ("warning", f"No labels decide here: {results.objective} is a stand-in that ranks settings without frauds")
        )
    known = winner.get("objective") is not None and baseline.get("objective") is not None
    if known and winner["objective"] - baseline["objective"] <= _ALIKE:
        said.append(("warning", f"The gain over {what(baseline)} is too small to rely on: keep what you have"))
    if winner.get("objective") is not None and is_pair(winner):
        best = results.best()
        if best is not None and winner["objective"] < objective_of(best):
            text = f"{best.detector} {best.number} alone ranks better ({objective_of(best):.3f}) than the pair"
            said.append(("warning", text))
    if 0 < len(results.judged) < FEW_TRIALS:
        said.append(("warning", f"Only {count(len(results.judged), 'trial')} judged: the space is hardly searched"))
    note = (found.get("grid") or {}).get("note")
    notes = [*(results.order.get("warnings") or ()), *(found.get("warnings") or ()), *([note] if note else ())]
    said += [("warning", str(one)) for one in dict.fromkeys(notes)]
    if any(trial.status == "stopped" for trial in results.trials):
        said.append(("ok", stopping(results)))
    if results.fits:
        text = f"{results.fits:,} fits covered {results.combinations:,} combinations of settings"
        said.append(("ok", f"{text}: {results.combinations / results.fits:,.0f} a fit"))
    return sorted(said, key=lambda one: ("bad", "warning", "ok").index(one[0]))


def verdict(results: Results) -> str:
    """The page's first section."""
    said = findings(results)
    level = next((one for one, _ in said if one == "bad"), None)
    level = level or ("unknown" if results.winner is None else said[0][0] if said else "ok")
    word = {
        "ok": "Done", "warning": "Done, with points to look at", "bad": "Nothing to use", "unknown": "Not at its end",
    }[level]  # fmt: skip
    shown = "".join(
        f"<li>{tag.badge(one, {'ok': 'good', 'warning': 'look', 'bad': 'problem'}[one])}{tag.words(text)}</li>"
        for one, text in said
    )
    order = results.order
    facts = (
        f"Sweep {results.sweep_id}, schema {order['schema']}, data {order['data']}: {_detectors(order['detector'])}, "
        f"seed {order['seed']}, {count(order['folds'], 'validation fold')}, {_resources(order)}"
    )
    return (
        f'<section id="verdict" style="overflow-wrap: anywhere">{tag.badge(level, word)}'
        f"<h1>{tag.words(headline(results))}</h1>{_tiles(results)}"
        f'<p class="quiet">{tag.words(facts)}</p><ul class="findings">{shown}</ul></section>'
    )


def _tiles(results: Results) -> str:
    found = results.winner or {}
    winner, baseline = found.get("winner") or {}, found.get("baseline") or {}
    tiles = []
    if winner.get("objective") is not None:
        tiles.append((tag.fixed(winner["objective"]), results.objective, named(winner)))
        if baseline.get("objective") is not None:
            gained = winner["objective"] - baseline["objective"]
            tiles.append((tag.signed(gained), "gained", f"before: {baseline['objective']:.3f}"))
    elif best := results.best():
        tiles.append((tag.fixed(objective_of(best)), results.objective, f"{best.detector} {best.number}"))
    counts: Counter[str] = Counter(trial.status for trial in results.trials)
    below = ", ".join(f"{counts[key]} {said}" for key, (_, said) in STATUS.items() if counts[key])
    tiles.append((f"{sum(t.has_ended for t in results.trials)} of {results.order['trials']}", "trials ended", below))
    run, saved = results.saved("autoencoder")
    if saved:
        tiles.append((f"{saved / (run + saved):.0%}", "of the epochs saved", f"{run:,} run, {saved:,} not"))
    if results.fits:
        tiles.append((f"{results.combinations:,}", "combinations", f"from {count(results.fits, 'fit')}"))
    work = sum((trial.result or {}).get("seconds") or 0.0 for trial in results.trials)
    tiles.append((duration(results.clock.total, short=True), "from start to end", f"{duration(work)} of fitting"))
    shown = "".join(
        f'<div class="tile"><b>{tag.text(value)}</b>{tag.text(said)}<span>{tag.text(below)}</span></div>'
        for value, said, below in tiles
    )
    return f'<div class="tiles">{shown}</div>'


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


def named(winner: Mapping[str, Any]) -> str:
    """A pair, or the one detector that won, by its trials."""
    parts = [f"{name} {winner[name]}" for name in ("forest", "autoencoder") if winner.get(name) is not None]
    return " with ".join(parts) or "the configuration chosen"


def what(baseline: Mapping[str, Any]) -> str:
    """What the winner is compared with."""
    return str(baseline.get("what") or "the configuration given")


def _detectors(name: str) -> str:
    return "both detectors" if name == "both" else f"{name} only"


def _resources(order: Mapping[str, Any]) -> str:
    gpus = f", {order['gpus_per_trial']:g} GPU" if order.get("gpus_per_trial") else ""
    most = f", at most {order['max_concurrent']} at once" if order.get("max_concurrent") else ""
    return f"{order['cpus_per_trial']:g} CPU a trial{gpus}{most}"


def count(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
