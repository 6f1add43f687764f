"""docs/settings.md says what the code reads, and nothing else reads our variables."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud.settings.__main__ import PAGE
from fraud.settings.external import PipelineSettings, SchedulerSettings
from fraud.settings.page import GROUPS, names, page

ROOT = Path(__file__).parents[3]
SHIPPED = ("fraud", "cluster", "ray_jobs", "tuning", "serve_app", "monitoring", "dags", "deploy")
NAME = re.compile(r"\bFRAUD_[A-Z0-9_]*[A-Z0-9]\b")
# Who may name a variable outside `fraud/settings/`, and why.
EXCEPTIONS = {
    "dags/": "a DAG must parse without our code; `PipelineSettings` and `SchedulerSettings` are compared with it below",
    "deploy/processes.py": "FRAUD_LOCAL_STATE marks our own processes; nobody sets it",
}
NOT_SETTINGS = {
    "FRAUD_LOCAL_STATE": "the mark of our own processes",
    "FRAUD_RECORD": "a NumPy type in fraud/history",
}


def read_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Our variables that code names, but for those it sets: keys of a dict display, `environment["X"] = ...`."""
    sets = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            sets |= {id(key) for key in node.keys}
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            sets.add(id(node.slice))
    for node in ast.walk(tree):
        is_name = isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
        if is_name and id(node) not in sets:
            yield node.value, node.lineno


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def constants(path: str) -> dict[str, object]:
    """The literals that a module assigns to names."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    return {
        node.targets[0].id: ast.literal_eval(node.value) for node in assigned if isinstance(node.targets[0], ast.Name)
    }


def test_the_page_matches_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m fraud.settings --write`"


def test_the_check_sees_a_read_and_not_a_write() -> None:
    code = 'a.get("FRAUD_A"); b["FRAUD_B"]; {"FRAUD_C": 1}; c["FRAUD_D"] = 1; X = "FRAUD_E"; "FRAUD_F=1 is wrong"'
    assert {name for name, _ in read_names(ast.parse(code))} == {"FRAUD_A", "FRAUD_B", "FRAUD_E"}


def test_no_variable_is_read_outside_the_settings() -> None:
    reads = [
        f"{path.relative_to(ROOT)}:{line} names {name}"
        for folder in SHIPPED
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(("fraud/settings/", *EXCEPTIONS))
        for name, line in read_names(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not reads, "declare it in fraud/settings/ and read the group"


def test_every_variable_that_docs_and_deployments_name_exists() -> None:
    files = tracked(
        "*.md", "*.yaml", "*.yml", "*.sh", "*.json", "*.toml", "Makefile", "Dockerfile", "dags/**.py", "deploy/**.py"
    )
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        if not path.relative_to(ROOT).as_posix().startswith("tests/")
        for name in NAME.findall(path.read_text(encoding="utf-8"))
        if name not in names() | NOT_SETTINGS.keys() | {"FRAUD_X"}  # FRAUD_X: any of them
    }
    assert len(files) > 40 and not unknown


def test_the_dags_defaults_are_those_of_the_page() -> None:
    defaults = constants("dags/plugins/fraud_airflow/pipeline.py")["DEFAULTS"]
    settings = PipelineSettings.from_environment({})
    assert defaults == {field: getattr(settings, field) for field in PipelineSettings.variables()}
    assert {variable.name for _, variable in PipelineSettings.variables().values()} == {
        f"FRAUD_{field.upper()}" for field in PipelineSettings.variables()
    }


def test_the_dags_read_every_setting_listed_for_them() -> None:
    """With the page's default beside the name, wherever the reader has one."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "dags").rglob("*.py")))
    for field, variable in SchedulerSettings.variables().values():
        assert f'"{variable.name}"' in code
        if field.default:
            assert re.search(rf'"{variable.name}"\)?,? (or )?"{re.escape(str(field.default))}"', code), variable.name


SECRETS = {
    "FRAUD_HISTORY_URL", "FRAUD_API_KEY_HASHES", "FRAUD_DECISIONS_KEY", "FRAUD_ALERT_WEBHOOK",
    "FRAUD_ALERT_SMTP_PASSWORD", "FRAUD_MLFLOW_BACKEND",
}  # fmt: skip


def test_secrets_are_not_part_of_a_repr() -> None:
    hidden = {
        variable.name
        for group in GROUPS
        for field in dataclasses.fields(group)  # type: ignore[arg-type]
        if field.name in group.variables() and not field.repr
        for _, variable in [group.variables()[field.name]]
    }
    secret = {variable.name for group in GROUPS for _, variable in group.variables().values() if variable.is_secret}
    assert hidden == secret == SECRETS
