"""Write one folder per day (fraud.data.partitions): staged, published atomically, verified on a rerun."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import posixpath
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import pyarrow as pa

from fraud.data import filesystems
from fraud.data.leases import Lease
from fraud.data.partitions import MANIFEST, QUARANTINE, folder_of, is_part, part_of, read_json
from fraud.errors import DataError, ObjectStoreError
from ray_jobs.score import publish
from ray_jobs.score.output import Collector, Job, completion, counts, made_otherwise

logger = logging.getLogger(__name__)

STAGING, RUNS, LOCKS = "_staging", "_runs", "_locks"
ALL_DAYS = "all-days"
# Stores without locks: a run whose staged files are older than this is dead.
_STALE = dt.timedelta(days=1)
_STAMP = "%Y%m%dT%H%M%S"


class DayFolders:
    """The output folder of a job, with one folder per day."""

    def __init__(self, job: Job, identity: Mapping[str, Any]) -> None:
        self._job = job
        self._identity = identity
        self._filesystem, root = filesystems.of(job.out)
        self._root = root.rstrip("/")
        self._key = job.date.isoformat() if job.date else ALL_DAYS
        content = json.dumps(identity, sort_keys=True).encode()
        self._record = f"{self._root}/{RUNS}/{hashlib.sha256(content).hexdigest()[:16]}.json"
        self._parts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self._learnt: dict[str, int] = defaultdict(int)
        self._stage = ""
        self.lease: Lease | None = None  # set by the caller if it holds one (S3)

    def existing_manifest(self) -> dict[str, Any] | None:
        """The manifest of a valid existing output of this job; None if there is work to do.

        Raises DataError if there is another output that may not be replaced.
        """
        if self._job.force:
            return None
        self._filesystem.invalidate_cache()
        if self._job.date:
            return self._valid_manifest(self._key)
        record = read_json(self._filesystem, self._record)
        if not record or any(self._valid_manifest(day) is None for day in record["days"]):
            return None
        return record

    def write(
        self, stream: Iterator[pa.Table], total: int | None, about: Mapping[str, Any], began: float
    ) -> dict[str, Any]:
        """Write the stream to the folder and return the manifest of the day, or of all days.

        about: further entries of the manifests. began: time.monotonic() at the start. Raises DataError if no row is
        good; the old output then stays.
        """
        self._clear()
        stamp = dt.datetime.now(dt.UTC).strftime(_STAMP)
        self._stage = f"{self._root}/{STAGING}/{self._key}.{stamp}.{uuid.uuid4().hex[:8]}"
        try:
            self._filesystem.makedirs(self._stage, exist_ok=True)
            collector = Collector(stream, total, self._put)
            for _ in collector.blocks():
                raise AssertionError("rows came that are in no part")
            collector.check_total()
            collector.check_other_days(self._job, about["day_zone"])
            collector.check_learnt(about["learnt_until"])
            return self._publish(collector, {**about, **completion(began)})
        except ObjectStoreError:  # its message names the remedy
            raise
        except OSError as error:
            raise DataError(
                f"--out {self._job.out} cannot be written: {error}; check the folder, its permissions and free space"
            ) from None
        finally:
            with suppress(ObjectStoreError):  # a later run removes the rest
                if self._filesystem.exists(self._stage):
                    self._filesystem.rm(self._stage, recursive=True)

    def _clear(self) -> None:
        """Remove files of dead runs: this job holds their lock, or they are old."""
        folder = f"{self._root}/{STAGING}"
        if not self._filesystem.isdir(folder):
            return
        newest = (dt.datetime.now(dt.UTC) - _STALE).strftime(_STAMP)
        for path in self._filesystem.ls(folder, detail=False):
            key, stamp, _ = posixpath.basename(path.rstrip("/")).split(".")
            if key == self._key and (publish.is_local(self._filesystem) or stamp < newest):
                logger.info("removing what a run of %s left unfinished", stamp)
                self._filesystem.rm(path, recursive=True)

    def _put(self, kind: str, about: dict[str, Any], content: memoryview) -> None:
        """Stage a part."""
        name, day = part_of(about["first"]), about.pop("day")
        folder = self._staged(kind, day)
        parts = self._parts[kind, day]
        if parts and parts[-1]["name"] >= name:
            raise DataError(f"--out {self._job.out}: rows came twice or out of order from Ray; run it again")
        if not parts:
            self._filesystem.makedirs(folder, exist_ok=True)
        with self._filesystem.open(f"{folder}/{name}", "wb") as file:
            file.write(content)
        sha256 = about.get("sha256") or hashlib.sha256(content).hexdigest()
        flagged = {"flagged": about["flagged"]} if kind == "part" else {}
        self._learnt[day] += about.get("learnt", 0)
        parts.append({"name": name, "rows": about["rows"], **flagged, "bytes": len(content), "sha256": sha256})

    def _staged(self, kind: str, day: str) -> str:
        return f"{self._stage}/{kind}/{folder_of(day)}"

    def _folders(self, day: str) -> tuple[str, str]:
        """The folders of a day's scored and refused rows."""
        return f"{self._root}/{folder_of(day)}", f"{self._root}/{QUARANTINE}/{folder_of(day)}"

    def _publish(self, collector: Collector, about: Mapping[str, Any]) -> dict[str, Any]:
        days = sorted({day for _, day in self._parts} | ({self._key} if self._job.date else set()))
        if collector.are_all_refused:
            for day in days:
                target, refused = self._folders(day)
                if not self._filesystem.exists(target):
                    self._swap("quarantine", day, refused)
            raise collector.no_rows_error(self._job.data)
        if not collector.rows and self._job.date:
            logger.warning("%s has no row of %s: the manifest says 0 rows", self._job.data, self._key)
        if not self._job.force and not self._job.date:
            done = {
                day for day in days if self._valid_manifest(day) is not None
            }  # raises where a day may not be replaced
        else:
            done = set()
        manifests = {day: self._manifest(day, collector, about) for day in days}
        for day in days:
            if day not in done:
                with ExitStack() as stack:
                    lease = self.lease
                    if day != self._key:  # else the caller holds it
                        lease = stack.enter_context(publish.locked(self._filesystem, self.lock_path(day)))
                    self._publish_day(day, manifests[day], lease)
        if self._job.date:
            return manifests[self._key]
        manifest = {
            **self._identity, **about, "days": {day: manifests[day]["rows"] for day in days},
            "quarantine": self._job.refused if collector.refused else None,
            "rows": counts(collector.rows, collector.flagged, collector.refused, collector.outside),
            "warnings": collector.warnings,
        }  # fmt: skip
        self._filesystem.makedirs(posixpath.dirname(self._record), exist_ok=True)
        self._filesystem.pipe_file(self._record, (json.dumps(manifest, indent=2) + "\n").encode())
        return manifest

    def lock_path(self, day: str | None = None) -> str:
        """The lock file of a day; by default of the whole job."""
        return f"{self._root}/{LOCKS}/{day or self._key}.lock"

    def _manifest(self, day: str, collector: Collector, about: Mapping[str, Any]) -> dict[str, Any]:
        scored, refused = self._parts["part", day], self._parts["quarantine", day]
        rows, flagged = sum(part["rows"] for part in scored), sum(part["flagged"] for part in scored)
        content = json.dumps([scored, refused], sort_keys=True).encode()
        return {
            **self._identity, "date": day, **about,
            "output": f"{self._job.out.rstrip('/')}/{folder_of(day)}",
            "output_fingerprint": hashlib.sha256(content).hexdigest(),
            "quarantine": f"{self._job.refused}/{folder_of(day)}" if refused else None,
            "rows": counts(rows, flagged, sum(part["rows"] for part in refused), collector.outside),
            "learnt_rows": self._learnt[day],
            "other_days_by_day": dict(sorted(collector.other_days.by_day.items())),
            "parts": scored, "quarantine_parts": refused, "warnings": collector.warnings,
        }  # fmt: skip

    def _publish_day(self, day: str, manifest: Mapping[str, Any], lease: Lease | None) -> None:
        """Publish refused rows first, since the manifest, published with or after the scored rows, lists both."""
        target, refused = self._folders(day)
        staged = self._staged("part", day)
        self._filesystem.makedirs(staged, exist_ok=True)
        content = (json.dumps(manifest, indent=2) + "\n").encode()
        if publish.is_local(self._filesystem):
            self._filesystem.pipe_file(f"{staged}/{MANIFEST}", content)
            self._swap("quarantine", day, refused)
            self._swap("part", day, target)
            return
        if lease is not None:
            lease.renew()
        if self._filesystem.exists(f"{target}/{MANIFEST}"):
            self._filesystem.rm(f"{target}/{MANIFEST}")  # from here on the day is invalid
        self._swap("quarantine", day, refused)
        self._swap("part", day, target)
        if lease is not None:
            lease.renew()
        self._filesystem.pipe_file(f"{target}/{MANIFEST}", content)

    def _swap(self, kind: str, day: str, target: str) -> None:
        publish.replace_folder(self._filesystem, self._staged(kind, day), target)

    def _valid_manifest(self, day: str) -> dict[str, Any] | None:
        """The manifest of a valid day with this job's identity; None if there is none.

        Raises DataError if the day is another output.
        """
        target, refused = self._folders(day)
        if not self._filesystem.exists(target):
            return None
        manifest = read_json(self._filesystem, f"{target}/{MANIFEST}")
        if not manifest:
            there = self._filesystem.ls(target, detail=False)
            if not all(is_part(path) or posixpath.basename(path) == MANIFEST for path in there):
                raise DataError(
                    f"{target} exists and ray_jobs.score did not write it: name another --out, or use --force"
                )
            logger.warning("%s has no manifest (its publication was interrupted): scoring again", target)
            return None
        identity = {**self._identity, "date": day}
        differing = [name for name in identity if manifest.get(name) != identity[name]]
        if differing:
            raise DataError(f"{target} {made_otherwise(differing)}")
        for folder, parts in ((target, manifest["parts"]), (refused, manifest["quarantine_parts"])):
            fault = publish.mismatch(self._filesystem, folder, parts)
            if fault:
                logger.warning("%s does not match its manifest (%s): scoring again", folder, fault)
                return None
        return manifest
