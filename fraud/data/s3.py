"""S3 by s3fs: no cached listings, one-line errors, conditional and atomic writes.

The one module that uses private parts of s3fs and fsspec, read in 2026.9.0. It overrides `_call_s3`, through which
every request goes, and `_mkdir` and `_makedirs`. It discards a stream by `autocommit`, `discard`, `closed`. It needs
`_filter_kwargs` to pass IfMatch and IfNoneMatch. See docs/security.md, "Private parts of libraries".
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import S3File

from fraud.errors import LibraryChangedError, ObjectStoreError, ObjectStoreRefusedError, library_changed

ENDPOINT = "AWS_ENDPOINT_URL"
_VERSION_READ = "2026.9.0"
_OVERRIDDEN = ("_call_s3", "_mkdir", "_makedirs")
_STREAM_ATTRIBUTES = ("autocommit", "discard", "closed")
_NO_ETAG = '"00000000000000000000000000000000"'
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the file AWS_SHARED_CREDENTIALS_FILE)"
_CONDITIONS = (
    "use a store with conditional writes (If-None-Match, If-Match), without which two jobs could write one day at "
    "once (Amazon's, MinIO, SeaweedFS, Ceph)"
)
# Fail within seconds if the store is away. Callers that can wait (the decision log) retry.
_CONFIG = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}}


class S3(S3FileSystem):
    """S3 or a compatible store; see `fraud.data.filesystems.of`. Never creates a bucket.

    Raises ObjectStoreError or ObjectStoreRefusedError instead of botocore's errors; FileNotFoundError as fsspec does;
    LibraryChangedError if s3fs lacks a method that is overridden here.
    """

    retries = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in _OVERRIDDEN:
            if not inspect.iscoroutinefunction(getattr(S3FileSystem, name, None)):
                raise s3fs_changed(f"has no method S3FileSystem.{name}, so faults of S3 would pass unexplained")
        super().__init__(*args, **{"config_kwargs": _CONFIG, **kwargs})
        self._has_conditions: set[tuple[str, str]] = set()  # (bucket, condition) that the store enforces, as tested

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        try:
            return await super()._call_s3(method, *akwarglist, **kwargs)
        except (OSError, BotoCoreError, ClientError) as error:
            translated = _translated(error, kwargs.get("Bucket", ""))
            if translated is error:
                raise
            raise translated from error

    call_s3 = sync_wrapper(_call_s3)

    async def _mkdir(self, path: str, *_: Any, **__: Any) -> None:
        """Do nothing: S3 has no folders, and whoever sets the permissions creates the bucket."""

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing; see _mkdir."""

    mkdir, makedirs = sync_wrapper(_mkdir), sync_wrapper(_makedirs)

    def path_of(self, url: str) -> str:
        """Bucket and key, as the other methods take them."""
        return str(self._strip_protocol(url))

    def check(self, path: str) -> None:
        """Raise ObjectStoreError if the bucket of `path` is missing, refused or cannot be reached."""
        bucket = self.split_path(path)[0]
        try:
            self.call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            raise _no_bucket(bucket) from None

    def put_if(self, path: str, content: bytes, etag: str | None) -> str | None:
        """Write a file if its ETag is still `etag` (None: if it does not exist); return the new ETag.

        Returns None if the condition fails. Raises ObjectStoreError if the store has no conditional writes or ignores
        them.
        """
        name, value = ("IfNoneMatch", "*") if etag is None else ("IfMatch", etag)
        written = self._put_if(path, content, {name: value})
        bucket = self.split_path(path)[0]
        if written is not None and (bucket, name) not in self._has_conditions:
            # If s3fs or the store drops conditions, two jobs could hold one lock: test one that must fail.
            if self._put_if(path, content, {name: "*" if etag is None else _NO_ETAG}) is not None:
                with suppress(ObjectStoreError, OSError):
                    self.rm_file(path)
                raise ObjectStoreError(
                    f"the S3 store {_address()} wrote {path} although the condition {name} failed: {_CONDITIONS}"
                )
            self._has_conditions.add((bucket, name))
        return written

    def _put_if(self, path: str, content: bytes, condition: dict[str, str]) -> str | None:
        bucket, key, _ = self.split_path(path)
        try:
            return str(self.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)["ETag"])
        except (OSError, ClientError) as error:
            if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey"):
                return None
            if _code(error) == "NotImplemented":
                raise ObjectStoreError(f"the S3 store {_address()} has no conditional writes: {_CONDITIONS}") from None
            raise

    def etag(self, path: str) -> str | None:
        """The ETag of a file; None if it does not exist."""
        bucket, key, _ = self.split_path(path)
        try:
            return str(self.call_s3("head_object", Bucket=bucket, Key=key)["ETag"])
        except FileNotFoundError:
            return None

    @contextmanager
    def write_atomically(self, path: str) -> Iterator[IO[bytes]]:
        """An open file that appears only if the block does not raise.

        A killed process leaves at most an unfinished upload, which nobody can read. Raises LibraryChangedError before
        writing if s3fs can no longer discard a stream.
        """
        names = {*dir(S3File), *inspect.signature(S3File.__init__).parameters}
        if missing := [name for name in _STREAM_ATTRIBUTES if name not in names]:
            raise s3fs_changed(f"has no {', '.join(missing)} of S3File, so half a file could appear")
        stream = self.open(path, "wb")
        try:
            yield stream
            stream.close()
        except BaseException:
            stream.autocommit = False  # else closing it, here or by the garbage collector, would publish half a file
            with suppress(Exception):  # the original error is raised below
                stream.discard()
            stream.closed = True
            raise


def s3fs_changed(change: str) -> LibraryChangedError:
    """The error for a change in s3fs since the version read."""
    return library_changed("s3fs", _VERSION_READ, change)


def _code(error: BaseException | None) -> str:
    """S3's error code, which s3fs keeps in the cause."""
    while error is not None:
        if isinstance(error, ClientError):
            return str(error.response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _address() -> str:
    return f"at {ENDPOINT}={os.environ[ENDPOINT]}" if os.environ.get(ENDPOINT) else "of Amazon (no AWS_ENDPOINT_URL)"


def _no_bucket(bucket: str) -> ObjectStoreError:
    return ObjectStoreError(
        f"the S3 store {_address()} has no bucket {bucket!r}: create it, or name another in the s3:// address"
    )


def _translated(error: Exception, bucket: str) -> Exception:
    code = _code(error)
    if isinstance(error, ObjectStoreError):
        return error
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return ObjectStoreRefusedError(f"no keys for the S3 store {_address()}: set {_KEYS}")
    if code == "NoSuchBucket":
        return _no_bucket(bucket)
    if isinstance(error, PermissionError) or code in ("403", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return ObjectStoreRefusedError(
            f"the S3 store {_address()} refuses bucket {bucket!r} to these keys ({code or error}): check {_KEYS}, and "
            "the bucket's policy"
        )
    if isinstance(error, HTTPClientError | BotoCoreError):
        return ObjectStoreError(
            f"the S3 store {_address()} does not answer ({type(error).__name__}): check {ENDPOINT}, AWS_REGION and "
            "that the store runs"
        )
    return error
