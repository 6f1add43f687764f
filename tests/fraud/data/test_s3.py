"""Private parts of s3fs that are gone: the file system is not made, or the file not begun, and the error says why."""

from __future__ import annotations

import pytest
from s3fs import S3FileSystem

from fraud.data import s3
from fraud.data.s3 import S3
from fraud.errors import LibraryChangedError


def filesystem() -> S3:
    return S3(key="key", secret="secret", endpoint_url="http://127.0.0.1:1", skip_instance_cache=True)


@pytest.mark.parametrize("name", ["_call_s3", "_mkdir", "_makedirs"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_method_that_is_overridden_must_be_there_and_asynchronous(
    name: str, is_there: bool, monkeypatch: pytest.MonkeyPatch
):
    if is_there:
        monkeypatch.setattr(S3FileSystem, name, lambda self: None)
    else:
        monkeypatch.setattr(S3FileSystem, name, None)
    with pytest.raises(LibraryChangedError, match=rf"has no method S3FileSystem\.{name}, .* for s3fs 2026\.9\.0"):
        filesystem()


@pytest.mark.parametrize("name", ["discard", "closed"])
def test_a_stream_that_cannot_be_discarded_is_not_opened(name: str, monkeypatch: pytest.MonkeyPatch):
    class Changed:
        autocommit = discard = closed = None

    delattr(Changed, name)
    monkeypatch.setattr(s3, "S3File", Changed)
    with pytest.raises(LibraryChangedError, match=f"has no {name} of S3File"), filesystem().write_atomically("a/b"):
        raise AssertionError("it is open")
