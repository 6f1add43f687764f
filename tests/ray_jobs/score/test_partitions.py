"""Scored days as folders: whole or not there, verified, replaced, refused rows beside them, and read by everybody."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest

from fraud.data import partitions, tables
from fraud.data.simulation import transactions
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import ConfigError, DataError
from fraud.schema import Column, Schema, validate
from fraud.scoring import bundle, decided
from fraud.scoring.engine import Engine
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from monitoring.drift.comparison import compare
from ray_jobs.score import command as score
from ray_jobs.score import output
from ray_jobs.score.output import Job
from ray_jobs.score.partitions import STAGING

CONFIG = TrainConfig(
    forest=ForestConfig(n_estimators=10),
    autoencoder=AutoencoderConfig(epochs=1, batch_size=256),
    head=HeadConfig(use="never"),
)
ROWS, DAYS = 2_880, ("2026-01-30", "2026-01-31", "2026-02-01")
D = dt.date(2026, 1, 31)


def timed(name: str, *more: Column) -> Schema:
    """The five columns with a time, and perhaps more."""
    base = Schema.load("transactions")
    return replace(base, name=name, columns=(*more, Column(name="at", kind="timestamp", nullable=True), *base.columns))


def rows_of(n: int = ROWS, seed: int = 3) -> pd.DataFrame:
    """Rows of three days, evenly and in order of time."""
    frame = transactions(n, seed=seed, fraud_rate=0.05)
    seconds = np.arange(n) * (3 * 86_400 // n)
    frame.insert(0, "at", np.datetime64("2026-01-30", "us") + seconds.astype("timedelta64[s]"))
    return frame


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "bundle"
    schema = timed("timed")
    detector, _ = fitting.fit_locally(validate(rows_of(4_000, seed=1), schema).rows, schema, CONFIG)
    bundle.save(folder, detector)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of rows in small row groups; three of them are bad, one of which has no readable day."""
    frame = rows_of()
    frame.loc[10, "hour"] = 99
    frame.loc[1_500, "device_score"] = -1.0
    frame.loc[1_501, ["at", "amount"]] = [pd.NaT, -5.0]
    path = tmp_path_factory.mktemp("source") / "rows.parquet"
    frame.to_parquet(path, index=False, row_group_size=400)
    return path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of some hundred rows."""
    for module in ("blocks", "source", "output"):
        monkeypatch.setattr(f"ray_jobs.score.{module}.ROW_GROUP", 500)


def job(source: Path, model: Path, out: object, **changes: Any) -> Job:
    return Job(data=str(source), out=str(out), model=str(model), **changes)


def run(source: Path, model: Path, out: object, **changes: Any) -> dict[str, Any]:
    return score.score(job(source, model, out, **changes), Settings.from_environment())


def content(folder: Path) -> dict[str, bytes]:
    """Every Parquet file below a folder."""
    files = sorted(folder.rglob("*.parquet"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_day_becomes_a_folder_in_the_order_of_the_input(source: Path, model: Path, tmp_path: Path, small_parts: None):
    manifest = run(source, model, tmp_path / "scored", date=D)
    folder = tmp_path / "scored" / "date=2026-01-31"
    names = sorted(path.name for path in folder.iterdir())
    assert (
        names[0] == "_manifest.json" and len(names) > 2 and all(partitions.is_part(f"{folder}/{n}") for n in names[1:])
    )
    rows = pd.concat([pd.read_parquet(folder / name) for name in names[1:]])
    assert rows["row"].tolist() == [i for i in range(960, 1_920) if i not in (1_500, 1_501)]
    engine = Engine(bundle.load(model).detector)
    expected = engine.score_frame(tables.load(str(source), engine.schema).rows.loc[rows["row"]])
    assert rows["score"].tolist() == expected["score"].tolist()
    assert rows["is_fraud"].tolist() == expected["is_fraud"].tolist() and 0 < rows["is_fraud"].sum() < len(rows)
    assert (rows["reasons"].notna() == rows["is_fraud"]).all()
    written = json.loads((folder / "_manifest.json").read_text())
    assert written == {name: value for name, value in manifest.items() if name != "already_scored"}
    assert written["rows"] == {
        "read": ROWS, "scored": 958, "flagged": int(rows["is_fraud"].sum()), "quarantined": 2, "other_days": 1_920,
    }  # fmt: skip
    assert sum(part["rows"] for part in written["parts"]) == 958 and written["date"] == "2026-01-31"
    refused = pd.read_parquet(tmp_path / "scored" / "_quarantine" / "date=2026-01-31")
    assert refused["row"].tolist() == [1_500, 1_501], "a row without a readable day is of the day that is scored"
    assert refused["column"].tolist() == ["device_score", "amount"] and (refused["reason"] != "").all()
    assert not (tmp_path / "scored" / STAGING).exists() or not list((tmp_path / "scored" / STAGING).iterdir())


def test_every_day_and_one_day_agree(source: Path, model: Path, tmp_path: Path, small_parts: None):
    manifest = run(source, model, tmp_path / "all")
    assert list(manifest["days"]) == [*DAYS, "unknown"] and manifest["rows"]["scored"] == ROWS - 3
    assert [manifest["days"][day]["quarantined"] for day in manifest["days"]] == [1, 1, 0, 1]
    for day in DAYS:
        run(source, model, tmp_path / "one", date=dt.date.fromisoformat(day))
        folder = f"date={day}"
        assert content(tmp_path / "all" / folder) == content(tmp_path / "one" / folder) != {}
    before = content(tmp_path / "all")
    assert run(source, model, tmp_path / "all")["already_scored"]
    assert run(source, model, tmp_path / "all", date=D)["already_scored"]
    assert content(tmp_path / "all") == before
    assert pd.read_parquet(tmp_path / "all" / "_quarantine" / "date=unknown")["row"].tolist() == [1_501]


def test_ray_and_this_process_give_the_same_bytes(ray_session: None, source: Path, model: Path, tmp_path: Path):
    run(source, model, tmp_path / "here")
    run(source, model, tmp_path / "ray", rows_on_ray=0)
    assert content(tmp_path / "here") == content(tmp_path / "ray") != {}
    csv = tmp_path / "rows.csv"
    tables.write_csv(pd.read_parquet(source), str(csv))
    run(csv, model, tmp_path / "csv", rows_on_ray=0, date=D)
    folder = "date=2026-01-31"
    of_csv, of_parquet = (pd.read_parquet(tmp_path / name / folder) for name in ("csv", "here"))
    pd.testing.assert_frame_equal(of_csv, of_parquet)


def test_history_and_ids_come_in_parts_too(ray_session: None, tmp_path: Path):
    """One task reads such a file, and the rows come back from the shuffle: in their order all the same."""
    from fraud.data.simulation import cards
    from fraud.data.splits import SplitConfig

    schema = Schema.load("handbook")
    split = SplitConfig(history=0.3, train=0.4, validation=0.15, test=0.15, delay_days=7)
    detector, _ = fitting.fit_locally(validate(cards(8_000, seed=1), schema).rows, schema, replace(CONFIG, split=split))
    bundle.save(tmp_path / "bundle", detector)
    later = cards(1_500, seed=2).drop(columns="TX_FRAUD")  # a day's file knows no labels yet
    later["TX_DATETIME"] += pd.Timedelta(days=130)
    later = later.sample(frac=1, random_state=0).reset_index(drop=True)
    later.to_parquet(tmp_path / "rows.parquet", index=False)
    manifest = run(tmp_path / "rows.parquet", tmp_path / "bundle", tmp_path / "scored")
    assert manifest["rows"]["scored"] == 1_500 and len(manifest["days"]) > 20
    rows = tables.read(str(tmp_path / "scored")).sort_values("row", ignore_index=True)
    expected = Engine(detector).score_frame(validate(later, schema).rows)
    assert rows["score"].tolist() == expected["score"].tolist()
    assert rows["TRANSACTION_ID"].tolist() == later["TRANSACTION_ID"].astype(str).tolist()
    for part in (tmp_path / "scored").glob("date=*/part-*.parquet"):
        here = pd.read_parquet(part)
        assert here["row"].is_monotonic_increasing
        assert set(here["TX_DATETIME"].dt.date.astype(str)) == {part.parent.name.removeprefix("date=")}


def test_a_rerun_verifies_every_part(source: Path, model: Path, tmp_path: Path, small_parts: None):
    out = tmp_path / "scored"
    run(source, model, out, date=D)
    before = content(out)
    parts = sorted((out / "date=2026-01-31").glob("part-*"))
    refused = next((out / "_quarantine" / "date=2026-01-31").iterdir())
    for spoil in (
        lambda: parts[0].write_bytes(parts[0].read_bytes()[:-1] + b"?"),
        lambda: parts[1].unlink(),
        lambda: (parts[0].parent / "part-000000009999.parquet").write_bytes(b"stray"),
        lambda: refused.write_bytes(b""),
        lambda: (parts[0].parent / "_manifest.json").write_text("{"),
    ):
        assert run(source, model, out, date=D)["already_scored"]
        spoil()
        assert content(out) != before or not partitions.manifests(str(parts[0].parent))
        assert not run(source, model, out, date=D)["already_scored"]
        assert content(out) == before


def test_force_replaces_exactly(source: Path, model: Path, tmp_path: Path, small_parts: None):
    out, folder = tmp_path / "scored", tmp_path / "scored" / "date=2026-01-31"
    run(source, model, out, date=D)
    run(source, model, out, date=dt.date(2026, 1, 30))
    other = content(out / "date=2026-01-30")
    fewer = tmp_path / "fewer.parquet"
    rows_of().iloc[1_200:1_400].to_parquet(fewer, index=False)
    with pytest.raises(DataError, match=r"other data: give another --out, or --force"):
        run(fewer, model, out, date=D)
    with pytest.raises(DataError, match=r"other data: give another --out, or --force"):
        run(fewer, model, out)
    assert len(pd.read_parquet(folder)) == 958
    run(fewer, model, out, date=D, force=True)
    assert pd.read_parquet(folder)["row"].tolist() == list(range(200)), "nothing is left of the other input"
    assert not (out / "_quarantine" / "date=2026-01-31").exists()
    assert content(out / "date=2026-01-30") == other
    foreign = tmp_path / "foreign" / "date=2026-01-31"
    foreign.mkdir(parents=True)
    (foreign / "mine.parquet").write_bytes(b"mine")
    with pytest.raises(DataError, match="did not write it"):
        run(source, model, foreign.parent, date=D)
    assert (foreign / "mine.parquet").read_bytes() == b"mine"


def test_a_day_without_rows_is_reported_and_a_file_without_any_is_an_error(
    source: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    out = tmp_path / "scored"
    returned = run(source, model, out, date=dt.date(2026, 3, 1))
    assert "no row of 2026-03-01" in caplog.text
    assert returned["rows"]["scored"] == 0 and returned["rows"]["other_days"] == ROWS - 1
    (manifest,) = partitions.manifests(str(out / "date=2026-03-01"))
    assert manifest["rows"] == returned["rows"] and manifest["parts"] == []
    assert run(source, model, out, date=dt.date(2026, 3, 1))["already_scored"]
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "none.parquet", model, out, date=D)
    with pytest.raises(DataError, match="no file matches"):
        run(tmp_path / "none-*.parquet", model, out, date=D)
    rows_of(60).assign(hour=99).to_parquet(tmp_path / "bad.parquet", index=False)
    with pytest.raises(DataError, match=r"none of 20 rows.*'hour'"):
        run(tmp_path / "bad.parquet", model, tmp_path / "bad", date=dt.date(2026, 1, 30))
    refused = pd.read_parquet(tmp_path / "bad" / "_quarantine" / "date=2026-01-30")
    assert len(refused) > 0 and not (tmp_path / "bad" / "date=2026-01-30").exists()


def test_readers_take_the_folder(source: Path, model: Path, tmp_path: Path, small_parts: None):
    named = timed("named", Column(name="number", kind="id"))
    out = tmp_path / "scored"
    run(source, model, out)
    hive = pd.read_parquet(out)
    assert sorted(hive["date"].astype(str).unique()) == list(DAYS) and len(hive) == ROWS - 3
    assert tables.read(str(out))["row"].is_monotonic_increasing and len(tables.read(str(out))) == ROWS - 3
    compared = compare(str(out / "date=2026-01-30"), str(out / "date=2026-01-31"), timed("timed"))
    assert [compared.document[side]["rows"] for side in ("reference", "current")] == [960, 959], (
        "what was refused counts too"
    )
    numbered = tmp_path / "numbered"
    for part in out.glob("date=*/part-*.parquet"):
        target = numbered / part.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        frame = pd.read_parquet(part, partitioning=None)
        frame.assign(number=frame["row"].astype(str)).to_parquet(target, index=False)
    for day in DAYS[:2]:
        (numbered / f"date={day}" / "_manifest.json").write_text("{}")
    decisions = decided.read(str(numbered), named)
    assert sorted(decisions["day"].astype(str).unique()) == list(DAYS[:2]), "without a manifest a day does not count"
    with pytest.raises(DataError, match=r"has no \.csv or \.parquet"):
        tables.read(str(numbered / f"date={DAYS[2]}"))


@pytest.fixture
def store() -> Iterator[str]:
    """A store that knows no folders and no renames."""
    filesystem = fsspec.filesystem("memory")
    yield "memory://scored"
    filesystem.rm("/scored", recursive=True)


def test_a_store_without_renames_publishes_by_the_manifest(
    source: Path, model: Path, store: str, small_parts: None, monkeypatch: pytest.MonkeyPatch
):
    filesystem = fsspec.filesystem("memory")
    run(source, model, store, date=D)
    assert run(source, model, store, date=D)["already_scored"]
    parts = filesystem.glob("/scored/date=2026-01-31/part-*")
    assert len(parts) > 1 and len(tables.read(store)) == 958
    steps: list[str] = []
    plain = type(filesystem).pipe_file

    def cut_off(self: Any, path: str, *rest: Any, **options: Any) -> None:
        steps.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(filesystem), "pipe_file", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(source, model, store, date=D, force=True)
    monkeypatch.setattr(type(filesystem), "pipe_file", plain)
    assert steps == ["/scored/date=2026-01-31/_manifest.json"], "the manifest comes last"
    assert filesystem.glob("/scored/date=2026-01-31/part-*") == parts
    with pytest.raises(DataError, match=r"has no \.csv or \.parquet"):
        tables.read(store)
    assert not run(source, model, store, date=D)["already_scored"]
    assert len(tables.read(store)) == 958 and not filesystem.find("/scored/_staging")


def test_two_runs_of_one_day_at_once_give_one_result(
    source: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """In two threads: the lock belongs to the open file."""
    manifests: list[dict[str, Any]] = []
    with caplog.at_level("INFO"):
        threads = [
            threading.Thread(target=lambda: manifests.append(run(source, model, tmp_path / "scored", date=D)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(result["already_scored"] for result in manifests) == [False, True, True]
    assert len(pd.read_parquet(tmp_path / "scored" / "date=2026-01-31")) == 958
    with caplog.at_level("INFO"):
        threads = [
            threading.Thread(target=lambda: manifests.append(run(source, model, tmp_path / "one.parquet")))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(result["already_scored"] for result in manifests[3:]) == [False, True]


def test_a_full_disk_keeps_what_was_there(source: Path, model: Path, small_disk: Path, small_parts: None):
    out = small_disk / "scored"
    run(source, model, out, date=D)
    before = content(out)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError):
        filler.write_bytes(b"x" * 500_000)
    with pytest.raises(DataError, match=r"cannot be written.*No space left"):
        run(source, model, out, date=D, force=True)
    assert content(out) == before
    filler.unlink()
    run(source, model, out, date=D, force=True)
    assert content(out) == before


def test_progress_is_shown(
    source: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(output, "PROGRESS_SECONDS", 0.0)
    with caplog.at_level("INFO"):
        run(source, model, tmp_path / "scored", date=D)
    assert "2,880 of 2,880 rows (100%)" in caplog.text and "rows/s" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--out", "scored"], "no timestamp"), (["--out", "scored.csv", "--date", "2026-01-31"], "ending in .parquet")],
)
def test_mistakes_are_one_line(tmp_path: Path, model: Path, arguments: list[str], words: str):
    schema = Schema.load("transactions")
    detector, _ = fitting.fit_locally(validate(transactions(2_000, seed=1), schema).rows, schema, CONFIG)
    bundle.save(tmp_path / "plain", detector)
    (tmp_path / "day.csv").write_text("amount\n1\n")
    with pytest.raises(ConfigError, match=words):
        score.main(["--input", str(tmp_path / "day.csv"), *arguments, "--model", str(tmp_path / "plain")])


def test_the_other_names_of_the_flags(source: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "scored"
    flags = ["--input", str(source), "--output", str(out), "--date", "2026-01-31", "--model", str(model)]
    assert score.main(flags) == 0 and score.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "958 scored" in lines[0] and "date=2026-01-31" in lines[0] and "already scored, verified" in lines[2]
    page = "reports/drift/2026-01-31.html"
    scored = f"python -m monitoring.drift --model {model} --cur {out}/date=2026-01-31 --out {page}"
    assert lines[1] == lines[3] == f"next: {scored}"
