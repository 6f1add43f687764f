"""Back up the local state (FRAUD_STATE) into one file, also while the stack runs, and restore it.

    python -m deploy.local.backup create --out backups/monday.tar.gz
    python -m deploy.local.backup restore backups/monday.tar.gz --into backups/restored

Inside are MLflow's database and artifacts, labels, decisions, history, Airflow's database and the stack's own keys, so
the file has mode 0600. Outside are logs, caches, and whatever a setting puts elsewhere: `create` lists that.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from deploy import processes
from deploy.local.command import echo, settings_here
from fraud.cli import examples, run_command
from fraud.data import partitions
from fraud.data.locks import exclusive
from fraud.errors import ConfigError, DataError
from fraud.history.stores import environment
from fraud.settings import Settings, git_commit, turn_telemetry_off
from fraud.settings.locations import DataStores
from fraud.settings.operations import StackSettings
from fraud.settings.serving import KeySettings

MANIFEST = ".manifest.json"  # no name in the state folder that is saved begins with a dot
_FORMAT = 1
# Made anew when needed; the record of what runs is true only of this moment.
_LEFT_OUT = ("log", "numba", "models", "local.json", "airflow/logs")
_JOURNALS = "decisions/_journal/"
_SQLITE, _LMDB = b"SQLite format 3\0", "data.mdb"
_BESIDE_DATABASES = ("-wal", "-shm", "-journal", "lock.mdb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """A file in a backup. n_bytes: its size; mode: its permissions."""

    n_bytes: int
    sha256: str
    mode: int


def create(settings: Settings, out: Path) -> dict[str, Saved]:
    """Write a backup of `settings.state` to `out`, which must not exist, atomically. Returns the files in it.

    Databases are copied as of one moment each. Raises ConfigError if `out` exists or lies in the state folder.
    """
    state = settings.state
    if out.exists():
        raise ConfigError(f"{out} exists: name another file")
    if state in out.absolute().parents:
        raise ConfigError(f"{out} lies in the state folder {state}: name a file elsewhere")
    if not state.is_dir():
        raise ConfigError(f"there is no state folder {state}: set FRAUD_STATE or FRAUD_ROOT")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    saved: dict[str, Saved] = {}
    try:
        with open(draft, "wb", opener=_private) as file:
            with (
                tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive,
                tempfile.TemporaryDirectory(dir=out.parent, prefix=".backup-") as copies,
            ):
                for name, path in _sources(state, Path(copies), settings):
                    _add(archive, name, path, saved)
                content = {
                    "format": _FORMAT, "created_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                    "commit": git_commit(), "state": str(state),
                    "files": {name: dataclasses.asdict(entry) for name, entry in saved.items()},
                }  # fmt: skip
                manifest = Path(copies) / MANIFEST
                manifest.write_text(json.dumps(content), encoding="utf-8")
                archive.add(manifest, MANIFEST)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(out)
    finally:
        draft.unlink(missing_ok=True)
    return saved


def restore(archive: Path, target: Path) -> dict[str, Saved]:
    """Unpack a backup into `target`, a new or empty state folder, after checking every file. Returns the files.

    Paths of MLflow's artifacts are changed to the new folder. Raises ConfigError if `target` is not empty or a stack
    runs on it, DataError if the archive is damaged; then `target` stays as it is.
    """
    if running := processes.find(target):
        raise ConfigError(f"{len(running)} processes run on {target}: stop them with `make down` first")
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty: move it away, or name another folder with --into")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as draft:
        folder = Path(draft) / "state"
        folder.mkdir(mode=0o700)
        content = _unpack(archive, folder)
        saved = {name: Saved(**entry) for name, entry in content["files"].items()}
        _relocate(folder / "mlflow.db", content["state"], str(target))
        if target.exists():
            target.rmdir()
        folder.rename(target)
    return saved


def not_inside(settings: Settings, variables: Mapping[str, str] = os.environ) -> list[str]:
    """What the settings put outside the state folder, so that a backup lacks it."""
    stores, stack = DataStores.from_environment(variables), StackSettings.from_environment(variables)
    locations = {
        "decisions": "" if stores.decisions == "off" else stores.decisions_url(settings),
        "labels": stores.labels_url(settings),
        "daily history": settings.history,
        "MLflow's artifacts": settings.locate(stack.mlflow_artifacts) if stack.mlflow_artifacts else "",
        "API keys": settings.locate(keys) if (keys := KeySettings.from_environment(variables).file) else "",
    }
    outside = [
        f"{what} ({location})"
        for what, location in locations.items()
        if location and not _is_in(location, settings.state)
    ]
    if stack.mlflow_backend:  # its address may hold a password
        outside.append("MLflow's database (FRAUD_MLFLOW_BACKEND)")
    if settings.history_url not in ("node", "memory"):
        outside.append("the live history (FRAUD_HISTORY_URL)")
    return outside


def _is_in(location: str, folder: Path) -> bool:
    return "://" not in location and folder in Path(location).absolute().parents


def _sources(state: Path, copies: Path, settings: Settings) -> Iterator[tuple[str, Path]]:
    """(name in the backup, file) of everything. Databases first, so that what they refer to is there."""
    names = [path for path in _walk(state) if not path.name.endswith(_BESIDE_DATABASES)]
    databases = [path for path in names if path.name == _LMDB or _is_sqlite(path)]
    for number, path in enumerate(databases):
        copy = copies / str(number)
        _copy_database(path, copy)
        yield path.relative_to(state).as_posix(), copy / _LMDB if copy.is_dir() else copy
    with _no_merging(state / "decisions"):
        # First the journals, then the Parquet that they become, then only the journals that did not.
        journals = list(_copied_journals(state, copies / "journals"))
        published = set[str]()
        for path in _walk(state):  # again: the databases may refer to newer files
            name = path.relative_to(state).as_posix()
            if path not in databases and not name.startswith(_JOURNALS) and not name.endswith(_BESIDE_DATABASES):
                published.add(path.name)
                yield name, path
    if _is_in(DataStores.from_environment().decisions_url(settings), state):
        for name, path in journals:
            if f"{path.parent.name}-{path.stem}.parquet" not in published:
                yield name, path


def _walk(state: Path) -> list[Path]:
    """The regular files below a folder, without drafts (their names begin with a dot) and what is left out."""
    left_out = {state / name for name in _LEFT_OUT}
    files: list[Path] = []
    for folder, folders, names in os.walk(state):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name not in left_out)
        paths = [here / name for name in sorted(names) if not name.startswith(".")]
        files += [path for path in paths if path not in left_out and path.is_file() and not path.is_symlink()]
    return files


def _copied_journals(state: Path, copies: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((state / _JOURNALS).glob("*/*")):
        name, copy = path.relative_to(state).as_posix(), copies / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, copy)
        except FileNotFoundError:  # published
            continue
        copy.chmod(0o600)
        yield name, copy


@contextmanager
def _no_merging(decisions: Path) -> Iterator[None]:
    if decisions.is_dir():
        with exclusive(decisions / partitions.MAINTENANCE_LOCK):
            yield
    else:
        yield


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except FileNotFoundError:
        return False


def _copy_database(path: Path, copy: Path) -> None:
    """Copy a database that others may write to. LMDB becomes a folder with one file."""
    if path.name == _LMDB:
        copy.mkdir()
        opened = environment.shared(path.parent)
        try:
            opened.copy(copy)
        finally:
            opened.close()
        return
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source, closing(sqlite3.connect(copy)) as to:
        source.backup(to)
    copy.chmod(path.stat().st_mode)


class _Hashing:
    """A file that hashes what is read from it, at most `n_bytes`: a file that grows is saved as it was."""

    def __init__(self, file: IO[bytes], n_bytes: int) -> None:
        self._file, self._left, self.digest = file, n_bytes, hashlib.sha256()

    def read(self, size: int) -> bytes:
        block = self._file.read(min(size, self._left))
        self._left -= len(block)
        self.digest.update(block)
        return block


def _add(archive: tarfile.TarFile, name: str, path: Path, saved: dict[str, Saved]) -> None:
    try:
        file = path.open("rb")
    except FileNotFoundError:  # since it was listed, it was replaced by another file
        return
    with file:
        status = os.fstat(file.fileno())
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = status.st_size, int(status.st_mtime), status.st_mode & 0o777
        reader = _Hashing(file, entry.size)
        archive.addfile(entry, reader)  # type: ignore[arg-type]  # it only calls `read`
    saved[name] = Saved(n_bytes=entry.size, sha256=reader.digest.hexdigest(), mode=entry.mode)


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack regular files only, below `folder`; check them and return the manifest."""
    digests: dict[str, str] = {}
    content: dict[str, Any] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                name, source = PurePosixPath(entry.name), tar.extractfile(entry)
                if source is None or name.is_absolute() or ".." in name.parts:
                    raise DataError(f"{archive} holds {entry.name!r}, which no backup of ours has")
                if entry.name == MANIFEST:
                    content = json.load(source)
                    continue
                path = folder / name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open(path, "xb", opener=_private) as file:
                    digest = hashlib.sha256()
                    while block := source.read(1 << 20):
                        file.write(block)
                        digest.update(block)
                digests[entry.name] = digest.hexdigest()
        if content.get("format", _FORMAT) > _FORMAT:
            raise DataError(f"{archive} is of a newer format ({content['format']}): use the version that wrote it")
        expected = {name: entry["sha256"] for name, entry in content["files"].items()}
        modes = {name: int(entry["mode"]) for name, entry in content["files"].items()}
    except FileNotFoundError:
        raise DataError(f"{archive} does not exist") from None
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{archive} is damaged or no backup ({error}): use another one") from None
    if wrong := sorted(name for name in {*expected, *digests} if expected.get(name) != digests.get(name)):
        raise DataError(f"{archive} is damaged: {wrong[0]} is not what was saved ({len(wrong)} files in all)")
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    return content


def _relocate(database: Path, old: str, new: str) -> None:
    """Change the state folder in every text of MLflow's database: without a server it holds paths of artifacts."""
    if old == new or not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                if "CHAR" in kind or "TEXT" in kind:
                    name = f'"{column}"'  # of the database itself
                    update = f'UPDATE "{table}" SET {name} = replace({name}, ?1, ?2) WHERE instr({name}, ?1)'
                    connection.execute(update, (f"{old}/", f"{new}/"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m deploy.local.backup", description=__doc__, **examples("python -m deploy.local.backup create")
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="create|restore")
    making = verbs.add_parser(
        "create",
        help="save the state folder, also while the stack runs",
        description="Save the state folder, also while the stack runs.",
        **examples("python -m deploy.local.backup create --out backups/monday.tar.gz"),
    )
    making.add_argument("--out", help="the file to write (default: backups/TIME.tar.gz below FRAUD_ROOT)")
    restoring = verbs.add_parser(
        "restore",
        help="check a backup and unpack it into a new or empty folder",
        description="Check a backup and unpack it into a new or empty folder.",
        **examples("python -m deploy.local.backup restore backups/monday.tar.gz --into backups/restored"),
    )
    restoring.add_argument("archive", help="the file that `create` wrote")
    restoring.add_argument("--into", metavar="FOLDER", help="the new state folder (default: FRAUD_STATE)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Raises FraudError."""
    arguments = parser().parse_args(argv)
    settings = settings_here()
    turn_telemetry_off()
    if arguments.verb == "create":
        default = f"backups/{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%SZ}.tar.gz"
        out = Path(settings.locate(arguments.out or default))
        saved = create(settings, out)
        size = f"{out.stat().st_size / 2**20:,.1f} MiB"
        echo(f"{out}: {len(saved):,} files of {settings.state}, {size}. It holds keys and data: keep it private.")
        for location in not_inside(settings):
            echo(f"not in it: {location}")
        echo(f"to restore: python -m deploy.local.backup restore {out} --into FOLDER")
        return 0
    target = Path(settings.locate(arguments.into)) if arguments.into else settings.state
    saved = restore(Path(settings.locate(arguments.archive)), target)
    echo(f"{target}: {len(saved):,} files, each checked. To start on it: FRAUD_STATE={target} make up")
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
