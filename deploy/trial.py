"""A first try of the image: an API key and a small model, made where nobody configured any.

    docker run -p 8000:8000 IMAGE
    python -m deploy.trial --out bundle     # the small model alone

The model learns from synthetic transactions. Its bundle is marked as a trial, so /model and every answer say so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.demo import DEFAULT_SCHEMA, SEED_REQUEST
from deploy.local.services import Echo, Stack, StackError
from fraud.cli import examples, run_command
from fraud.settings import Settings, turn_telemetry_off
from fraud.settings.serving import API_KEY_FILE, KeySettings, ServedModelSettings

# Where the image looks for them (Dockerfile). A missing one counts as not configured; another path is somebody's wish.
IMAGE_BUNDLE, IMAGE_KEYS = "/model", "/run/secrets/api_keys"
ROWS = 8_000
CONFIG = {"forest": {"n_estimators": 50}, "autoencoder": {"epochs": 3}}


def is_asked(settings: Settings, environment: Mapping[str, str]) -> bool:
    """Whether to make a key and a model: FRAUD_MODE is trial, and neither model, registry nor key is configured."""
    keys, bundle = KeySettings.from_environment(environment), ServedModelSettings.from_environment(environment).bundle
    configured = (
        environment.get("MLFLOW_TRACKING_URI"),
        keys.hashes,
        _is_configured(keys.file, IMAGE_KEYS),
        _is_configured(bundle, IMAGE_BUNDLE),
    )
    return settings.mode == "trial" and not any(configured)


def _is_configured(path: str, of_image: str) -> bool:
    return bool(path) and (path != of_image or Path(path).exists())


def prepare(settings: Settings, echo: Echo) -> dict[str, str]:
    """Make the key and the model below FRAUD_STATE, unless they exist; return the variables that name them.

    Shows a new key once. Raises StackError if the model cannot be made.
    """
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = settings.state / "trial"
    folder.mkdir(mode=0o700, exist_ok=True)
    bundle, keys = folder / "bundle", folder / "api_keys"
    echo("TRIAL: no model, registry or API key is configured. A small model made from synthetic transactions answers.")
    echo("TRIAL: do not decide by it. FRAUD_MODE=production refuses to start like this.")
    if not bundle.exists():
        echo(f"making the model from {ROWS:,} synthetic transactions ...")
        command = [sys.executable, "-m", "deploy.trial", "--out", str(bundle)]
        ended = subprocess.run(
            command, env=Stack.read(settings).environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if ended.returncode != 0:
            raise StackError(f"the trial's model could not be made: {ended.stdout.strip()[-500:]}")
    if keys.exists():
        echo(f"the API key is the one of the first start; remove {keys} for another")
    else:
        echo(f"KEY={_new_key(keys)}   # the API key, shown only now")
        echo("curl http://127.0.0.1:8000/score -H 'Content-Type: application/json' -H \"X-API-Key: $KEY\" \\")
        echo(f"  -d '{json.dumps(SEED_REQUEST)}'")
    return {"FRAUD_BUNDLE": str(bundle), API_KEY_FILE: str(keys)}


def _new_key(file: Path) -> str:
    """Write a new key's hash to `file` and return the key."""
    key = secrets.token_urlsafe(32)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as written:
        written.write(f"{hashlib.sha256(key.encode()).hexdigest()} trial\n")
    return key


def make(folder: Path, rows: int = ROWS) -> None:
    """Train a small model on `rows` synthetic transactions and save it, marked as a trial, in `folder`."""
    from fraud.data import simulation
    from fraud.schema import Schema, validate
    from fraud.scoring import bundle
    from fraud.training import fitting
    from fraud.training.config import TrainConfig, from_mapping

    schema = Schema.load(DEFAULT_SCHEMA)
    config = from_mapping(TrainConfig, CONFIG)
    table = validate(simulation.transactions(rows), schema).rows
    detector, evaluation = fitting.fit_locally(table, schema, config)
    bundle.save(folder, detector, metrics=evaluation.metrics, config=config.to_dict(), is_trial=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.trial", description=__doc__, **examples("python -m deploy.trial --out bundle")
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle to write")
    arguments = parser.parse_args(argv)
    turn_telemetry_off()
    make(arguments.out)
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
