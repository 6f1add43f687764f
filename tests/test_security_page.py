"""docs/security.md: every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_it_names_exists():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 25
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"
    for threat in re.split(r"^### ", page.split("\n## Open")[0], flags=re.MULTILINE)[1:]:
        assert "\n- `tests/" in threat or threat.rstrip().endswith(("- none: a statement", "\n## Containers")), threat
