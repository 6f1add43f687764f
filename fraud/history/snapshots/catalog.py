"""The days of history: list them, check their chain, add, change and remove a day."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

import pyarrow as pa

from fraud.data import filesystems, tables
from fraud.data.partitions import MANIFEST, folder_of
from fraud.days import Zone
from fraud.errors import DataError, ObjectStoreError
from fraud.history.definition import EntityPlan, plans
from fraud.history.snapshots.manifest import DayManifest
from fraud.history.snapshots.segments import Part
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from fraud.settings import Settings

ALL = (0, 1)  # the only partition of one
_DAY = dt.timedelta(days=1)


class Catalog:
    """The days of history of one schema's plans below a folder or URL."""

    def __init__(self, url: str, schema: Schema) -> None:
        self.url, self.schema, self.plans = url.rstrip("/"), schema, plans(schema)
        self._zone_name = zone_of(schema).name
        self._manifests: dict[tuple[str, dt.date], DayManifest] = {}
        self._indexes: dict[str, pa.Table] = {}

    @classmethod
    def open(cls, settings: Settings, schema: Schema) -> Self:
        """The catalog at FRAUD_HISTORY."""
        return cls(settings.history, schema)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the caches."""
        return {**self.__dict__, "_manifests": {}, "_indexes": {}}

    @property
    def zone(self) -> Zone:
        """The zone of the days."""
        return Zone(self._zone_name)

    def memory_days(self, plan: EntityPlan) -> int:
        """Number of earlier days that a day's rows can read."""
        return -(-plan.memory // 86_400_000_000) + 1

    @property
    def longest_memory_days(self) -> int:
        """The largest `memory_days` of the plans."""
        return max(self.memory_days(plan) for plan in self.plans)

    def days(self) -> list[dt.date]:
        """Days that every plan has, ascending. Raises ObjectStoreError."""
        filesystem, root = filesystems.of(self.url)
        filesystem.invalidate_cache()
        common: set[dt.date] | None = None
        for plan in self.plans:
            folder = f"{root}/{plan.fingerprint}"
            names = filesystem.glob(f"{folder}/date=*/{MANIFEST}") if filesystem.exists(folder) else []
            of_plan = {dt.date.fromisoformat(name.rpartition("/")[0].rpartition("date=")[2]) for name in names}
            common = of_plan if common is None else common & of_plan
        return sorted(common or ())

    def newest_day(self, through: dt.date | None = None) -> dt.date | None:
        """The newest day, at most `through`, up to which the history is complete; None if there is none."""
        self._manifests.clear()
        for day in reversed(self.days()):
            if (through is None or day <= through) and self.gap_before(day) is None:
                return day
        return None

    def gap_before(self, day: dt.date) -> str | None:
        """Why the history up to the end of `day` is incomplete; None if it is complete.

        Complete: every day exists and matches the chain hash of the day before, back to the first day of the history or
        as far as the plans read.
        """
        for plan in self.plans:
            later = self.read(plan, day)
            if later is None:
                return f"{day} is missing"
            for back in range(1, self.memory_days(plan) + 1):
                if not later.previous:
                    break
                earlier = self.read(plan, day - back * _DAY)
                if earlier is None:
                    return f"{day - back * _DAY} is missing"
                if earlier.chain != later.previous:
                    return f"{earlier.day} was changed after {later.day} was made from it"
                later = earlier
        return None

    def first_day(self, day: dt.date) -> dt.date:
        """The first day of the complete history that ends with `day`."""
        first = day
        for plan in self.plans:
            back = day
            while (manifest := self.read(plan, back)) is not None and manifest.previous:
                back -= _DAY
                if (day - back).days >= self.memory_days(plan):
                    break
            first = min(first, back)
        return first

    def chain_of(self, day: dt.date) -> str:
        """Hash of the history of all plans up to the end of `day`; changes with any of its days."""
        chains = [manifest.chain for plan in self.plans if (manifest := self.read(plan, day)) is not None]
        return hashlib.sha256(" ".join(chains).encode()).hexdigest()

    def read(self, plan: EntityPlan, day: dt.date) -> DayManifest | None:
        """The manifest of a day; None if it does not exist. Raises DataError if it was altered."""
        known = self._manifests.get((plan.fingerprint, day))
        if known is not None:
            return known
        filesystem, root = filesystems.of(self._folder(plan, day))
        path = f"{root}/{MANIFEST}"
        try:
            with filesystem.open(path, "rb") as file:
                content = file.read()
        except ObjectStoreError:
            raise
        except OSError:
            return None
        manifest = DayManifest.from_json(content, path)
        if (manifest.plan, manifest.day, manifest.zone) != (plan.fingerprint, day, self._zone_name):
            raise DataError(
                f"{path} belongs to plan {manifest.plan}, day {manifest.day}, zone {manifest.zone}, not to "
                f"{plan.fingerprint}, {day}, {self._zone_name}: it was moved, or the zone changed; build it again"
            )
        self._manifests[plan.fingerprint, day] = manifest
        return manifest

    def publish(
        self,
        day: dt.date,
        parts: Sequence[Sequence[Part]],
        *,
        made_by: str,
        sources: Mapping[str, Sequence[Any]] | None = None,
        own_labels: bool = False,
    ) -> list[dt.date]:
        """Write the manifests of a day and relink the later days. Returns the later days whose history changed: their
        scores used the old history.

        parts: one list per plan. own_labels: the parts carry the data's own labels; once True for a day, it stays True
        (`Snapshots.write_part`).

        Raises DataError if earlier days exist but the day before is missing (a gap).
        """
        self._manifests.clear()
        follows = all(self.read(plan, day - _DAY) is not None for plan in self.plans)
        before = [] if follows else [earlier for earlier in self.days() if earlier < day]
        if before and (day - before[-1]).days <= self.longest_memory_days:
            raise DataError(
                f"the history ends on {before[-1]}, before a gap to {day}: build the days between "
                f"(python -m ray_jobs.history build --through {day - _DAY} --data ...)"
            )
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        is_changed = False
        for plan, plan_parts in zip(self.plans, parts, strict=True):
            old = self.read(plan, day)
            previous = self.read(plan, day - _DAY)
            manifest = DayManifest(
                day=day, plan=plan.fingerprint, zone=self._zone_name, previous=previous.chain if previous else "",
                parts=tuple(plan_parts), made_by=made_by,
                own_labels=own_labels or (old is not None and old.own_labels), sources=sources or {}, created=now,
            )  # fmt: skip
            is_changed = is_changed or (old is not None and old.fingerprint != manifest.fingerprint)
            self._write(plan, manifest)
        later = self._link(day)
        return later if is_changed else []

    def _link(self, day: dt.date) -> list[dt.date]:
        """Update the chain hashes of the days after `day`; return those whose history changed."""
        linked = []
        for plan in self.plans:
            before, back = self.read(plan, day), 1
            while before is not None and (after := self.read(plan, day + back * _DAY)) is not None:
                if after.previous == before.chain:
                    break
                before = replace(after, previous=before.chain)
                self._write(plan, before)
                if back <= self.memory_days(plan):
                    linked.append(before.day)
                back += 1
        return sorted(set(linked))

    def replace_parts(self, plan: EntityPlan, day: DayManifest, parts: Sequence[Part]) -> None:
        """Replace the parts of a plan's day and relink the later days."""
        self._write(plan, replace(day, parts=tuple(parts)))
        self._link(day.day)

    def drop(self, day: dt.date) -> int:
        """Remove a day of every plan, the manifest first; return the bytes freed."""
        filesystem, freed = None, 0
        for plan in self.plans:
            filesystem, root = filesystems.of(self._folder(plan, day))
            if not filesystem.exists(root):
                continue
            if filesystem.exists(f"{root}/{MANIFEST}"):
                filesystem.rm_file(f"{root}/{MANIFEST}")
            names = filesystem.find(root)
            freed += sum(filesystem.size(name) or 0 for name in names)
            filesystem.rm(root, recursive=True)
            self._manifests.pop((plan.fingerprint, day), None)
        return freed

    def begin_at(self, day: dt.date) -> None:
        """Mark `day` as the first day of the history, after earlier days were dropped; relink the later days."""
        for plan in self.plans:
            manifest = self.read(plan, day)
            if manifest is not None and manifest.previous:
                self._write(plan, replace(manifest, previous=""))
        self._link(day)

    def tidy(self, day: dt.date, *, older_than_s: float = 3600.0) -> None:
        """Remove files of a day that its manifest does not name: leftovers of killed or replaced runs.

        older_than_s: younger files stay, because another job may be about to publish them.
        """
        latest = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=older_than_s)
        for plan in self.plans:
            manifest = self.read(plan, day)
            filesystem, root = filesystems.of(self._folder(plan, day))
            if manifest is None or not filesystem.exists(root):
                continue
            named = {name for part in manifest.parts for name in part.files} | {MANIFEST}
            for path in filesystem.find(root):
                if path.rpartition("/")[2] in named:
                    continue
                with suppress(FileNotFoundError):  # another job renamed its temporary file
                    if older_than_s <= 0 or filesystem.modified(path) < latest:
                        filesystem.rm_file(path)

    def _write(self, plan: EntityPlan, manifest: DayManifest) -> None:
        tables.write_text(manifest.to_json(), f"{self._folder(plan, manifest.day)}/{MANIFEST}")
        self._manifests[plan.fingerprint, manifest.day] = manifest

    def _folder(self, plan: EntityPlan, day: dt.date) -> str:
        return f"{self.url}/{plan.fingerprint}/{folder_of(day.isoformat())}"
