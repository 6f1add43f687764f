"""FastAPI with our engine, hand-optimized: async routes, pydantic in and out, no thread pool, no copies.

uvicorn --factory benchmarks.serving.peers.fastapi_engine:create
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
from fastapi import FastAPI, Request, Response

from benchmarks.serving.peers import shared_engine
from benchmarks.serving.peers.transaction import Answer, Answers, Transaction

ARROW = "application/vnd.apache.arrow.stream"


def create() -> FastAPI:
    """Build the app."""
    app, engine = FastAPI(), shared_engine.load()

    @app.post("/score")
    async def score(transaction: Transaction) -> Answer:
        result = engine.score_row(transaction.__dict__)
        return Answer.model_construct(
            score=result.score, is_fraud=bool(result.is_fraud), threshold=engine.threshold.value
        )

    @app.post("/score/batch")
    async def score_batch(transactions: list[Transaction]) -> Answers:
        return Answers.model_construct(**shared_engine.score_rows(engine, [row.__dict__ for row in transactions]))

    @app.post("/score/arrow")
    async def score_arrow(request: Request) -> Response:
        rows: pd.DataFrame = pa.ipc.open_stream(await request.body()).read_pandas()
        scored = pa.Table.from_pandas(engine.score_frame(rows), preserve_index=False)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, scored.schema) as writer:
            writer.write_table(scored)
        return Response(sink.getvalue().to_pybytes(), media_type=ARROW)

    return app
