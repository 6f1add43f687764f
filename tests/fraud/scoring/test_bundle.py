"""A bundle scores as the detector it was saved from, and anything altered, missing or malformed is refused by name."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from fraud.errors import BundleError
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from tests.fraud.conftest import Fitted


@pytest.fixture
def folder(five_columns: Fitted, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "bundle", five_columns.detector, metrics={"joined": {"average_precision": 0.5}})
    return tmp_path / "bundle"


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file and, as an attacker would, its hash in the manifest too."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_loaded_detector_scores_the_same(folder: Path, five_columns: Fitted) -> None:
    loaded = bundle.load(folder)
    rows = five_columns.rows.head(500)
    pd.testing.assert_frame_equal(Engine(loaded.detector).score_frame(rows), five_columns.engine.score_frame(rows))
    assert loaded.detector.threshold == five_columns.detector.threshold
    assert loaded.detector.schema == five_columns.detector.schema
    assert loaded.manifest["metrics"]["joined"]["average_precision"] == 0.5


def test_entity_history_travels_with_the_bundle(card_detector: Fitted, tmp_path: Path) -> None:
    bundle.save(tmp_path / "cards", card_detector.detector)
    loaded = bundle.load(tmp_path / "cards").detector
    for ours, theirs in zip(loaded.history, card_detector.detector.history, strict=True):
        assert list(ours.keys) == list(theirs.keys)
        for name in ("events", "starts", "frauds", "fraud_starts"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    rows = card_detector.rows.tail(100)
    rows = rows.assign(TX_DATETIME=rows["TX_DATETIME"] + pd.Timedelta(days=30))
    pd.testing.assert_frame_equal(Engine(loaded).score_frame(rows), card_detector.engine.score_frame(rows))


def test_manifest_says_where_the_model_came_from(folder: Path, five_columns: Fitted) -> None:
    manifest = bundle.load(folder).manifest
    assert manifest["format_version"] == bundle.FORMAT_VERSION
    assert manifest["schema_fingerprint"] == five_columns.detector.schema.fingerprint
    assert manifest["libraries"]["scikit-learn"]
    assert set(manifest["files"]) == {p.name for p in folder.iterdir()} - {"manifest.json"}


def test_loading_imports_neither_torch_nor_scikit_learn(folder: Path) -> None:
    code = (
        "import sys; from fraud.scoring import bundle; from fraud.scoring.engine import Engine; "
        f"Engine(bundle.load({str(folder)!r}).detector).warm_up(); "
        "print([m for m in ('torch', 'sklearn', 'matplotlib', 'mlflow', 'ray') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["arrays.safetensors", "detector.json", "schema.yaml", "threshold.json"])
def test_an_altered_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not match its SHA-256"):
        bundle.load(folder)


@pytest.mark.parametrize("name", ["arrays.safetensors", "threshold.json"])
def test_truncated_and_missing_files_are_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="does not match"):
        bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"lacks '{name}'"):
        bundle.load(folder)


@pytest.mark.parametrize("version", [1, 99])
def test_unknown_format_is_refused_with_the_remedy(folder: Path, version: int) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = version
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=rf"format_version {version}.*upgrade"):
        bundle.load(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 2}', '{"format_version": 2, "files": {}}'])
def test_broken_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundle.load(folder)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        bundle.load(tmp_path)


def test_a_consistent_forgery_is_caught_by_the_registered_digest(folder: Path) -> None:
    registered = bundle.load(folder).sha256
    threshold = json.loads((folder / "threshold.json").read_text()) | {"value": 0.99}
    rewrite(folder, "threshold.json", json.dumps(threshold).encode())
    assert bundle.load(folder).detector.threshold.value == 0.99  # consistent in itself ...
    with pytest.raises(BundleError, match="holds another bundle"):  # ... but not what was registered
        bundle.load(folder, expected_sha256=registered)


@pytest.mark.parametrize(
    ("array", "index", "value", "part"),
    [
        ("forest.nodes", 0, 0xFFFFF << 12, "forest"),
        ("forest.nodes", 0, 99, "forest"),
        ("forest.nodes", -1, 0xFFFFFFFF << 32, "forest"),
        ("forest.roots", 0, 2**31, "forest"),
        ("autoencoder.sizes", 1, 4000, "autoencoder"),
        ("features.starts", -1, 4000, "autoencoder"),
        ("calibration.joint.knots", 0, 1e9, "calibration"),
    ],
)
def test_arrays_that_would_lead_a_compiled_loop_astray_are_refused(
    folder: Path, array: str, index: int, value: float, part: str
) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    arrays[array] = arrays[array].copy()
    arrays[array][index] = value
    save_file(arrays, folder / "forged")
    rewrite(folder, "arrays.safetensors", (folder / "forged").read_bytes())
    with pytest.raises(BundleError, match=part):
        bundle.load(folder)


def test_missing_array_and_garbage_are_refused(folder: Path) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    del arrays["forest.nodes"]
    save_file(arrays, folder / "forged")
    rewrite(folder, "arrays.safetensors", (folder / "forged").read_bytes())
    with pytest.raises(BundleError, match="malformed"):
        bundle.load(folder)
    rewrite(folder, "arrays.safetensors", b"not arrays at all")
    with pytest.raises(BundleError, match="not a safetensors file"):
        bundle.load(folder)


def test_file_names_cannot_climb_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../outside"] = hashlib.sha256(b"x").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"lacks '\.\./outside'"):
        bundle.load(folder)


def test_saving_again_replaces_whole_and_leaves_nothing_behind(folder: Path, five_columns: Fitted) -> None:
    (folder / "stale").write_text("from an older bundle")
    bundle.save(folder, five_columns.detector, metrics={"second": True})
    assert bundle.load(folder).manifest["metrics"] == {"second": True}
    assert not (folder / "stale").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["bundle"]


def test_saving_does_not_overwrite_a_strangers_folder(tmp_path: Path, five_columns: Fitted) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(BundleError, match="not a bundle"):
        bundle.save(tmp_path, five_columns.detector)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
