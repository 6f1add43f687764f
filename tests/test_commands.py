"""`python -m fraud` lists every command, and each has a help of its own with an example; "next:" names real ones."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fraud.__main__ import COMMANDS, listing
from tests.documentation import ROOT

PACKAGES = ("fraud", "cluster", "tuning", "ray_jobs", "serve_app", "monitoring", "deploy", "benchmarks", "tests")
LISTED = {name for group in COMMANDS.values() for name in group}
# Not for people: started by the product itself.
INTERNAL = {"cluster.standby_haproxy", "deploy.log_keeper", "serve_app.history.label_process"}
# Modules that are no commands: their help names the command to use.
POINTERS = {"ray_jobs.gate", "serve_app.deployment"}

# One process reads every parser in turn, because the imports take seconds. The work behind the parser never begins.
PROBE = """
import argparse, json, runpy, sys
class Parsed(BaseException): pass
def stop(self, *arguments, **named):
    raise Parsed(self)
argparse.ArgumentParser.parse_args = stop

def parsers(parser):
    flags = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield {
        "prog": parser.prog, "help": parser.format_help(), "description": parser.description or "",
        "unexplained": ["/".join(action.option_strings) or action.dest for action in flags if not action.help],
        "choices": [list(action.choices) for action in flags if action.choices and not action.option_strings],
        "verbs": [name for action in verbs for name in action.choices],
    }
    for action in verbs:
        for verb in action.choices.values():
            yield from parsers(verb)

answers = {}
for module in json.load(sys.stdin):
    try:
        sys.argv = [module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Parsed as parsed:
        answers[module] = list(parsers(parsed.args[0]))
json.dump(answers, sys.stdout)
"""


def modules_with_a_main() -> Iterator[str]:
    """The modules that `python -m` runs, by the guard in their last lines."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), flags=re.MULTILINE):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


@pytest.fixture(scope="module")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """{module: its parser and those of its verbs}, for every command but the benchmarks."""
    folder = tmp_path_factory.mktemp("parsers")
    modules = sorted({*LISTED, *POINTERS, "fraud"} - {"benchmarks.*"})
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(modules),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert set(read) == set(modules), "each parses its arguments before its work begins"
    return dict(read)


def faults(module: str, parser: dict[str, Any]) -> Iterator[str]:
    name = parser["prog"].removeprefix("python -m ")
    if not parser["description"]:
        yield f"{name}: no description"
    own = re.escape(parser["prog"])
    if not re.search(rf"^examples?:\n  \S|^    {own}", parser["help"], flags=re.MULTILINE):
        yield f"{name}: no example"
    for choices in parser["choices"]:
        if module in COMMANDS["Work on the code"]:
            continue
        yield f"{name}: one help for {'|'.join(choices)}"
    for flag in parser["unexplained"]:
        yield f"{name} {flag}: no help"


def test_every_command_and_verb_has_its_own_help_with_an_example(parsers: dict[str, list[dict[str, Any]]]) -> None:
    missing = {fault for module, all_ in parsers.items() for parser in all_ for fault in faults(module, parser)}
    assert missing == set()


def test_a_parser_is_named_as_it_is_typed(parsers: dict[str, list[dict[str, Any]]]) -> None:
    for module, (top, *_) in parsers.items():
        assert top["prog"] == f"python -m {module}"


def test_the_list_names_every_command() -> None:
    commands = {re.sub(r"^benchmarks\..*", "benchmarks.*", name) for name in modules_with_a_main()}
    commands -= {name for name in commands if name.startswith("tests.")}
    assert commands - INTERNAL - POINTERS - {"fraud"} == LISTED
    assert commands >= INTERNAL | POINTERS


def test_the_list_is_printed_with_a_line_each() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fraud"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == listing()
    lines = done.stdout.splitlines()
    assert all(sum(line.startswith(f"  {name} ") for line in lines) == 1 for name in LISTED)
    assert max(map(len, lines)) <= 100


def next_steps() -> Iterator[tuple[str, str]]:
    """(place, literal words) of every call of `next_step` in the shipped code: its command and its flags."""
    for package in PACKAGES[:-1]:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "next_step":
                    words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                    if words:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", " ".join(map(str, words))


def test_the_next_command_exists_with_its_verb_and_flags(parsers: dict[str, list[dict[str, Any]]]) -> None:
    steps = [(place, words) for place, words in next_steps() if not words.startswith("serve deploy ")]
    assert len(steps) > 10
    for place, words in steps:
        module, *rest = words.removeprefix("python -m ").split()
        assert module in LISTED, f"{place}: {words}"
        top, *verbs = parsers[module]
        shown = top["help"] + "".join(verb["help"] for verb in verbs)
        for word in rest:
            assert word in shown, f"{place}: {module} has no {word}"


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("ray_jobs.gate", "python -m ray_jobs.promote challenger --gate"),
        ("serve_app.deployment", "serve deploy serve_app/config.yaml"),
    ],
)
def test_what_is_no_command_names_the_one_to_use(module: str, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert command in done.stderr
