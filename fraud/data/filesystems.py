"""The file system behind a path or URL: every other module asks here, so that S3 behaves alike everywhere."""

from __future__ import annotations

from typing import Any

import fsspec

from fraud.errors import ObjectStoreError

_S3 = ("s3", "s3a")


def of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    S3 is our own S3FileSystem, whose faults are ObjectStoreErrors that name the setting to look at. It finds server and
    keys as every AWS client does: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, or files.
    Raises ValueError or ImportError for an address of no known kind.
    """
    if url.partition("://")[0] in _S3 and "://" in url:
        from fraud.data.s3 import S3  # takes a second, which only who uses it pays

        filesystem = S3(use_listings_cache=False)
        return filesystem, filesystem.path_of(url)
    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, path


def is_s3(filesystem: Any) -> bool:
    """Whether it is S3, where a file appears by one request, whole, and can be made on condition."""
    return "s3" in filesystem.protocol


def check(url: str, setting: str) -> None:
    """Raise ObjectStoreError, naming `setting`, where an s3:// URL cannot be reached, or its bucket is not there."""
    filesystem, path = of(url)
    if is_s3(filesystem):
        try:
            filesystem.check(path)
        except ObjectStoreError as error:
            raise ObjectStoreError(f"{setting}={url}: {error}") from None
