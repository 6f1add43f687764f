"""Readable numbers: three significant digits, thousands separators, units of time."""

from __future__ import annotations

import math

_LARGEST_PLAIN = 1e15
_UNITS = ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def rounded(x: float) -> str:
    """Three significant digits; whole numbers below a million in full.

    >>> rounded(38.1966), rounded(1234567.0), rounded(1247.0), rounded(0.00123456)
    ('38.2', '1,230,000', '1,247', '0.00123')
    """
    if not math.isfinite(x) or abs(x) >= _LARGEST_PLAIN:
        return f"{x:.3g}"
    if abs(x) < 1e6 and float(x).is_integer():
        return f"{x:,.0f}"
    short = float(f"{x:.3g}")
    return f"{short:,.0f}" if abs(short) >= 100 else f"{short:.3g}"


def as_given(x: float) -> str:
    """A value of the data: two decimals, or three significant digits below 1.

    >>> as_given(412.0), as_given(1234.5), as_given(0.0765)
    ('412', '1,234.50', '0.0765')
    """
    if not math.isfinite(x) or abs(x) >= _LARGEST_PLAIN:
        return f"{x:.3g}"
    if float(x).is_integer():
        return f"{x:,.0f}"
    return f"{x:,.2f}" if abs(x) >= 1 else f"{x:.3g}"


def percent(share: float) -> str:
    """A share as per cent, to two significant digits.

    >>> percent(0.1234), percent(0.0002), percent(1.0)
    ('12 %', '0.02 %', '100 %')
    """
    return f"{float(f'{100.0 * share:.2g}'):.3g} %"


def duration(seconds: float) -> str:
    """A duration in its largest unit.

    >>> duration(11160), duration(12), duration(86400 * 30)
    ('3.1 h', '12 s', '30 days')
    """
    length, unit = next(((length, unit) for length, unit in _UNITS if seconds >= length), _UNITS[-1])
    amount = rounded(seconds / length)
    return f"{amount} {'day' if (amount, unit) == ('1', 'days') else unit}"


def plural(n: float, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "day"), plural(0, "day"), plural(1200, "day")
    ('1 day', 'no day', '1,200 days')
    """
    if n == 0:
        return f"no {one}"
    return f"{rounded(n)} {one if n == 1 else many or one + 's'}"
