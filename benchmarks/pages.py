"""Write measured tables into documentation pages, between two comment lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fraud.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
END = "<!-- end of measured -->"


def replace_section(page: str, measured: str, opening: str) -> str:
    """The page with `measured` between `opening` and the next END. Raises DataError if either line is missing."""
    before, begin, rest = page.partition(opening)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"the page has no lines {opening!r} and {END!r}: add both lines where the tables belong")
    return f"{before}{opening}\n\n{measured}\n\n{END}{after}"


def write_section(path: Path, measured: str, opening: str) -> None:
    """Apply `replace_section` to the file at `path`."""
    path.write_text(replace_section(path.read_text(encoding="utf-8"), measured, opening), encoding="utf-8")


def row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
