"""Texts of strangers in CSV files that people open: a spreadsheet runs a cell that begins like a formula.

Such a text gets an apostrophe before it, which makes it plain text there. Numbers stay as they are. Which characters:
https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import re

import pandas as pd

# The wide forms are read as the narrow ones in some languages.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table, where no text is a formula; `as_it_was` undoes it."""
    changed = {
        name: frame[name].map(_dead, na_action="ignore")
        for name in frame.columns
        if pd.api.types.is_string_dtype(frame[name].dtype) or pd.api.types.is_object_dtype(frame[name].dtype)
    }
    return frame.assign(**changed) if changed else frame


def as_it_was(text: object) -> object:
    """The text that `without_formulas` was given; anything else as it is."""
    if isinstance(text, str) and text.startswith("'") and _FORMULA.match(text):
        return text[1:]
    return text


def _dead(value: object) -> object:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
