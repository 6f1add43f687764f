"""The saved detector: a folder of arrays and JSON, with a manifest that has the SHA-256 of each file.

manifest.json   format, versions, commit, data and schema fingerprints, metrics, hashes
schema.yaml     the data contract          threshold.json      the decision threshold and its provenance
detector.json   names, settings, scalars   arrays.safetensors  every array

Loading runs no code: there is no pickle, and every index for a compiled loop is checked.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import json
import shutil
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fraud.detectors import registry
from fraud.detectors.base import Stored
from fraud.detectors.calibration import Calibration, Tail
from fraud.detectors.features import FeatureMap, raw_names
from fraud.detectors.head import N_EVIDENCES, Head
from fraud.errors import BundleError, FraudError
from fraud.history import definition as history_definition
from fraud.history import state as history_state
from fraud.schema import Schema
from fraud.scoring.detector import Detector
from fraud.settings import git_commit
from fraud.thresholds.selection import Threshold

FORMAT_VERSION = 2  # 2: windows of entity history, and perhaps a supervised head
MANIFEST = "manifest.json"
TRIAL = "trial"  # in the manifest of a model that was made for a first try
_LIBRARIES = ("numpy", "pandas", "scikit-learn", "torch", "numba", "ray", "mlflow")
_FURTHER = "further_detectors"  # in detector.json if there are any, so that nobody scores without them


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. manifest: see `save`; sha256: of manifest.json, which covers every other file."""

    detector: Detector
    manifest: dict[str, Any]
    sha256: str


def save(
    folder: str | Path,
    detector: Detector,
    *,
    metrics: Mapping[str, Any] | None = None,
    data_fingerprint: str | None = None,
    windows: list[dict[str, Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    reference_sha256: str | None = None,
    is_trial: bool = False,
) -> str:
    """Write a detector to `folder`; an existing bundle is replaced once the new one is complete.

    metrics, windows, config: for the manifest (JSON types). reference_sha256: of the drift reference beside the bundle
    (fraud.registry.reference). is_trial: mark a model that was made for a first try: every server of it says so.
    Returns the SHA-256 of the manifest. Raises BundleError if `folder` exists and is not a
    bundle.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise BundleError(f"{folder} exists and is not a bundle: choose another folder, or empty it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        _write_parts(draft, detector)
        files = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
        manifest = {
            "format_version": FORMAT_VERSION,
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "python": sys.version.split()[0],
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "git_commit": git_commit(),
            "schema_name": detector.schema.name,
            "schema_fingerprint": detector.schema.fingerprint,
            "data_fingerprint": data_fingerprint,
            "windows": windows or [],
            "config": dict(config or {}),
            "metrics": dict(metrics or {}),
            "reference_sha256": reference_sha256,
            **({TRIAL: True} if is_trial else {}),
            "files": files,
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True, default=str) + "\n")
        digest = _sha256(draft / MANIFEST)
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return digest


def load(folder: str | Path, *, expected_sha256: str | None = None) -> Bundle:
    """Read a bundle. Checks every file against the manifest, and the manifest against `expected_sha256`.

    Raises BundleError, naming file and remedy, if something is missing, altered, malformed, or of an unknown format.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    digest = _sha256(folder / MANIFEST)
    if expected_sha256 and digest != expected_sha256:
        raise BundleError(
            f"{folder} holds another bundle (SHA-256 of its manifest {digest[:12]}…) than the one that the registry "
            f"recorded ({expected_sha256[:12]}…): it is of another model or registry, or it was replaced; fetch it "
            "again, and keep the state of each registry in a folder of its own (FRAUD_STATE)"
        )
    for name, expected in manifest["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BundleError(f"bundle {folder} lacks {name!r}: it is incomplete; fetch or train it again")
        if _sha256(path) != expected:
            raise BundleError(
                f"{path} does not match its SHA-256 in the manifest: it was altered or cut short; fetch it again"
            )
    try:
        detector = _read_parts(folder)
    except FraudError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError) as error:
        raise BundleError(f"bundle {folder} is malformed ({type(error).__name__}: {error}); train it again") from error
    _check(detector, folder)
    return Bundle(detector, manifest, digest)


def _write_parts(folder: Path, detector: Detector) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    weights = {name: getattr(detector.calibration, name) for name in ("forest_weight", "head_weight")}
    settings: dict[str, Any] = {**weights, "has_head": detector.head is not None}
    if further := [
        component.name for component in detector.components if type(component) in registry.extra_detectors()
    ]:
        settings[_FURTHER] = further
    for prefix, part in _parts(detector):
        for name, value in part.arrays().items():
            if isinstance(value, np.ndarray):
                arrays[f"{prefix}.{name}"] = np.ascontiguousarray(value)
            else:
                settings[f"{prefix}.{name}"] = value
    arrays |= history_state.to_arrays(detector.history)
    save_file(arrays, folder / "arrays.safetensors")
    (folder / "detector.json").write_text(json.dumps(settings, indent=2))
    (folder / "schema.yaml").write_text(detector.schema.to_yaml())
    (folder / "threshold.json").write_text(json.dumps(detector.threshold.to_dict(), indent=2))


def _read_parts(folder: Path) -> Detector:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / "arrays.safetensors")
    except SafetensorError as error:
        raise BundleError(
            f"{folder / 'arrays.safetensors'} is not a safetensors file ({error}); train it again"
        ) from error
    settings = json.loads((folder / "detector.json").read_text())
    schema = Schema.from_dict(yaml.safe_load((folder / "schema.yaml").read_text()))

    values: dict[str, dict[str, Any]] = {}  # {part: {field: array or setting}}
    for key, value in {**settings, **arrays}.items():
        prefix, _, name = key.rpartition(".")
        values.setdefault(prefix, {})[name] = value
    has_head, optional = bool(settings["has_head"]), set(settings.get(_FURTHER, []))
    if unknown := sorted(optional - {cls.name for cls in registry.extra_detectors()}):
        raise BundleError(f"bundle {folder} has the detector {unknown[0]!r}, which this version lacks: upgrade")
    if has_head:
        optional.add(Head.name)
    classes = [cls for cls in registry.DETECTORS if not cls.is_optional or cls.name in optional]
    tails = {name: Tail.from_arrays(values[f"calibration.{name}"]) for name in (*(c.name for c in classes), "joint")}
    return Detector(
        schema=schema,
        features=FeatureMap.from_arrays(values["features"]),
        history=history_state.from_arrays(arrays, history_definition.plans(schema)),
        components=tuple(cls.from_arrays(values[cls.name]) for cls in classes),
        calibration=Calibration(
            joint=tails.pop("joint"),
            detectors=tails,
            forest_weight=float(settings["forest_weight"]),
            head_weight=float(settings["head_weight"]),
            final=Tail.from_arrays(values["calibration.final"]) if has_head else None,
        ),
        threshold=Threshold.from_dict(json.loads((folder / "threshold.json").read_text())),
    )


def _parts(detector: Detector) -> list[tuple[str, Stored]]:
    """The stored parts, each with the prefix of its keys."""
    calibration = detector.calibration
    tails = {component.name: calibration.detectors[component.name] for component in detector.without_labels}
    tails["joint"] = calibration.joint
    if detector.head is not None:
        assert calibration.final is not None
        tails |= {detector.head.name: calibration.detectors[detector.head.name], "final": calibration.final}
    return [
        ("features", detector.features),
        *((component.name, component) for component in detector.components),
        *((f"calibration.{name}", tail) for name, tail in tails.items()),
    ]


def _check(detector: Detector, folder: Path) -> None:
    """Refuse inconsistent arrays. Compiled loops do not check bounds."""
    features = detector.features
    n_raw, n_inputs = len(features.names), features.n_outputs
    tails = [part for _, part in _parts(detector) if isinstance(part, Tail)]
    plans = history_definition.plans(detector.schema)
    sound = {
        "schema": tuple(raw_names(detector.schema)[0]) == tuple(features.names),
        "features": features.is_sound(),
        **{component.name: component.is_sound(n_inputs) for component in detector.without_labels},
        "calibration": all(tail.is_sound() for tail in tails),
        "head": detector.head is None or detector.head.is_sound(n_raw + N_EVIDENCES),
        "history": all(
            history_state.is_sound(state, plan) for state, plan in zip(detector.history, plans, strict=True)
        ),
    }
    for name, is_sound in sound.items():
        if not is_sound:
            raise BundleError(f"bundle {folder} is malformed: its {name} arrays contradict one another; train it again")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise BundleError(
            f"{folder} holds no {MANIFEST}: give the folder of a bundle that ray_jobs.train wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}): fetch or train the bundle again") from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format_version {version!r}; this version reads {FORMAT_VERSION}: "
            "upgrade, or train the bundle again"
        )
    if not isinstance(manifest.get("files"), dict) or "arrays.safetensors" not in manifest["files"]:
        raise BundleError(f"{path} lists no files: fetch or train the bundle again")
    return manifest


def _publish(draft: Path, folder: Path) -> None:
    """Move the complete draft into place. Readers see the old or the new bundle, or briefly none."""
    if folder.exists():
        old = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
        folder.replace(old)
        draft.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        draft.replace(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
