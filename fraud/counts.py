"""Counts with their noun: "1 label", "2 labels"."""

from __future__ import annotations


def counted(n: float, one: str, many: str | None = None) -> str:
    """A whole or broken count with its noun.

    >>> counted(1, "label"), counted(0, "label"), counted(1200, "label"), counted(2, "entity", "entities")
    ('1 label', '0 labels', '1,200 labels', '2 entities')
    >>> counted(1.0, "day"), counted(1.5, "day")
    ('1 day', '1.5 days')
    """
    number = f"{int(n):,}" if n == int(n) else f"{n:g}"
    return f"{number} {one if n == 1 else many or one + 's'}"
