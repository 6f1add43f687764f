"""The building blocks of a report page: escaped text, numbers with intervals, tables, pictures, the style."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The page needs no script and no network: whatever a value contains, nothing runs and no request leaves.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1f2933; background: #f5f7f9; margin: 0 }
main { max-width: 1120px; margin: 0 auto; padding: 20px 24px 60px }
h1 { font-size: 22px; line-height: 1.35; margin: 10px 0 14px; font-weight: 650; max-width: 960px }
h2 { font-size: 18px; margin: 0 0 4px } h3 { font-size: 15px; margin: 18px 0 4px }
section { background: #fff; border: 1px solid #dde3ea; border-radius: 8px; padding: 18px 22px; margin: 16px 0 }
p { margin: 6px 0 10px; max-width: 900px } .quiet { color: #55616e; font-size: 14px }
.badge { border-radius: 4px; padding: 2px 9px; font-weight: 650; font-size: 13px; white-space: nowrap }
.ok { background: #dcf1e0; color: #14532d } .warning { background: #fdeec7; color: #6b4300 }
.bad { background: #fbdada; color: #7f1d1d } .unknown { background: #e3e8ee; color: #364452 }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 4px 0 14px }
.tile { flex: 1 1 138px; border: 1px solid #dde3ea; border-radius: 8px; padding: 10px 14px; background: #fbfcfd }
.tile b { display: block; font-size: 25px; line-height: 1.2; font-variant-numeric: tabular-nums }
.tile span { display: block; font-size: 13px; color: #55616e }
ul.findings { list-style: none; margin: 6px 0 0; padding: 0 } ul.findings li { margin: 7px 0; padding-left: 92px;
  position: relative; max-width: 900px } ul.findings .badge { position: absolute; left: 0; top: 1px }
table { border-collapse: collapse; font-size: 14px; margin: 8px 0 4px; min-width: 60% }
th { text-align: left; border-bottom: 2px solid #c6cfd9; padding: 4px 16px 4px 0; vertical-align: bottom }
td { border-bottom: 1px solid #e6ebf0; padding: 5px 16px 5px 0; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.name { overflow-wrap: anywhere; max-width: 320px } td small { display: block; color: #66727f; white-space: nowrap }
tr.weak td { background: #fff8e6 } tr.total td { font-weight: 600 } .wide { overflow-x: auto }
.pictures { display: flex; flex-wrap: wrap; gap: 14px } .pictures img { flex: 1 1 430px; width: 100%; max-width: 520px;
  height: auto; align-self: flex-start } .pictures img.whole { max-width: 100%; flex-basis: 100% }
.pictures .wide { flex: 1 1 380px } nav { margin: 14px 2px 0; font-size: 14px; line-height: 1.9 }
nav a { color: #00558c; margin-right: 14px; white-space: nowrap }
.missing { color: #55616e; border-left: 3px solid #c6cfd9; padding-left: 12px; margin: 8px 0 }
summary { cursor: pointer; color: #00558c; font-size: 14px; margin-top: 8px }
code { font-size: 13px; white-space: nowrap }
@media print { body { background: #fff } section { break-inside: avoid } nav { display: none } }
"""
_LONGEST = 80


def text(value: object) -> str:
    """Any value as text that means nothing to HTML, no longer than a cell may be."""
    plain = "".join(c if c.isprintable() else " " for c in str(value))
    return html.escape(plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…")


def words(value: str) -> str:
    """A sentence as text that means nothing to HTML; it may be long."""
    return html.escape("".join(c if c.isprintable() else " " for c in value))


def percent(share: float | None) -> str:
    """A share in percent, with as many digits as it deserves; "–" where there is none."""
    if share is None:
        return "–"
    return f"{100 * share:.1f}%" if share >= 0.0095 or share == 0 else f"{100 * share:.2g}%"


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, or "–"."""
    return "–" if value is None else format(value, form)


def with_interval(figure: Mapping[str, Any] | None, form: Callable[[float | None], str] = percent) -> str:
    """A figure {value, interval} with its interval below it, as HTML."""
    if figure is None or figure["value"] is None:
        return "–"
    band = figure["interval"]
    below = f"<small>{form(band[0])} to {form(band[1])}</small>" if band else ""
    return form(figure["value"]) + below


def fixed(value: float | None) -> str:
    """Three digits after the point, or "–"."""
    return number(value, ".3f")


def signed(value: float | None) -> str:
    """Three digits with a sign, or "–"."""
    return number(value, "+.3f")


def badge(level: str, said: str | None = None) -> str:
    """A coloured word."""
    return f'<span class="badge {html.escape(level)}">{html.escape(said or level)}</span>'


def missing(section: Mapping[str, Any]) -> str:
    """Why a section is not there."""
    reason = str(section["missing"])
    return f'<p class="missing">Not available: {words(reason)}.</p>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1, classes: Sequence[str] = ()) -> str:
    """A table of HTML cells; the first `names` columns hold words, the others numbers."""

    def line(cells: Sequence[str], tag: str, kind: str) -> str:
        shown = "".join(
            f'<{tag} class="{"name" if place < names else "number"}">{cell}</{tag}>' for place, cell in enumerate(cells)
        )
        return f'<tr class="{kind}">{shown}</tr>' if kind else f"<tr>{shown}</tr>"

    body = "".join(line(row, "td", classes[i] if i < len(classes) else "") for i, row in enumerate(rows))
    return f'<div class="wide"><table>{line([text(head) for head in heads], "th", "")}{body}</table></div>'


def picture(draw: Callable[[Path], object], said: str, kind: str = "") -> str:
    """What `draw` writes to the path it is given (a PNG), inside the page.

    said: what it shows, for who cannot see it. kind: "whole" for a picture as wide as the page.
    """
    with tempfile.TemporaryDirectory(prefix="fraud-page-") as folder:
        path = Path(folder) / "picture.png"
        draw(path)
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img class="{kind}" alt="{html.escape(said)}" src="data:image/png;base64,{encoded}">'


def pictures(*images: str) -> str:
    """Pictures side by side where there is room."""
    return f'<div class="pictures">{"".join(images)}</div>'


def section(name: str, title: str, *parts: str) -> str:
    """A titled part of the page that the navigation leads to."""
    return f'<section id="{html.escape(name)}"><h2>{html.escape(title)}</h2>{"".join(parts)}</section>'


def document(title: str, body: str) -> str:
    """The whole page."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
