"""The arrows of the design: who may import whom, what no module may do, and what no tracked file may name."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = "fraud"
SHARED = "cluster"  # below the role folders: what every Ray job needs
ROLES = ("ray_jobs", "tuning", "serve_app", "monitoring", "dags", "deploy", "benchmarks")
SHIPPED = (CORE, SHARED, "ray_jobs", "tuning", "serve_app", "monitoring", "dags", "deploy")

FOREIGN_TO_CORE = {"ray", "fastapi", "starlette", "airflow", "evidently", SHARED, *ROLES}
FOREIGN_TO_DAG_PARSING = {"ray", "torch", "mlflow", CORE, SHARED, *ROLES}
# Libraries that one place alone may import (patterns below the repository root).
ONLY_IN = {
    "mlflow": ("fraud/registry/runs.py", "fraud/registry/versions.py", "deploy/mlflow_page.py"),
    "numba": ("fraud/*kernels.py",),
    "evidently": ("monitoring/drift/*.py",),
}
PRIVATE_HOME = "cluster/ray_private.py"
# What runs code found in a file.
UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "joblib", "cloudpickle", "dill", "shelve", "marshal"}
UNSAFE_CALLS = {"read_pickle", "unsafe_load", "full_load", "eval", "exec"}
MODEL_FLAVOURS = {"pyfunc", "sklearn", "pytorch"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
# What the serving replica has no use for and would pay for in start-up time and memory.
HEAVY = ("torch", "sklearn", "matplotlib", "mlflow", "ray", "evidently")
LONGEST_MODULE = 500
MOST_MODULES = 12  # in a folder, beside its __init__.py
# The packages of the core, lowest floor first: an arrow only ever points down. A `__main__` stands above them all.
FLOORS = (
    {"errors", "counts"},
    {"days", "configuration"},
    {"settings"},
    {"cli"},
    {"schema", "metrics"},
    {"data", "thresholds"},
    {"labels"},
    {"history"},
    {"detectors"},
    {"scoring"},
    {"judging", "training"},
    {"registry"},
)

# Spelt in pieces so that this file does not name what it forbids.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("registry", "npmjs", "org"),
        ("conda", "anaconda", "org"),
        ("deb", "debian", "org"),
        ("proxy", "golang", "org"),
    )
)
MACHINE_PATH = re.compile(r"(?<![\w.~*/-])/(?:" + "|".join(("work", "opt", "root")) + r")/[\w.]")


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SHIPPED_MODULES = [path for folder in SHIPPED for path in modules(folder)]


@functools.cache  # nearly every test below reads nearly every module
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(nodes: Iterator[ast.AST], package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Top-level names that import statements among `nodes` bring in, each with its line."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield (base[0] if base else (node.module or "").split(".")[0]), node.lineno
        elif isinstance(node, ast.Call) and name_of(node.func) in {"import_module", "__import__"}:
            named = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield from ((str(value).split(".")[0], node.lineno) for value in named)


def imports_anywhere(path: Path) -> list[tuple[str, int]]:
    return list(imported(ast.walk(parse(path)), path.relative_to(ROOT).parent.parts))


def imports_at_import_time(path: Path) -> list[tuple[str, int]]:
    return list(imported(walk_outside_functions(parse(path)), path.relative_to(ROOT).parent.parts))


def walk_outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from walk_outside_functions(child)


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    values = [entry.value for entry in call.keywords if entry.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def has_safe_loader(call: ast.Call, tree: ast.Module) -> bool:
    """Whether `yaml.load(..., Loader=X)` names SafeLoader or a class of this module that derives from it."""
    loaders = {name_of(entry.value) for entry in call.keywords if entry.arg == "Loader"}
    derived = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "SafeLoader" in {name_of(base) for base in node.bases}
    }
    return bool(loaders) and loaders <= derived | {"SafeLoader"}


def arrows(path: Path) -> set[str]:
    """The modules of ours that a module imports, at import time or later, type-checking imports too."""
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
    return {name for name in names if name in MODULES}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for folder in (*SHIPPED, "benchmarks") for path in modules(folder)}


def room(module: str) -> str:
    return module.split(".")[1]


def test_there_is_something_to_check():
    assert len(modules(CORE)) >= 5
    assert len(SHIPPED_MODULES) >= 8


def test_the_checks_see_hidden_imports():
    source = "def f():\n    import ray.serve\n    from . import forest\n    import_module('evidently.presets')\n"
    tree = ast.parse(source)
    assert list(imported(ast.walk(tree), ("fraud",))) == [("ray", 2), ("fraud", 3), ("evidently", 4)]
    assert list(imported(walk_outside_functions(tree), ("fraud",))) == []


@pytest.mark.parametrize("path", modules(CORE), ids=relative)
def test_core_imports_no_platform_and_no_role(path: Path):
    names = imports_anywhere(path)
    assert not [f"{relative(path)}:{line} imports {name}" for name, line in names if name in FOREIGN_TO_CORE]


def test_arrows_of_the_core_only_point_down():
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    core = [name for name in MODULES if name.startswith(f"{CORE}.") and not name.endswith(".__main__")]
    assert {room(name) for name in core} == set(floor_of), "name the floor of every package"
    upward = [
        f"{name} imports {other}"
        for name in core
        for other in arrows(MODULES[name])
        if other.startswith(f"{CORE}.") and room(other) != room(name) and floor_of[room(other)] >= floor_of[room(name)]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    """Kahn's algorithm: take away what imports nothing that is left; what stays is in a circle or above one."""
    left = {name: arrows(path) - {name} for name, path in MODULES.items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    while unused := left.keys() - set().union(*left.values()):  # what is only above a circle
        left = {name: others for name, others in left.items() if name not in unused}
    assert sorted(left) == []


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("ray_jobs.streaming", "ray_jobs.score"),
        ("serve_app.scoring", "serve_app.batch"),
        ("serve_app.metrics", "serve_app.http"),
        ("serve_app.decisions", "serve_app.history"),
        ("serve_app.decisions", "serve_app.model"),
        ("serve_app.history", "serve_app.model"),
    ],
)
def test_what_a_package_uses_does_not_import_it(lower: str, upper: str):
    used = {other for name, path in MODULES.items() if f"{name}.".startswith(f"{upper}.") for other in arrows(path)}
    assert [name for name in used if f"{name}.".startswith(f"{lower}.")]
    below = [name for name in MODULES if f"{name}.".startswith(f"{lower}.")]
    assert not [f"{name} imports {o}" for name in below for o in arrows(MODULES[name]) if o.startswith(f"{upper}.")]


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=relative)
def test_a_folder_holds_few_modules(folder: Path):
    names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(names) <= MOST_MODULES, names


@pytest.mark.parametrize("folder", ROLES)
def test_roles_do_not_import_each_other(folder: str):
    # What measures the others imports them; nobody imports what measures.
    others = set() if folder == "benchmarks" else set(ROLES) - {folder}
    violations = [
        f"{relative(path)}:{line} imports {name}"
        for path in modules(folder)
        for name, line in imports_anywhere(path)
        if name in others
    ]
    assert not violations


def test_what_roles_share_imports_no_role():
    assert not [path for path in modules(SHARED) for name, _ in imports_anywhere(path) if name in ROLES]


@pytest.mark.parametrize("path", SHIPPED_MODULES, ids=relative)
def test_private_modules_of_libraries_have_one_home(path: Path):
    """docs/security.md lists what leans on them, and how each effect is checked."""
    modules_named = [
        node.module
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module != "__future__"
    ]
    private = [name for name in modules_named if any(part.startswith("_") for part in name.split("."))]
    assert not private or relative(path) == PRIVATE_HOME


def test_dags_parse_without_our_code_or_heavy_libraries():
    violations = [
        f"{relative(path)}:{line} imports {name}"
        for path in modules("dags")
        for name, line in imports_at_import_time(path)
        if name in FOREIGN_TO_DAG_PARSING
    ]
    assert not violations


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_has_one_home(library: str):
    violations = [
        f"{relative(path)}:{line} imports {library}"
        for path in SHIPPED_MODULES
        if not any(fnmatch(relative(path), home) for home in ONLY_IN[library])
        for name, line in imports_anywhere(path)
        if name == library
    ]
    assert not violations


@pytest.mark.parametrize("path", SHIPPED_MODULES, ids=relative)
def test_nothing_loads_code_from_a_file(path: Path):
    violations = [f"line {line}: imports {name}" for name, line in imports_anywhere(path) if name in UNSAFE_MODULES]
    tree = parse(path)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        owner = name_of(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        # `model.eval()` is torch's switch to inference; the builtin has no owner.
        if name in UNSAFE_CALLS and not (name == "eval" and owner):
            violations.append(f"line {node.lineno}: calls {name}")
        if name == "load" and owner == "torch" and keyword(node, "weights_only") is not True:
            violations.append(f"line {node.lineno}: torch.load without weights_only=True")
        if name == "load_model" and owner in MODEL_FLAVOURS:
            violations.append(f"line {node.lineno}: loads MLflow's own model format")
        if name == "load" and owner == "yaml" and not has_safe_loader(node, tree):
            violations.append(f"line {node.lineno}: yaml.load without a loader derived from SafeLoader")
        if name == "load" and owner in {"np", "numpy"} and keyword(node, "allow_pickle") not in (None, False):
            violations.append(f"line {node.lineno}: numpy.load with allow_pickle")
    assert not violations


@pytest.mark.parametrize("path", SHIPPED_MODULES, ids=relative)
def test_module_is_small_named_and_quiet(path: Path):
    tree = parse(path)
    assert ast.get_docstring(tree), "the first line says what the module does"
    assert path.stem not in VAGUE_NAMES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE
    prints = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == "print"]
    assert not prints, f"prints at lines {prints}"
    assert "sys.path" not in {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", SHIPPED_MODULES, ids=relative)
def test_importing_defines_names_only(path: Path):
    """No bare call runs when a module is imported, but for the `__main__` guard."""
    calls = [
        f"{relative(path)}:{node.lineno}"
        for node in parse(path).body
        if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or isinstance(node, ast.For | ast.While | ast.With)
    ]
    assert not calls


@pytest.mark.parametrize("module", ["fraud.scoring.engine", "fraud.scoring.bundle", "fraud.schema", "fraud.settings"])
def test_serving_side_imports_nothing_heavy(module: str):
    code = f"import sys, {module}; sys.stdout.write(' '.join(n for n in {HEAVY!r} if n in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def tracked_text() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_tracked_file_names_a_registry_host_or_a_path_of_one_machine():
    violations = []
    for name, text in tracked_text():
        for number, line in enumerate(text.splitlines(), start=1):
            if any(host in line for host in REGISTRY_HOSTS) or MACHINE_PATH.search(line):
                violations.append(f"{name}:{number}: {line.strip()[:120]}")
    assert not violations


def test_lock_pins_everything_exactly():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(entries) > 100
    assert [line for line in entries if not re.match(r"^[\w.\[\]-]+==[\w.!]+( |$)", line)] == []
