"""`make sbom` names every pinned package, of both locks, and asks nobody."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def test_every_pinned_package_is_in_the_bill_of_materials(tmp_path: Path):
    command = ["make", "--no-print-directory", "sbom", f"AUDIT_VENV={tmp_path / 'venv'}", f"SBOM={tmp_path / 'sbom'}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=600)
    for name in ("requirements", "requirements-airflow"):
        lines = (ROOT / f"{name}.lock").read_text().splitlines()
        pinned = {tuple(line.split()[0].split("==")) for line in lines if "==" in line and not line.startswith("#")}
        parts = json.loads((tmp_path / "sbom" / f"{name}.cdx.json").read_text())["components"]
        assert {(part["name"], part["version"]) for part in parts} == pinned
        assert pinned, name
