"""The gate's record as a page: the decision, every check with what it found, and the figures side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fraud.judging import page as tag
from fraud.judging.page import badge, section, table, text, words
from ray_jobs.evaluate import models

_BADGE = {True: ("ok", "holds"), False: ("bad", "fails"), None: ("unknown", "not judged")}


def page(document: Mapping[str, Any]) -> str:
    """The whole page of a record that `ray_jobs.gate.judge.judge` made."""
    return tag.document(
        _title(document), "".join([_head(document), _checks(document), _figures(document), _about(document)])
    )


def _title(document: Mapping[str, Any]) -> str:
    number, champion = document["challenger"]["version"], document["champion"]
    if document["decision"] == "promoted":
        return f"Version {number} is champion" + (f", in place of version {champion['version']}" if champion else "")
    stays = f"version {champion['version']} stays" if champion else "there is no champion"
    return f"Version {number} is not promoted: {stays}"


def _head(document: Mapping[str, Any]) -> str:
    level = "ok" if document["decision"] == "promoted" else "bad"
    told = f"<h1>{badge(level, document['decision'])} {words(_title(document))}</h1>"
    why = f": {document['reason']}" if document["reason"] else ""
    told += f'<p class="quiet">{words(document["time"])} by {words(document["by"] + why)}</p>'
    if document["override"]:
        failed = ", ".join(document["override"]["failed"])
        told += f"<p>{badge('warning', 'override')} {words(f'promoted in spite of failed checks: {failed}')}</p>"
    return told


def _checks(document: Mapping[str, Any]) -> str:
    told = "".join(
        f"<li>{badge(*_BADGE[check['passed']])}<b>{words(check['name'])}</b>: {words(check['text'])}</li>"
        for check in document["checks"]
    )
    return section("checks", "What was checked", f'<ul class="findings">{told}</ul>')


def _figures(document: Mapping[str, Any]) -> str:
    compared = document["comparison"]
    if not compared.get("figures"):
        return ""
    lead = '<p class="quiet">On the same rows. Intervals hold 95 %, the widest of drawing whole entities or days.</p>'
    return section("figures", "Challenger and champion", lead, models.figures(compared), _segments(document))


def _segments(document: Mapping[str, Any]) -> str:
    found: Mapping[str, Any] = next(
        (check["figures"] for check in document["checks"] if check["name"] == "segments"), {}
    )
    if not found.get("segments"):
        return ""
    rows = [
        [text(one["segment"]), f"{one['frauds']:,}", f"{100 * one['difference']:+.1f} pts", f"{one['p_adjusted']:.2g}"]
        for one in found["segments"]
    ]
    weak = ["weak" if one["is_worse"] else "" for one in found["segments"]]
    heads = ["segment", "frauds", "recall within the budget", "p that it is worse (Holm)"]
    return "<h3>Segments</h3>" + table(heads, rows, classes=weak)


def _about(document: Mapping[str, Any]) -> str:
    rows = []
    for side in ("challenger", "champion"):
        model = document[side]
        if model is None:
            continue
        learnt = "; ".join(f"{w['name']} {w['start']} to {w['end']}" for w in model["windows"] if w["name"] != "test")
        rows.append([text(side), text(model["version"]), text(model["trained"]), words(learnt or "not recorded")])
    window, data = document["window"], document["data"]
    judged = (
        f"{window['rows']:,} rows from {window['start']} to {window['end']}, {window['source']}" if window else "none"
    )
    return section(
        "about", "What was judged", table(["", "version", "trained", "learnt from"], rows, names=4),
        f"<p>Judged: {words(judged)}.</p><p class=\"quiet\">Data {words(data['path'])}, SHA-256 "
        f"<code>{text(data['fingerprint'])}</code>.</p>",
    )  # fmt: skip
