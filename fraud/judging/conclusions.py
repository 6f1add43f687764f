"""Summarise an evaluation for a risk officer: a headline, and findings with their section of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fraud.judging.evaluation import Plan

Level = Literal["ok", "warning", "bad", "unknown"]
FEW_FRAUDS = 30
_FAR_FROM_CHEAPEST = 1.25
_OTHER_VOLUME = 2.0
_MOST_LISTED = 4  # weak slices of one section


def conclude(
    sections: Mapping[str, Any],
    plan: Plan,
    warnings: Sequence[str] = (),
    chosen_at: Mapping[str, float] | None = None,
    doubts: Sequence[str] = (),
) -> dict[str, Any]:
    """The verdict: {level, headline, findings [{level, section, text}]}, worst findings first.

    sections: the evaluation's sections by name. warnings: problems of the evaluation itself, such as rows that the
    model was trained on. chosen_at: the threshold's metrics on the window where it was chosen (`achieved` of
    `fraud.thresholds.selection.Threshold`). doubts: problems that the evaluation may have.
    """
    findings = [_finding("bad", "rows", text) for text in warnings]
    findings += [_finding("warning", "rows", text) for text in doubts]
    findings += _on_volume(sections, chosen_at or {})
    ranking = sections["ranking"]
    if "missing" in ranking:
        rows = sections["rows"]
        headline = (
            f"No verdict: {ranking['missing']}. The model alerts on {_percent(rows['alert_rate'])} "
            f"of {rows['in_window']:,} rows."
        )
        findings += _on_slices(sections) + _on_rarity(sections)
        return {"level": "unknown", "headline": headline, "findings": _sorted(findings)}
    findings += _on_ranking(sections) + _on_cost(sections) + _on_rarity(sections) + _on_slices(sections)
    findings += _on_comparison(sections)
    levels = {finding["level"] for finding in findings}
    level: Level = "bad" if "bad" in levels else "warning" if "warning" in levels else "ok"
    return {"level": level, "headline": _headline(ranking), "findings": _sorted(findings)}


def _headline(ranking: Mapping[str, Any]) -> str:
    at = ranking["points"][0]["figures"]
    recall = at["recall"]
    text = f"At its threshold the model finds {_percent(recall['value'])} of the frauds{_between(recall['interval'])}"
    if (
        at.get("amount_recall", {}).get("value") is not None
        and at["amount_recall"]["value"] == at["amount_recall"]["value"]
    ):
        text += f" and {_percent(at['amount_recall']['value'])} of the fraud amount"
    text += f", with alerts on {_percent(at['alert_rate']['value'])} of the transactions"
    precision = at["precision"]["value"]
    if precision == precision and precision > 0:
        text += f"; {_odds(precision)}"
    return text + "."


def _odds(precision: float) -> str:
    if precision > 0.5:
        return f"{_percent(precision)} of its alerts are frauds"
    return (
        f"one alert in {1 / precision:.2g} is a fraud"
        if precision > 0.1
        else f"one alert in {1 / precision:,.0f} is a fraud"
    )


def _on_volume(sections: Mapping[str, Any], chosen_at: Mapping[str, float]) -> list[dict[str, str]]:
    rate, before = sections["rows"]["alert_rate"], chosen_at.get("alert_rate")
    if rate is None or not before:
        return []
    ratio = rate / before
    if 1 / _OTHER_VOLUME <= ratio <= _OTHER_VOLUME:
        return []
    return [
        _finding(
            "warning", "points",
            f"The threshold alerts on {_percent(rate)} of the rows, against {_percent(before)} where it was chosen: "
            f"{'more' if ratio > 1 else 'fewer'} alerts than planned. Choose a new threshold on later data",
        )
    ]  # fmt: skip


def _on_ranking(sections: Mapping[str, Any]) -> list[dict[str, str]]:
    ranking, frauds, findings = sections["ranking"], sections["rows"]["frauds"], []
    name, figures = next(iter(ranking["scores"].items()))
    score = figures["average_precision"]
    if score["interval"] and score["interval"][0] <= ranking["base_rate"]:
        chance = f"alerting at random ({ranking['base_rate']:.3f})"
        text = f"Average precision {score['value']:.3f} may be no better than {chance}"
        findings.append(_finding("bad", "ranking", text))
    if frauds < FEW_FRAUDS:
        text = f"Only {frauds} frauds: every interval is wide and differences are hard to show. Take a longer window"
        findings.append(_finding("warning", "ranking", text))
    for other, figures in ranking["scores"].items():
        rival = figures["average_precision"]
        if score["interval"] and rival["interval"] and rival["interval"][0] > score["interval"][1]:
            shown = f"{rival['value']:.3f} against {score['value']:.3f}"
            text = f"{other} alone ranks better than {name}: average precision {shown}"
            findings.append(_finding("warning", "ranking", text))
    return findings


def _on_cost(sections: Mapping[str, Any]) -> list[dict[str, str]]:
    cost = sections["cost"]
    if "missing" in cost:
        return []
    at, cheapest, idle = cost["at_threshold"]["cost"], cost["cheapest"], cost["without_alerts"]
    if at > idle:
        return [_finding("bad", "cost", f"The threshold costs {at:,.0f}, more than no alerts at all ({idle:,.0f})")]
    if at > _FAR_FROM_CHEAPEST * cheapest["cost"]:
        text = (
            f"The threshold costs {at:,.0f}; a threshold of {cheapest['threshold']:.3f} would have cost "
            f"{cheapest['cost']:,.0f} here. Check the costs, and choose the threshold by cost when training"
        )
        return [_finding("warning", "cost", text)]
    return []


def _on_rarity(sections: Mapping[str, Any]) -> list[dict[str, str]]:
    rarity = sections["rarity"]
    if "missing" in rarity:
        return []
    levels = next(iter(rarity["scores"].values()))
    off = [level for level in levels if level["holds"] is False]
    if not off:
        return []
    worst = max(off, key=lambda level: level["ratio"] if level["ratio"] > 1 else 1 / max(level["ratio"], 1e-3))
    text = (
        f"The score is no longer calibrated: {_percent(worst['expected'])} of the normal rows should score "
        f"{worst['score']:.2f} or more, and {_percent(worst['observed'])} do. The data have changed: retrain or "
        "recalibrate"
    )
    return [_finding("warning", "calibration", text)]


def _on_slices(sections: Mapping[str, Any]) -> list[dict[str, str]]:
    findings = []
    if "parts" in sections["stability"]:
        step = sections["stability"]["step"]
        weak = [(f"{step} of {part['name']}", part["weak"]) for part in sections["stability"]["parts"] if part["weak"]]
        findings += _listed(weak, "stability")
    for column in sections["segments"].get("columns", ()):
        weak = [(f"{column['column']} {part['name']}", part["weak"]) for part in column["parts"] if part["weak"]]
        findings += _listed(weak, "segments")
    return findings


def _listed(weak: Sequence[tuple[str, str]], section: str) -> list[dict[str, str]]:
    findings = [_finding("warning", section, f"{name}: {text}") for name, text in weak[:_MOST_LISTED]]
    if len(weak) > _MOST_LISTED:
        findings.append(_finding("warning", section, f"and {len(weak) - _MOST_LISTED} more like these"))
    return findings


def _on_comparison(sections: Mapping[str, Any]) -> list[dict[str, str]]:
    comparison = sections["comparison"]
    if "text" not in comparison:
        return []
    level = {"better": "ok", "worse": "warning", "alike": "ok"}[comparison["verdict"]]
    return [_finding(level, "comparison", comparison["text"])]


def _finding(level: str, section: str, text: str) -> dict[str, str]:
    return {"level": level, "section": section, "text": text}


def _sorted(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(findings, key=lambda finding: ("bad", "warning", "ok").index(finding["level"]))


def _percent(share: float | None) -> str:
    if share is None or share != share:
        return "an unknown share"
    if share == 0 or share >= 0.1:
        return f"{share:.0%}"
    return f"{100 * share:.2g} %".replace(" ", "")


def _between(band: Any) -> str:
    return f" ({_percent(band[0])} to {_percent(band[1])})" if band else ""
