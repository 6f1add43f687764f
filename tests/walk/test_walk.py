"""A newcomer's walk: `make demo` on small cards, then every ```bash line of README and docs, in the story's order."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from deploy import processes
from tests.documentation import ROOT, Line, lines
from tests.walk.shell import Shell
from tests.walk.story import ELSEWHERE, STORY, Step

LINES = list(lines())


def name_of(step: Step) -> str:
    return f"{step.page.removeprefix('docs/')}: {step.line[:70]}"


def is_run_elsewhere(line: Line) -> str | None:
    return next((start for start in ELSEWHERE if f"{line.text} ".startswith((f"{start} ", f"{start};"))), None)


def documented(step: Step) -> list[Line]:
    """The line that begins as the step says; where several do, the one that is no longer than that."""
    candidates = [line for line in LINES if line.page == step.page and line.text.startswith(step.line)]
    exact = [line for line in candidates if line.text.split(" #")[0].rstrip() == step.line.rstrip()]
    return exact or candidates


def test_every_documented_line_is_walked_or_run_elsewhere_or_marked_as_not_run():
    walked = {(line.page, line.text) for step in STORY for line in documented(step)}
    forgotten = [
        f"{line.page}: {line.text}"
        for line in LINES
        if not line.not_run and not is_run_elsewhere(line) and (line.page, line.text) not in walked
    ]
    assert not forgotten, "\n".join(forgotten)


def test_the_story_follows_the_documentation():
    """Each step is one line of its page; nothing is listed that the pages no longer show."""
    unclear = [name_of(step) for step in STORY if step.page and len(documented(step)) != 1]
    assert not unclear, unclear
    unused = [start for start in ELSEWHERE if not any(is_run_elsewhere(line) == start for line in LINES)]
    assert not unused, unused
    assert all((ROOT / test).exists() for test in ELSEWHERE.values())


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    opened = Shell.open(tmp_path_factory.mktemp("walk"), tmp_path_factory.mktemp("home"))
    yield opened
    opened.run("make down")
    left = processes.find(opened.folder / "var")
    processes.stop(opened.folder / "var", [])
    assert not left, [process.cmdline() for process in left]


@pytest.mark.drill
@pytest.mark.parametrize("step", STORY, ids=name_of)
def test_step(step: Step, shell: Shell):
    line = documented(step)[0].text if step.page else step.line
    code, output = shell.run(line)
    assert code == 0, f"exit code {code}: {line}\n{output[-8000:]}"
    assert re.search(step.shows, output), f"no {step.shows!r}: {line}\n{output[-8000:]}"
    assert "Traceback (most recent call last)" not in output, output[-8000:]
