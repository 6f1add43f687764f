"""The file system of a path or URL. All modules use this one, so S3 works the same everywhere."""

from __future__ import annotations

from typing import Any

import fsspec

from fraud.errors import ObjectStoreError

_S3 = ("s3", "s3a")


def of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    S3 is fraud.data.s3.S3; its ObjectStoreErrors name the setting to check. It finds server and keys as
    AWS clients do: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, or files.
    Raises ValueError or ImportError for an unknown kind of address.
    """
    if url.partition("://")[0] in _S3 and "://" in url:
        from fraud.data.s3 import S3  # importing it takes a second

        filesystem = S3(use_listings_cache=False)
        return filesystem, filesystem.path_of(url)
    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, path


def is_s3(filesystem: Any) -> bool:
    """Whether the store is S3: files appear atomically, and conditional writes work."""
    return "s3" in filesystem.protocol


def check(url: str, setting: str) -> None:
    """Raise ObjectStoreError, naming `setting`, if an s3:// URL cannot be reached or its bucket is missing."""
    filesystem, path = of(url)
    if is_s3(filesystem):
        try:
            filesystem.check(path)
        except ObjectStoreError as error:
            raise ObjectStoreError(f"{setting}={url}: {error}") from None
