"""What scores blocks gives back the memory of each: a job's memory must not grow with its rows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa

from fraud.data.simulation import transactions
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.training import fitting
from fraud.training.config import TrainConfig
from ray_jobs.score.blocks import PIECE, Model, Scorer, Work
from ray_jobs.score.source import pieces_of


def test_a_part_is_freed_after_it_was_taken(tmp_path: Path):
    schema, rows = Schema.load("transactions"), transactions(20_000, seed=1)
    config = TrainConfig(
        forest=ForestConfig(n_estimators=5), autoencoder=AutoencoderConfig(epochs=1), head=HeadConfig(use="never")
    )
    bundle.save(tmp_path / "bundle", fitting.fit_locally(validate(rows, schema).rows, schema, config)[0])
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    pieces, _ = pieces_of(str(tmp_path / "rows.parquet"), schema)
    model = Model(
        folder=str(tmp_path / "bundle"),
        sha256=bundle.load(tmp_path / "bundle").sha256,
        version="1",
        number=None,
        settings=Settings.from_environment(),
    )
    score = Scorer(Work(model=model, reasons=False, date=dt.date(2026, 1, 31), in_parts=True, pieces=pieces))

    def size_of_parts() -> int:
        return sum(table.nbytes for table in score(pa.table({PIECE: [0]})))

    size = size_of_parts()
    allocated = pa.total_allocated_bytes()
    for _ in range(3):
        size_of_parts()
    assert size > 100_000
    assert pa.total_allocated_bytes() - allocated < size / 10
