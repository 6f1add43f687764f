"""Which model a reference names."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraud.errors import RegistryError
from fraud.registry.models import open_model
from fraud.settings import Settings


@pytest.mark.parametrize("reference", ["champion", "challenger", "7"])
def test_a_folder_named_like_a_version_does_not_stand_for_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
):
    monkeypatch.setenv("FRAUD_ROOT", str(tmp_path))
    (tmp_path / reference).mkdir()
    here = Settings.from_environment()
    assert here.root == tmp_path
    with pytest.raises(RegistryError):
        open_model(reference, here)
