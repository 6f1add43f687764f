"""Measured tables in the pages that people read: put there by the benchmark itself, between two comment lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fraud.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
END = "<!-- end of measured -->"


def replace_section(page: str, measured: str, opening: str) -> str:
    """The page with `measured` between the line `opening` and the next END. Raises DataError where it has none."""
    before, begin, rest = page.partition(opening)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"the page has no lines {opening!r} and {END!r}: put them where the tables belong")
    return f"{before}{opening}\n\n{measured}\n\n{END}{after}"


def write_section(path: Path, measured: str, opening: str) -> None:
    """Write `measured` into the page at `path`; see `replace_section`."""
    path.write_text(replace_section(path.read_text(encoding="utf-8"), measured, opening), encoding="utf-8")


def row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
