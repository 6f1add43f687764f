"""The saved detector: an inert folder of arrays and JSON with a manifest that carries the SHA-256 of every file.

manifest.json   format, versions, commit, data and schema fingerprints, metrics, hashes
schema.yaml     the data contract          threshold.json      the decision threshold and its provenance
detector.json   names, settings, scalars   arrays.safetensors  every array

Nothing here can run code when it is loaded: no pickle, and every index that a compiled loop follows is checked first.
"""

from __future__ import annotations

import dataclasses
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

from fraud.detectors import tree_checks
from fraud.detectors.autoencoder_score import Autoencoder
from fraud.detectors.calibration import Calibration, Tail
from fraud.detectors.features import FeatureMap, raw_names
from fraud.detectors.forest import Forest
from fraud.detectors.head import Head
from fraud.errors import BundleError, FraudError
from fraud.history import definition as history_definition
from fraud.history import state as history_state
from fraud.schema import Schema
from fraud.scoring.detector import Detector
from fraud.settings import git_commit
from fraud.thresholds.selection import Threshold

FORMAT_VERSION = 2  # 2: windows of entity history, and perhaps a supervised head
MANIFEST = "manifest.json"
_LIBRARIES = ("numpy", "pandas", "scikit-learn", "torch", "numba", "ray", "mlflow")
_PARTS: dict[str, type] = {"features": FeatureMap, "forest": Forest, "autoencoder": Autoencoder}
_TAILS = ("forest", "autoencoder", "joint")
_HEAD_TAILS = ("head", "final")  # only with a head


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
) -> str:
    """Write a detector to `folder`, replacing a bundle that is there only once the new one is complete.

    metrics, windows, config: kept in the manifest as given (JSON types). reference_sha256: of the reference for drift
    that lies beside the bundle (fraud.registry.reference), which the manifest pins so. Returns the SHA-256 of the
    manifest. Raises BundleError when `folder` exists and is not a bundle.
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
            "files": files,
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True, default=str) + "\n")
        digest = _sha256(draft / MANIFEST)
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return digest


def load(folder: str | Path, *, expected_sha256: str | None = None) -> Bundle:
    """Read a bundle, after checking every file against the manifest, and the manifest against `expected_sha256` if
    given.

    Raises BundleError naming the file and the remedy when something is missing, altered, of an unknown format, or
    malformed.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    digest = _sha256(folder / MANIFEST)
    if expected_sha256 and digest != expected_sha256:
        raise BundleError(
            f"{folder / MANIFEST} has SHA-256 {digest[:12]}…, the registry recorded {expected_sha256[:12]}…: "
            "fetch it again"
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
    has_head = detector.head is not None
    weights = {name: getattr(detector.calibration, name) for name in ("forest_weight", "head_weight")}
    settings: dict[str, Any] = {**weights, "has_head": has_head}
    named: list[tuple[str, Any]] = [(name, getattr(detector, name)) for name in _PARTS]
    tails: tuple[str, ...] = _TAILS
    if has_head:
        named.append(("head", detector.head))
        tails += _HEAD_TAILS
    named += [(f"calibration.{name}", getattr(detector.calibration, name)) for name in tails]
    for prefix, part in named:
        for f in dataclasses.fields(part):
            value = getattr(part, f.name)
            if isinstance(value, np.ndarray):
                arrays[f"{prefix}.{f.name}"] = np.ascontiguousarray(value)
            else:
                settings[f"{prefix}.{f.name}"] = value
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

    def part(cls: type, prefix: str) -> Any:
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(
            **{n: arrays[f"{prefix}.{n}"] if f"{prefix}.{n}" in arrays else settings[f"{prefix}.{n}"] for n in names}
        )

    for key in ("features.names", "features.columns"):
        settings[key] = tuple(settings[key])
    settings["features.categories"] = {k: tuple(v) for k, v in settings["features.categories"].items()}
    has_head = bool(settings["has_head"])
    tails = {name: part(Tail, f"calibration.{name}") for name in _TAILS + (_HEAD_TAILS if has_head else ())}
    return Detector(
        schema=schema,
        history=history_state.from_arrays(arrays, history_definition.plans(schema)),
        calibration=Calibration(
            **tails,
            forest_weight=float(settings["forest_weight"]),
            head_weight=float(settings["head_weight"]),
        ),
        head=part(Head, "head") if has_head else None,
        threshold=Threshold.from_dict(json.loads((folder / "threshold.json").read_text())),
        **{name: part(cls, name) for name, cls in _PARTS.items()},
    )


def _check(detector: Detector, folder: Path) -> None:
    """Refuse arrays that would send a compiled loop, which checks no bounds, outside its memory."""
    f, t, a = detector.features, detector.forest, detector.autoencoder
    n_raw, n = len(f.names), len(a.center)
    outputs = int(a.sizes[0])
    layers = list(zip(a.sizes[:-1].tolist(), a.sizes[1:].tolist(), strict=True))
    lookup_ends = f.offsets + f.levels + 1
    sound = {
        "schema": tuple(raw_names(detector.schema)[0]) == tuple(f.names),
        "features": all(
            len(x) == n_raw
            for x in (f.columns, f.kinds, f.center, f.scale, f.typical, f.missing_output, f.offsets, f.levels)
        )
        and len(f.starts) == n_raw + 1
        and len(f.shares) == len(f.tables)
        and f.starts[0] == 0
        and bool((np.diff(f.starts) >= 0).all())
        and f.n_outputs > 0
        and bool((f.missing_output < f.n_outputs).all())
        and bool(((f.kinds != 3) | ((f.offsets >= 0) & (f.levels >= 0) & (lookup_ends <= len(f.tables)))).all())
        and bool(((f.kinds != 3) | (np.diff(f.starts) <= f.tables.shape[1])).all()),
        "forest": tree_checks.is_forest(t, f.n_outputs),
        "autoencoder": outputs == f.n_outputs == int(a.sizes[-1])
        and bool((a.sizes > 0).all())
        and len(a.weights) == sum(i * o for i, o in layers)
        and len(a.biases) == sum(o for _, o in layers)
        and 0 <= a.latent < len(layers)
        and n == outputs + (layers[a.latent][1] if a.with_latent else 0)
        and a.factors.shape == (len(a.log_weights), n, n)
        and a.shifts.shape == (len(a.log_weights), n)
        and len(a.log_weights) > 0,
        "calibration": all(
            len(tail.knots) == len(tail.evidence) > 0 and bool((np.diff(tail.knots) > 0).all())
            for tail in _tails(detector)
        ),
        "head": detector.head is None or tree_checks.is_head(detector.head, n_raw),
        "history": all(
            history_state.is_sound(state, plan)
            for state, plan in zip(detector.history, history_definition.plans(detector.schema), strict=True)
        ),
    }
    for name, is_sound in sound.items():
        if not is_sound:
            raise BundleError(f"bundle {folder} is malformed: its {name} arrays contradict one another; train it again")


def _tails(detector: Detector) -> list[Tail]:
    c = detector.calibration
    return [tail for tail in (c.forest, c.autoencoder, c.joint, c.head, c.final) if tail is not None]


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
    """Move the complete draft into place; a reader sees the old bundle or the new one, or for an instant none."""
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
