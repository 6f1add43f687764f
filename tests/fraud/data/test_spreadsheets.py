"""What strangers sent and people open in a spreadsheet is text there, never a formula, and comes back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.data import tables
from fraud.data.spreadsheets import escape_formulas, unescape
from fraud.schema import __main__ as command

HOSTILE = ['=HYPERLINK("http://evil.example","x")', "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1,1)", "\t=1", "\r=1",
           "＝1+1", "'=1+1", "''@x"]  # fmt: skip
HARMLESS = ["abc", "", "-5", "+3.25", "-.5", "-1e-7", "it's", "'quoted'", "a=b", "2026-01-31"]


@pytest.mark.parametrize("text", HOSTILE)
def test_formulas_are_made_text(text: str):
    (escaped,) = escape_formulas(pd.DataFrame({"x": [text]}))["x"]
    assert escaped == f"'{text}" and unescape(escaped) == text


def test_everything_else_stays_as_it_is():
    frame = pd.DataFrame({"x": HARMLESS, "n": range(-3, len(HARMLESS) - 3), "f": -0.5, "b": True})
    pd.testing.assert_frame_equal(escape_formulas(frame), frame)
    mixed = pd.DataFrame({"x": pd.Series([None, -5, "=1"], dtype=object)})
    assert escape_formulas(mixed)["x"].tolist()[1:] == [-5, "'=1"]


@given(st.text())
def test_no_text_begins_like_a_formula_and_each_comes_back(text: str):
    (escaped,) = escape_formulas(pd.DataFrame({"x": [text]}))["x"]
    assert not escaped.startswith(("=", "@", "\t", "\r", "\n"))
    assert escaped[:1] not in ("+", "-") or escaped == text
    if escaped != text:
        assert unescape(escaped) == text


def test_the_quarantine_of_a_hostile_file_holds_no_formula(tmp_path: Path):
    source, rejected = tmp_path / "x.csv", tmp_path / "bad.csv"
    header = "amount,hour,distance,device_score,country_mismatch,is_fraud\n"
    source.write_text(header + "1,3,1,0.1,0,0\n" + "".join(f'"{text.replace(chr(34), chr(34) * 2)}",3,1,0.1,0,0\n'
                                                          for text in HOSTILE[:4]))  # fmt: skip
    command.main(["check", str(source), "--schema", "transactions", "--quarantine", str(rejected)])
    with rejected.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell.startswith("'")]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@")]


def test_writing_for_people_makes_formulas_text(tmp_path: Path):
    tables.write_csv(pd.DataFrame({"id": ["=1+1", "7"]}), str(tmp_path / "x.csv"))
    assert (tmp_path / "x.csv").read_text() == "id\n'=1+1\n7\n"
