"""Measured tables between their comment lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import pages
from fraud.errors import DataError


def test_a_table_goes_between_its_lines_and_nowhere_else(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"a\n<!-- one -->\nold\n{pages.END}\nb\n<!-- two -->\nkept\n{pages.END}\n")
    pages.write_section(page, pages.row(["x", "y"]), "<!-- one -->")
    assert page.read_text() == f"a\n<!-- one -->\n\n| x | y |\n\n{pages.END}\nb\n<!-- two -->\nkept\n{pages.END}\n"


@pytest.mark.parametrize("page", ["", "<!-- one -->", pages.END])
def test_a_page_without_a_place_for_it_is_refused(page: str):
    with pytest.raises(DataError, match="end of measured"):
        pages.replace_section(page, "new", "<!-- one -->")
