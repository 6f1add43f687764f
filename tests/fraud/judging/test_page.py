"""Report pages: what comes from the data is text in them, and installed packages bring their templates."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from jinja2 import DictLoader, UndefinedError

from fraud.judging import page

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("fraud", "cluster", "ray_jobs", "tuning", "serve_app", "monitoring", "deploy")
TEMPLATES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("templates/*") if path.is_file())
HOSTILE = "<script>alert('x')</script>\"\x00\ud800"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    """The environment that renders every page, with `text.html` as its only template of its own."""
    environment = page._environment("fraud.judging").overlay()
    loader = environment.loader
    text = '{% import "macros.html" as ui %}{{ ui.badge("ok", value) }}{{ ui.picture("data:", value) }}{{ value }}'
    monkeypatch.setattr(loader, "loaders", [DictLoader({"text.html": text}), *loader.loaders])
    return environment


def test_values_are_escaped_in_text_attributes_and_macros(environment):
    text = environment.get_template("text.html").render(value=HOSTILE)
    assert text.count("&lt;script&gt;") == 3 and "<script" not in text
    assert 'alt="&lt;script&gt;' in text and '"\x00' not in text and text.count("&#34;") == 3
    assert text.encode("utf-8"), "a lone surrogate would not be encoded"


def test_a_value_that_is_not_there_is_an_error(environment):
    with pytest.raises(UndefinedError, match="value"):
        environment.get_template("text.html").render()


def test_no_template_and_no_module_marks_a_value_as_safe():
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    unsafe = re.compile(r"\|\s*safe\b|Markup\(|autoescape (false|False)|autoescape=False")
    assert len(TEMPLATES) >= 10
    assert not [str(path) for path in [*TEMPLATES, *modules] if unsafe.search(path.read_text(encoding="utf-8"))]


def test_html_is_written_in_templates():
    opening = re.compile(r"<(?:div|table|tr|td|h1|h2|h3|p|section|style|li|ul|span|img)\b[^>]*>")
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert not [str(path) for path in modules if opening.search(path.read_text(encoding="utf-8"))]


def test_an_installed_package_has_its_templates():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in TEMPLATES:
        package, *parts = path.relative_to(ROOT).parts
        assert any(fnmatch("/".join(parts), pattern) for pattern in data.get(package, ())), path


def test_shares_have_as_many_digits_as_they_deserve():
    shares = (None, 0.0, 1e-18, 0.00037, 0.0095, 0.123)
    assert [page.percent(share) for share in shares] == ["–", "0.0%", "0.0%", "0.037%", "0.9%", "12.3%"]
    assert page.number(None) == "–" and page.points(-0.034) == "-3.4 pts" and page.signed(0.2) == "+0.200"
    assert len(page.short("x" * 500)) == 80
