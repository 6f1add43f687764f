"""README, CONTRIBUTING and docs: links, anchors, files, targets, lines and figures are right."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks import summary
from benchmarks.pages import replace_section
from fraud.schema import Schema
from fraud.schema.contract import shipped_names
from fraud.training.config import SHIPPED
from tests.documentation import MEASURED, PAGES, ROOT, TEXT, inline_code, shell_lines

README = TEXT[ROOT / "README.md"]
EVERYTHING = "\n".join(TEXT.values())
LONGEST_LINE, LONGEST_PROSE = 120, 100
WRAPPED = [page for page in PAGES if page.name != "settings.md"]  # that one is generated, in long tables
PACKAGES = ("fraud", "cluster", "tuning", "ray_jobs", "serve_app", "monitoring", "dags", "deploy")
# Folders that no sentence of the tree needs.
UNNAMED = {"fraud_airflow"}
WRITTEN = {"deploy/secrets", "monitoring/drift_report.html"}  # by commands


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name} points to {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} points to {target}"


def test_every_page_is_linked_from_the_readme() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README, page.name


@pytest.mark.parametrize("page", WRAPPED, ids=lambda page: page.name)
def test_lines_are_short_and_prose_is_wrapped(page: Path) -> None:
    text = MEASURED.sub(lambda block: "\n" * block[0].count("\n"), TEXT[page])
    in_code = False
    for number, line in enumerate(text.splitlines(), 1):
        in_code ^= line.lstrip().startswith("```")
        is_prose = not in_code and not line.lstrip().startswith(("|", "!", "<", "`", "#"))
        if len(line.split()) > 1 and not line.startswith("!["):
            limit = LONGEST_PROSE if is_prose else LONGEST_LINE
            # A line that is one link or one piece of code cannot be wrapped.
            assert len(line) <= limit or re.fullmatch(r"\s*(- )?\W?(`[^`]+`|\[.*\]\(.*\))\W?", line), (
                f"{page.name}:{number} has {len(line)} characters"
            )


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = [line.split("#")[0] for _, line in shell_lines()] + [code for _, code in inline_code()]
    named = {target for line in lines for target in re.findall(r"\bmake ([a-z]+)", line)}
    assert named and named <= targets, named - targets


def test_named_files_exist() -> None:
    for page, code in inline_code():
        path = code.split("::")[0]
        if (
            path.split("/")[0] in (*PACKAGES, "tests")
            and re.fullmatch(r"[\w.-]+/[\w./-]+", path)
            and path not in WRITTEN
        ):
            assert (ROOT / path).exists(), f"{page.name} names {code}"


def test_documented_schemas_and_configurations_are_shipped() -> None:
    schemas = set(re.findall(r"(?:SCHEMA=|--schema )(\w+)\b(?![./])", EVERYTHING)) - {"my"}
    configs = set(re.findall(r"(?:CONFIG=|--config )(\w+)\b(?![./])", EVERYTHING)) - {"file"}
    assert schemas and schemas <= set(shipped_names())
    assert configs <= {path.stem for path in SHIPPED.glob("*.yaml")}


def test_the_example_requests_are_transactions_of_the_schemas_that_the_demo_serves() -> None:
    bodies = re.findall(r"-d '(\{.*?\})'", EVERYTHING)
    served = [{column.name for column in Schema.load(name).inputs} for name in ("transactions", "handbook")]
    assert bodies
    for body in bodies:
        assert {*json.loads(body)} in served


def test_the_tree_names_every_package_and_nothing_else() -> None:
    tree = re.search(r"```text\n(.*?)```", README, flags=re.DOTALL)
    assert tree
    named = set(re.findall(r"([\w/]+)/(?=[\s,])", tree[1]))
    there = {
        folder.name
        for package in PACKAGES
        for folder in [ROOT / package, *(ROOT / package).rglob("*")]
        if folder.is_dir() and any(folder.glob("*.py"))
    }
    assert there - UNNAMED <= named, there - UNNAMED - named
    folders = {path.name for path in ROOT.rglob("*") if path.is_dir() and ".git" not in path.parts}
    assert named <= folders, named - folders


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = README.split("## Dependencies")[1]
    reasons = {name for cell in re.findall(r"^\| ([^|]+) \|", table, flags=re.MULTILINE) for name in cell.split(", ")}
    names = {re.split(r"[\[=<>]", dependency)[0].removesuffix("-binary") for dependency in project["dependencies"]}
    assert names <= reasons, names - reasons


def test_the_version_is_the_newest_of_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.findall(r"^## (\S+)$", TEXT[ROOT / "CHANGELOG.md"], flags=re.MULTILINE)[0] == version
    for file in ("Dockerfile", "deploy/compose.yaml", "deploy/kuberay/kustomization.yaml"):
        assert version in (ROOT / file).read_text(encoding="utf-8"), file


def test_the_figures_of_the_readme_are_those_of_the_last_runs() -> None:
    assert replace_section(README, summary.peers(), summary.BEGIN) == README, "run python -m benchmarks.summary"
    assert replace_section(README, summary.weeks(), summary.BEGIN_WEEKS) == README, "run python -m benchmarks.summary"
    assert "1.4× FastAPI in one process, but 0.8× FastAPI with two workers" in " ".join(README.split())
