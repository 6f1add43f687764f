"""Report pages: Jinja2 templates with autoescape, number formatting functions, and plots as data URIs.

A package has its templates in `templates/` and shares `page.html`, `macros.html` and `style.css` of fraud/judging.
No template marks a value as safe. A page needs no script and no network.
"""

from __future__ import annotations

import base64
import shlex
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

_LONGEST_CELL = 80


def render(package: str, template: str, **values: Any) -> str:
    """Render `<package>/templates/<template>` with these values."""
    return _environment(package).get_template(template).render(values)


def picture(draw: Callable[[Path], object]) -> str:
    """Call `draw` with a path and return the PNG that it writes there, as a data URI."""
    with tempfile.TemporaryDirectory(prefix="fraud-page-") as folder:
        path = Path(folder) / "picture.png"
        draw(path)
        return data_uri(path)


def data_uri(png: Path) -> str:
    """A PNG file as the `src` of an image."""
    return f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode('ascii')}"


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, or "–" for None."""
    return "–" if value is None else format(value, form)


def percent(share: float | None) -> str:
    """A share in percent: one decimal, two significant digits below 1 %."""
    if share is None or share >= 0.0095 or share < 1e-9:
        return number(share, ".1%")
    return f"{100 * share:.2g}%"


def fixed(value: float | None) -> str:
    """Three digits after the point."""
    return number(value, ".3f")


def signed(value: float | None) -> str:
    """Three digits after the point, with a sign."""
    return number(value, "+.3f")


def points(share: float | None) -> str:
    """A difference of shares in percentage points."""
    return "–" if share is None else f"{100 * share:+.1f} pts"


def quoted(value: object) -> str:
    """A value as one word of a shell command."""
    return shlex.quote(str(value))


def short(value: object) -> str:
    """A data value as text, cut to the width of a table cell."""
    text = str(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("fraud.judging")]),
        autoescape=True, undefined=StrictUndefined, finalize=_printable, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    for function in (number, percent, fixed, signed, points, quoted, short):
        environment.globals[function.__name__] = function
    return environment


def _printable(value: object) -> object:
    """Replace control characters and lone surrogates, which cannot be written as UTF-8, by spaces."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(c if c.isprintable() or c == "\n" else " " for c in value)
