"""Request and response formats of each server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Row = Mapping[str, Any]
JSON, NDJSON, ARROW = "application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Protocol:
    """A route and its format. encode: transactions to a body. scores: extracts the scores from an answer, in order."""

    path: str
    encode: Callable[[Sequence[Row]], bytes]
    scores: Callable[[bytes], list[float]]
    content_type: str = JSON


def _one(rows: Sequence[Row]) -> bytes:
    (row,) = rows
    return json.dumps(row).encode()


def _array(rows: Sequence[Row]) -> bytes:
    return json.dumps(list(rows)).encode()


def _lines(rows: Sequence[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _arrow(rows: Sequence[Row]) -> bytes:
    table = pa.Table.from_pylist(list(map(dict, rows)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _v2(rows: Sequence[Row]) -> bytes:
    values = [value for row in rows for value in row.values()]
    tensor = {"name": "rows", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": values}
    return json.dumps({"inputs": [tensor]}).encode()


def _split(rows: Sequence[Row]) -> bytes:
    return json.dumps(
        {"dataframe_split": {"columns": list(rows[0]), "data": [list(r.values()) for r in rows]}}
    ).encode()


def _score(answer: bytes) -> list[float]:
    return [json.loads(answer)["score"]]


def _scores(answer: bytes) -> list[float]:
    return json.loads(answer)["score"]


def _results(answer: bytes) -> list[float]:
    return [result["score"] for result in json.loads(answer)["results"]]


def _scored_lines(answer: bytes) -> list[float]:
    return [json.loads(line)["score"] for line in answer.splitlines()]


def _scored_arrow(answer: bytes) -> list[float]:
    return pa.ipc.open_stream(answer).read_all()["score"].to_pylist()


def _v2_output(answer: bytes) -> list[float]:
    (score,) = (output for output in json.loads(answer)["outputs"] if output["name"] == "score")
    return score["data"]


def _predictions(answer: bytes) -> list[float]:
    return [row["score"] for row in json.loads(answer)["predictions"]]


Protocols = dict[str, Protocol]
OURS: Protocols = {
    "single": Protocol("/score", _one, _score),
    "json": Protocol("/score/batch", _array, _results),
    "ndjson": Protocol("/score/batch", _lines, _scored_lines, NDJSON),
    "arrow": Protocol("/score/batch", _arrow, _scored_arrow, ARROW),
}
PLAIN: Protocols = {
    "single": Protocol("/score", _one, _score),
    "json": Protocol("/score/batch", _array, _scores),
}
FASTAPI: Protocols = {**PLAIN, "arrow": Protocol("/score/arrow", _arrow, _scored_arrow, ARROW)}
ONE_PATH: Protocols = {"single": Protocol("/score", _one, _score), "json": Protocol("/score", _array, _scores)}
V2: Protocols = {
    name: Protocol("/v2/models/fraud/infer", _v2, _v2_output) for name in ("single", "json")
}  # fmt: skip
INVOCATIONS: Protocols = {name: Protocol("/invocations", _split, _predictions) for name in ("single", "json")}
