"""What README and docs tell a newcomer to type exists: modules, flags, make targets, files, schemas and links."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fraud.schema import Schema
from fraud.schema.contract import shipped_names
from fraud.training.config import SHIPPED

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
NAMED = sorted(set(re.findall(r"python -m ([\w.]+)", TEXT)))
MODULES = [name for name in NAMED if not name.startswith("tests.")]  # those take no flags and write figures


def flags_of(module: str) -> set[str]:
    """Every long flag that some documented command gives to `module`."""
    commands = [line for line in LINES if f"python -m {module}" in line]
    return {flag for command in commands for flag in re.findall(r"(--[\w-]+)", command.split(module)[-1])}


# One process asks every module in turn, as what they import takes seconds. Prints {command: [exit code, help]}.
ASK = """
import contextlib, io, json, runpy, sys, traceback
shown = {}
for command in sys.argv[1:]:
    sys.argv = [*command.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            code = runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True) and None
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    shown[command] = code, text.getvalue()
print(json.dumps(shown))
"""


def verbs_of(module: str) -> list[str]:
    """What stands between `module` and its flags in some documented command."""
    return sorted(set(re.findall(rf"python -m {re.escape(module)} ([a-z]+) ", "\n".join(LINES))))


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[object, str]]:
    """{module, or module and verb: exit code and text of its --help}."""
    commands = [" ".join([module, *verb]) for module in MODULES for verb in ([], *([v] for v in verbs_of(module)))]
    asked = [sys.executable, "-c", ASK, *commands]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", MODULES)
def test_documented_modules_run_and_know_their_flags(module: str, helps: dict[str, tuple[object, str]]) -> None:
    shown = ""
    for command in (module, *(f"{module} {verb}" for verb in verbs_of(module))):
        code, text = helps[command]
        assert code == 0 and text, f"{command} --help: {code}"
        shown += text
    for flag in flags_of(module):
        assert flag in shown, f"{module} has no {flag}"


def test_documented_modules_of_the_tests_exist() -> None:
    for name in set(NAMED) - set(MODULES):
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"`?\bmake ([a-z]+)", "\n".join(LINES))) | set(re.findall(r"`make ([a-z]+)", TEXT))
    assert named and named <= targets


def test_links_and_pictures_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} points to {target}"


def test_documented_schemas_and_configurations_are_shipped() -> None:
    schemas = set(re.findall(r"(?:SCHEMA=|--schema )(\w+)\b(?![./])", TEXT)) - {"my"}
    configs = set(re.findall(r"(?:CONFIG=|--config )(\w+)\b(?![./])", TEXT)) - {"file"}
    assert schemas and schemas <= set(shipped_names())
    assert configs <= {path.stem for path in SHIPPED.glob("*.yaml")}


def test_the_example_request_is_a_transaction_of_the_default_schema() -> None:
    body = re.search(r"-d '(\{.*?\})'", TEXT)
    assert body
    assert set(json.loads(body[1])) == {column.name for column in Schema.load("transactions").inputs}


def test_the_file_tree_names_what_is_there() -> None:
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert tree
    for name in re.findall(r"\b(\w+\.py)\b", tree[1]):
        assert list(ROOT.glob(f"*/{name}")), f"the tree names {name}"
    for folder in re.findall(r"^(\w+)/", tree[1], flags=re.MULTILINE):
        assert (ROOT / folder).is_dir()
