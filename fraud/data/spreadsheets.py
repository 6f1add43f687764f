"""Escape formulas in CSV files: a spreadsheet executes a cell that begins like a formula.

An apostrophe before the text makes it plain text. Numbers stay unchanged. For the characters, see
https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import re

import pandas as pd

# Some locales read the full-width forms as the plain ones.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Escape texts that a spreadsheet would run as formulas. `unescape` reverses it."""
    changed = {
        name: frame[name].map(_escaped, na_action="ignore")
        for name in frame.columns
        if pd.api.types.is_string_dtype(frame[name].dtype) or pd.api.types.is_object_dtype(frame[name].dtype)
    }
    return frame.assign(**changed) if changed else frame


def unescape(text: object) -> object:
    """Reverse `escape_formulas`; other values are returned unchanged."""
    if isinstance(text, str) and text.startswith("'") and _FORMULA.match(text):
        return text[1:]
    return text


def _escaped(value: object) -> object:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
