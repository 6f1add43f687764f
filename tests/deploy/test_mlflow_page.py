"""MLflow's pages open in the machine learning view and without the banner about telemetry; all else is MLflow's."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

from deploy import mlflow_page

ROOT = Path(__file__).parents[2]
# In a process of its own: MLflow's app is one per process, and other tests may use it.
ASK = """
import importlib, json, sys
from mlflow.server import app as pages
module, factory = sys.argv[1].split(":")
plain = pages.test_client().get("/").get_data(as_text=True)
pages._got_first_request = False
getattr(importlib.import_module(module), factory)()
client = pages.test_client()
reply = client.get("/")
health = client.get("/health").get_data(as_text=True)
print(json.dumps([plain, reply.get_data(as_text=True), dict(reply.headers), health]))
"""


def test_the_pages_start_with_our_defaults_and_the_keys_are_mlflows():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["mlflow.app"]
    done = subprocess.run(
        [sys.executable, "-c", ASK, declared["fraud"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    plain, page, headers, health = json.loads(done.stdout.splitlines()[-1])
    assert page.index("localStorage") < page.index("main.") and health == "OK"
    assert page.replace(mlflow_page._SCRIPT, "") == plain and "ETag" not in headers
    mlflow = importlib.util.find_spec("mlflow")
    assert mlflow is not None and mlflow.origin is not None
    scripts = Path(mlflow.origin).parent.glob("server/js/build/static/js/main.*.js")
    text = "".join(path.read_text(encoding="utf-8") for path in scripts)
    for key in mlflow_page.DEFAULTS:
        assert f'"{key.removesuffix("_v1")}"' in text
