"""Judge a day's numbers of transactions, alerts and refused rows by the manifests of earlier days.

The typical value is the median of earlier days: of the same weekday if there are enough of those. Otherwise a day must
differ both from all days and from the few of its weekday. The usual variation is the median absolute deviation, scaled
to a standard deviation (Iglewicz and Hoaglin, How to detect and handle outliers, 1993). A finding needs a deviation far
beyond usual variation and chance, and an effect that matters. So neither a quiet week nor a small day raises an alarm.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fraud.cli import examples, next_step, run_command
from fraud.data import filesystems, partitions, tables
from fraud.errors import DataError
from fraud.settings import Settings, turn_telemetry_off
from monitoring import exports

FORMAT_VERSION = 1
LEVELS = ("ok", "warning", "critical")
_TO_SIGMA = 1.4826  # of a normal distribution: standard deviation over median absolute deviation


@dataclass(frozen=True, kw_only=True)
class VolumeLimits:
    """When a deviation matters. Pairs are (warning, critical).

    deviations: in usual variations. rows: larger over smaller of the day's rows and the typical number. flagged: the
    same ratio for the flagged share; flagged_rise: least absolute change of that share. quarantined: rise of the
    refused share. days: earlier days to read; fewest: earlier days needed to judge; weekdays: earlier days of the same
    weekday needed to compare with those only.
    """

    deviations: tuple[float, float] = (3.5, 6.0)
    rows: tuple[float, float] = (1.3, 2.0)
    flagged: tuple[float, float] = (1.5, 3.0)
    flagged_rise: float = 0.002
    quarantined: tuple[float, float] = (0.01, 0.05)
    days: int = 56
    fewest: int = 7
    weekdays: int = 4


@dataclass(frozen=True)
class DayCount:
    """A day's row counts, from its manifest. history: the manifest's entry on the entity history, if any."""

    day: dt.date
    scored: int
    flagged: int
    quarantined: int
    model: str = ""
    history: Mapping[str, Any] | None = None

    @property
    def rows(self) -> int:
        """Rows of the day, including refused ones."""
        return self.scored + self.quarantined

    @property
    def flagged_share(self) -> float:
        """Flagged over scored rows."""
        return self.flagged / self.scored if self.scored else 0.0

    @property
    def quarantined_share(self) -> float:
        """Refused over all rows."""
        return self.quarantined / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Finding:
    """One figure of the day compared with earlier days. kind: alert kind, "volume" or "missing_data".

    typical: median of earlier days; variation: their usual variation; both None with too few days.
    """

    subject: str
    kind: str
    level: str
    value: float
    text: str
    typical: float | None = None
    variation: float | None = None


@dataclass(frozen=True)
class Volume:
    """The verdict on a day. compared: earlier days it was compared with; same_weekday: only days of its weekday."""

    day: dt.date
    verdict: str
    reason: str
    findings: tuple[Finding, ...]
    count: DayCount | None = None
    compared: tuple[dt.date, ...] = field(default=())
    same_weekday: bool = False


def read_counts(scored: str, until: dt.date, days: int) -> list[DayCount]:
    """Read `scored/date=*/_manifest.json` of the day `until` and of at most `days` days before it, oldest first.

    scored: folder or URL. Skips unreadable manifests. Raises DataError if `scored` cannot be reached.
    """
    try:
        filesystem, root = filesystems.of(scored)
        paths = filesystem.glob(f"{root.rstrip('/')}/date=*/{partitions.MANIFEST}")
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{scored} cannot be read: {error}; check the address") from None
    dated = sorted((day, path) for path in paths if (day := _day_of(path)) is not None and day <= until)
    counts = [_count(filesystem, path, day) for day, path in dated[-days - 1 :]]
    return [count for count in counts if count is not None]


def judge(counts: Sequence[DayCount], day: dt.date, limits: VolumeLimits | None = None) -> Volume:
    """Judge a day by earlier days. counts: in any order, without missing days."""
    limits = limits or VolumeLimits()
    today = next((count for count in counts if count.day == day), None)
    if today is None:
        text = f"{day} was not scored, or its manifest cannot be read"
        return _volume(day, [Finding("day", "missing_data", "critical", 0.0, text)])
    oldest = day - dt.timedelta(days=limits.days)
    before = sorted((c for c in counts if oldest <= c.day < day and c.rows), key=lambda c: c.day)
    alike = [count for count in before if count.day.weekday() == day.weekday()]
    is_weekly = len(alike) >= limits.weekdays
    if not today.rows:
        empty = Finding("rows", "volume", "critical", 0.0, f"{day} has no rows at all")
        return _volume(day, [empty], today, before, is_weekly)
    if len(before) < limits.fewest:
        findings = [_quarantine(today, None, limits)]
        return _volume(day, findings, today, before, few=f"{len(before)} earlier days, {limits.fewest} are needed")
    compared = alike if is_weekly else before
    findings = _against(today, compared, limits)
    if alike and not is_weekly:  # what the last Sunday had is no news on a Sunday
        findings = [
            min(pair, key=lambda f: LEVELS.index(f.level))
            for pair in zip(findings, _against(today, alike, limits), strict=True)
        ]
    if today.model and (earlier := sorted({c.model for c in compared if c.model} - {today.model})):
        models = f" (model {today.model}, before {', '.join(earlier)})"
        findings = [replace(f, text=f.text + models) if f.subject == "flagged share" else f for f in findings]
    return _volume(day, findings, today, compared, is_weekly)


def _against(today: DayCount, before: Sequence[DayCount], limits: VolumeLimits) -> list[Finding]:
    return [
        _ratio(
            _Figure("rows", "{:,.0f} rows", today.rows, [c.rows for c in before]),
            limits.rows, limits.deviations,
        ),
        _ratio(
            _Figure("flagged share", "{:.2%} of rows flagged", today.flagged_share, [c.flagged_share for c in before],
                    max(today.scored, 1)),
            limits.flagged, limits.deviations, limits.flagged_rise,
        ),
        _quarantine(today, [c.quarantined_share for c in before], limits),
    ]  # fmt: skip


def content(volume: Volume) -> dict[str, Any]:
    """The verdict as a JSON-ready document. `alerts` has the findings that are not ok, for monitoring.alerts."""
    count = volume.count
    alerts = [
        {"kind": f.kind, "subject": f.subject, "severity": f.level, "text": f"{volume.day}: {f.text}"}
        for f in volume.findings
        if f.level != "ok"
    ]
    return {
        "format_version": FORMAT_VERSION,
        "date": volume.day.isoformat(),
        "verdict": volume.verdict,
        "reason": volume.reason,
        "model_version": count.model if count else None,
        "rows": None if count is None else {"all": count.rows, "scored": count.scored, "flagged": count.flagged,
                                            "quarantined": count.quarantined},
        "is_history_stale": bool(count is not None and count.history and count.history.get("is_stale")),
        "findings": [asdict(finding) for finding in volume.findings],
        "compared_with": [day.isoformat() for day in volume.compared],
        "same_weekday": volume.same_weekday,
        "alerts": alerts,
    }  # fmt: skip


@dataclass(frozen=True)
class _Figure:
    """A day's count, or its share of `rows`, and the values of earlier days. text: format of a value."""

    subject: str
    text: str
    value: float
    before: Sequence[float]
    rows: int = 1


def _ratio(
    figure: _Figure, ratios: tuple[float, float], deviations: tuple[float, float], least_rise: float = 0.0
) -> Finding:
    """Judge whether a figure is too large or too small."""
    value, (typical, variation) = figure.value, _usual(figure.before)
    ratio = max(value, typical) / max(min(value, typical), 1 / figure.rows)
    far = _deviations(value, typical, variation, figure.rows, len(figure.before))
    reached = [ratio >= r and far >= d for r, d in zip(ratios, deviations, strict=True)]
    level = LEVELS[sum(reached)] if reached[0] and abs(value - typical) >= least_rise else "ok"
    text = f"{figure.text.format(value)}, usually {figure.text.format(typical)}"
    return Finding(figure.subject, "volume", level, value, text, typical, variation)


def _quarantine(today: DayCount, before: Sequence[float] | None, limits: VolumeLimits) -> Finding:
    typical, variation = _usual(before) if before is not None else (0.0, 0.0)
    share = today.quarantined_share
    far = _deviations(share, typical, variation, today.rows, len(before or ()))
    reached = [share - typical >= rise and far >= limits.deviations[0] for rise in limits.quarantined]
    level = LEVELS[sum(reached)] if today.scored else "critical"
    text = f"{share:.2%} of {today.rows:,} rows refused, usually {typical:.2%}"
    return Finding("refused rows", "missing_data", level, share, text, typical, variation)


def _deviations(value: float, typical: float, variation: float, rows: int, days: int) -> float:
    """Distance of a count, or of a share of `rows`, from typical, in standard deviations.

    The smaller of two: by the usual variation, and by chance. The square root of a count has a standard deviation of
    1/2 for any count (Anscombe, 1948). The median of `days` days has pi / (2 * days) times the variance of one day.
    """
    by_chance = 2 * abs(math.sqrt(value * rows + 0.375) - math.sqrt(typical * rows + 0.375))
    by_chance /= math.sqrt(1 + math.pi / 2 / days) if days else 1.0
    return min(by_chance, abs(value - typical) / variation) if variation else by_chance


def _usual(values: Sequence[float]) -> tuple[float, float]:
    """Median, and median absolute deviation scaled to a standard deviation."""
    typical = statistics.median(values)
    return typical, _TO_SIGMA * statistics.median(abs(value - typical) for value in values)


def _volume(
    day: dt.date, findings: list[Finding], count: DayCount | None = None, before: Sequence[DayCount] = (),
    same_weekday: bool = False, few: str = "",
) -> Volume:  # fmt: skip
    if count is not None and count.history and count.history.get("is_stale"):
        through = count.history.get("through") or "nothing"
        text = f"scored with the entity history up to {through}: days before are missing (ray_jobs.history build)"
        findings = [*findings, Finding("entity history", "missing_data", "critical", 1.0, text)]
    verdict = max((finding.level for finding in findings), key=LEVELS.index)
    reasons = [finding.text for finding in findings if finding.level == verdict and verdict != "ok"]
    if count is not None and not reasons:
        reasons = [f"{count.rows:,} rows" + (f": too few days to judge ({few})" if few else ", as usual")]
    return Volume(day, verdict, "; ".join(reasons), tuple(findings), count, tuple(c.day for c in before), same_weekday)


def _day_of(path: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(path.rstrip("/").split("/")[-2].removeprefix("date="))
    except (ValueError, IndexError):
        return None


def _count(filesystem: Any, path: str, day: dt.date) -> DayCount | None:
    manifest = partitions.read_json(filesystem, path)
    try:
        rows = manifest["rows"]
        model = str(manifest.get("model_version") or "")
        history = manifest.get("history") or None
        return DayCount(day, int(rows["scored"]), int(rows["flagged"]), int(rows["quarantined"]), model, history)
    except (ValueError, KeyError, TypeError):
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.volume",
        description="Compare a scored day's rows, alerts and refused rows with earlier days, of the same weekday if "
        "there are enough. Reads the manifests that ray_jobs.score writes to each day's folder. A missing or empty day "
        "is critical. Writes JSON; the exit code is 0 for every verdict.",
        **examples(
            "python -m monitoring.volume --scored scored --date 2026-01-31 --out reports/volume/2026-01-31.json"
        ),
    )
    parser.add_argument("--scored", required=True, help="folder or URL with date=YYYY-MM-DD folders")
    parser.add_argument("--date", required=True, help="the day, YYYY-MM-DD, as given to ray_jobs.score --date")
    parser.add_argument("--out", default="volume.json", help="JSON to write (default: %(default)s)")
    parser.add_argument("--days", type=int, default=56, help="earlier days to judge by (default: %(default)s)")
    exports.add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    day = partitions.day_named(arguments.date)
    limits = VolumeLimits(days=arguments.days)
    out = settings.locate(arguments.out)
    own = tables.marked('"format_version"', '"date"', '"is_history_stale"')
    tables.check_out(out, own, force=arguments.force)
    volume = judge(read_counts(settings.locate(arguments.scored), day, limits.days), day, limits)
    document = content(volume)
    tables.write_text(json.dumps(document, indent=2) + "\n", out)
    exports.export(exports.of_volume(document), arguments, settings, os.environ)
    sys.stdout.write(f"{volume.verdict}: {volume.reason}\n{day} → {out}\n")
    if volume.verdict == "ok":
        scored, page = f"{arguments.scored.rstrip('/')}/{partitions.folder_of(str(day))}", f"reports/drift/{day}.html"
        sys.stdout.write(next_step("python -m monitoring.drift --model champion", "--cur", scored, "--out", page))
    else:
        sys.stdout.write(next_step("python -m monitoring.alerts", "--volume", arguments.out))
    return 0


if __name__ == "__main__":
    run_command(main)
