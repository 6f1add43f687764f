"""What the documentation shows: its pages, their fenced commands and their inline code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
MEASURED = re.compile(r"<!-- measured: .*?<!-- end of measured -->", re.DOTALL)
_EVAL = re.compile(r'eval "\$\((.*?)\)"')
_ENDS = {"|", "&&", ";"}
_REDIRECTIONS = {">", ">>", "<"}


_BLOCK = re.compile(
    r"(?:^\*Not run by our tests: (?P<reason>[^\n]*)\*\n+)?^```bash\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Line:
    """A logical line of a ```bash block. page: relative to the repository. not_run: the reason that the page gives."""

    page: str
    text: str
    not_run: str


def lines() -> Iterator[Line]:
    """Every logical line of a ```bash block, in the order of the pages."""
    for page, text in TEXT.items():
        for block in _BLOCK.finditer(text):
            for line in block["body"].replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    words = re.sub(r"\s+", " ", line.strip())
                    yield Line(str(page.relative_to(ROOT)), words, block["reason"] or "")


def shell_lines() -> Iterator[tuple[Path, str]]:
    """Every logical line of a ```bash block, with its page."""
    for page, text in TEXT.items():
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield page, _EVAL.sub(r"\1", line.strip())


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Every command of those lines as its words, in order; pipes and lists are taken apart."""
    for page, line in shell_lines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        is_file = False
        for word in [*lexer, ";"]:
            if is_file or word in _REDIRECTIONS:
                is_file = word in _REDIRECTIONS
            elif word in _ENDS:
                if words:
                    yield page, words
                words = []
            else:
                words.append(word)


def inline_code() -> Iterator[tuple[Path, str]]:
    """Every `inline code`, with its page."""
    for page, text in TEXT.items():
        for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            yield page, " ".join(code.split())
