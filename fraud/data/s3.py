"""S3 as we use it: s3fs without remembered listings, with faults in one line, and with files made on condition.

The one module that uses private parts of s3fs and fsspec, read in 2026.9.0. It overrides `_call_s3`, through which
every request goes, and `_mkdir` and `_makedirs`. It discards a stream by `autocommit`, `discard`, `closed`. It relies
on `_filter_kwargs` to pass IfMatch and IfNoneMatch on. See docs/security.md, "Private parts of libraries".
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
_OF_A_STREAM = ("autocommit", "discard", "closed")
_NO_ETAG = '"00000000000000000000000000000000"'
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the file AWS_SHARED_CREDENTIALS_FILE)"
_CONDITIONS = (
    "use a store that keeps conditional writes (If-None-Match, If-Match), which keep two jobs from writing one day at "
    "once (Amazon's, MinIO, SeaweedFS, Ceph)"
)
# A store that is away is said to be away after seconds: who can wait longer (the decision log) tries again by itself.
_CONFIG = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}}


class S3(S3FileSystem):
    """S3 or a store that speaks it; see `fraud.data.filesystems.of`. Makes no bucket, whatever is written.

    Raises ObjectStoreError or ObjectStoreRefusedError in place of botocore's errors; FileNotFoundError as fsspec does;
    LibraryChangedError where s3fs has no method of a name that is overridden here.
    """

    retries = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in _OVERRIDDEN:
            if not inspect.iscoroutinefunction(getattr(S3FileSystem, name, None)):
                raise s3fs_changed(f"has no method S3FileSystem.{name}, so faults of S3 would pass unexplained")
        super().__init__(*args, **{"config_kwargs": _CONFIG, **kwargs})
        self._has_conditions: set[tuple[str, str]] = set()  # (bucket, condition) that were seen to hold

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        try:
            return await super()._call_s3(method, *akwarglist, **kwargs)
        except (OSError, BotoCoreError, ClientError) as error:
            explained = _told(error, kwargs.get("Bucket", ""))
            if explained is error:
                raise
            raise explained from error

    call_s3 = sync_wrapper(_call_s3)

    async def _mkdir(self, path: str, *_: Any, **__: Any) -> None:
        """Nothing: folders need none, and a bucket is made by whoever says who may read it."""

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing; see _mkdir."""

    mkdir, makedirs = sync_wrapper(_mkdir), sync_wrapper(_makedirs)

    def path_of(self, url: str) -> str:
        """Bucket and key, as the other methods take them."""
        return str(self._strip_protocol(url))

    def check(self, path: str) -> None:
        """Raise ObjectStoreError where the bucket of `path` is missing, refused or cannot be reached."""
        bucket = self.split_path(path)[0]
        try:
            self.call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            raise _no_bucket(bucket) from None

    def put_if(self, path: str, content: bytes, etag: str | None) -> str | None:
        """Write a file if it still is what `etag` says, or, with None, if there is none; returns the new ETag.

        Returns None where the condition does not hold. Raises ObjectStoreError where the store knows no conditions, or
        ignores them.
        """
        name, value = ("IfNoneMatch", "*") if etag is None else ("IfMatch", etag)
        written = self._put_if(path, content, {name: value})
        bucket = self.split_path(path)[0]
        if written is not None and (bucket, name) not in self._has_conditions:
            # A condition that s3fs or the store drops would let two jobs hold one lock: try one that cannot hold.
            if self._put_if(path, content, {name: "*" if etag is None else _NO_ETAG}) is not None:
                with suppress(ObjectStoreError, OSError):
                    self.rm_file(path)
                raise ObjectStoreError(
                    f"the S3 store {_place()} wrote {path} against the condition {name}: {_CONDITIONS}"
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
                raise ObjectStoreError(f"the S3 store {_place()} knows no conditional writes: {_CONDITIONS}") from None
            raise

    def etag(self, path: str) -> str | None:
        """The ETag of a file; None where there is none."""
        bucket, key, _ = self.split_path(path)
        try:
            return str(self.call_s3("head_object", Bucket=bucket, Key=key)["ETag"])
        except FileNotFoundError:
            return None

    @contextmanager
    def write_atomically(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write to, which appears when the block ends well, and not at all when it raises.

        A killed process leaves at most an unfinished upload, which nobody can read. Raises LibraryChangedError before
        anything is written where s3fs cannot discard a stream as in the version read.
        """
        names = {*dir(S3File), *inspect.signature(S3File.__init__).parameters}
        if missing := [name for name in _OF_A_STREAM if name not in names]:
            raise s3fs_changed(f"has no {', '.join(missing)} of S3File, so half a file could appear")
        stream = self.open(path, "wb")
        try:
            yield stream
            stream.close()
        except BaseException:
            stream.autocommit = False  # or closing it, now or by the garbage collector, would publish the half
            with suppress(Exception):  # the fault that counts is on its way
                stream.discard()
            stream.closed = True
            raise


def s3fs_changed(change: str) -> LibraryChangedError:
    """The error to raise where s3fs is not what it was in the version read."""
    return library_changed("s3fs", _VERSION_READ, change)


def _code(error: BaseException | None) -> str:
    """The code of S3's answer, which s3fs keeps as the cause."""
    while error is not None:
        if isinstance(error, ClientError):
            return str(error.response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _place() -> str:
    return f"at {ENDPOINT}={os.environ[ENDPOINT]}" if os.environ.get(ENDPOINT) else "of Amazon (no AWS_ENDPOINT_URL)"


def _no_bucket(bucket: str) -> ObjectStoreError:
    return ObjectStoreError(
        f"the S3 store {_place()} has no bucket {bucket!r}: make it, or name another in the s3:// address"
    )


def _told(error: Exception, bucket: str) -> Exception:
    code = _code(error)
    if isinstance(error, ObjectStoreError):
        return error
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return ObjectStoreRefusedError(f"there are no keys for the S3 store {_place()}: set {_KEYS}")
    if code == "NoSuchBucket":
        return _no_bucket(bucket)
    if isinstance(error, PermissionError) or code in ("403", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return ObjectStoreRefusedError(
            f"the S3 store {_place()} refuses bucket {bucket!r} to these keys ({code or error}): check {_KEYS}, and "
            "what the bucket's policy lets them do"
        )
    if isinstance(error, HTTPClientError | BotoCoreError):
        return ObjectStoreError(
            f"the S3 store {_place()} does not answer ({type(error).__name__}): check {ENDPOINT}, AWS_REGION and that "
            "the store runs"
        )
    return error
