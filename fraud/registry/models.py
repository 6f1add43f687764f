"""Open a model by alias, version or bundle folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fraud.schema import Schema
from fraud.scoring import bundle
from fraud.scoring.bundle import Bundle
from fraud.settings import Settings

# A version whatever folders there are; `./champion` is a folder.
_ALIASES = ("champion", "challenger")


@dataclass(frozen=True)
class OpenModel:
    """A loaded model. name: the user's reference; folder: its bundle on this machine; number: its version, None for a
    bundle folder."""

    name: str
    folder: Path
    number: int | None
    bundle: Bundle


def open_model(reference: str, settings: Settings) -> OpenModel:
    """Load a model; fetch the version if it is not cached. Raises BundleError, ConfigError or RegistryError.

    reference: an alias, a version number, or the folder of a bundle.
    """
    folder, number = Path(settings.locate(reference)), None
    if reference in _ALIASES or reference.isdigit() or not folder.is_dir():
        from fraud.registry import versions  # imports MLflow, which a bundle folder does not need

        folder = versions.fetch(reference, settings)
        number = int(folder.name)
    return OpenModel(reference, folder, number, bundle.load(folder))


def schema_of(schema: str | None, settings: Settings, model: str = "champion") -> Schema:
    """The schema `schema` (a YAML file or a shipped name), or the model's schema if it is empty."""
    if schema:
        return Schema.load(settings.locate_yaml(schema))
    return open_model(model, settings).bundle.detector.schema
