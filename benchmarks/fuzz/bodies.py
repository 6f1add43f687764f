"""Raw bodies drawn by hypothesis: transactions, arrays, NDJSON and Arrow streams, then mutated."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzz.cases import Tally

if TYPE_CHECKING:
    from benchmarks.fuzz.server import Target

NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"
TIMEOUT_S = 30.0
# Literals to put in place of a value, JSON or not.
_LITERALS = st.sampled_from(
    [
        "0",
        "-0",
        "1e0",
        "1e400",
        "-1e400",
        "1e-400",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "01",
        "1.",
        ".5",
        "+1",
        "0x10",
        "1_000",
        "true",
        "null",
        "[]",
        "{}",
        "[[]]",
        '""',
        '" "',
        '"a"',
        '"17.0"',
        '"\\u0000"',
        '"\\ud800"',
        '"\\uFFFF"',
        '"\\x"',
        '"2018-09-01"',
        '"2018-02-30T25:61:61"',
        '"9999-12-31T23:59:59-23:59"',
        '"0001-01-01"',
        '"=1+1"',
        "9" * 41,
        "-" + "9" * 400,
        "9" * 5000,
        "1" + "0" * 400 + "e-400",
        "18446744073709551616",
        '"\x01"',
        "1 2",
        "'a'",
        "/**/1",
        "[" * 600,
        '{"a":' * 600,
        '"' + "x" * 70_000 + '"',
        "undefined",
    ]
)
_VALUES = (
    _LITERALS
    | st.floats().map(repr)
    | st.integers().map(str)
    | st.text(st.characters(exclude_categories=()), max_size=8).map(json.dumps)
    | st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)).map(
        json.dumps
    )
)
_BREAKS = st.sampled_from(
    [
        b"",
        b" ",
        b"\x00",
        b"}",
        b"{",
        b",",
        b'"',
        b"\\",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"//",
        b"\x0b",
        b"\xff\xfe{\x00",
        b"\r",
        b"\n\n",
        b"]",
    ]
)
_TYPES = st.sampled_from(
    [
        pa.string(),
        pa.large_string(),
        pa.int64(),
        pa.uint8(),
        pa.float16(),
        pa.float32(),
        pa.float64(),
        pa.bool_(),
        pa.null(),
        pa.timestamp("ns"),
        pa.timestamp("us", "Asia/Tokyo"),
        pa.date32(),
        pa.binary(),
        pa.list_(pa.int8()),
        pa.decimal128(9, 2),
        pa.dictionary(pa.int8(), pa.string()),
        pa.struct([("a", pa.int8())]),
        pa.string_view(),
    ]
)


@st.composite
def broken(draw: Any, body: bytes) -> bytes:
    """The body unchanged, truncated, or with bytes inserted, replaced, removed or repeated."""
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 5]))):
        position = draw(st.integers(0, len(body)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            body = body[:position]
        elif kind == 1:
            body = body[:position] + draw(_BREAKS) + body[position + draw(st.integers(0, 2)) :]
        elif kind == 2:
            body = body[:position] + draw(st.binary(max_size=8)) + body[position:]
        elif kind == 3:
            body = body[:position] + bytes([draw(st.integers(0, 255))]) + body[position + 1 :]
        else:
            body = (
                body[:position]
                + body[position : position + draw(st.integers(0, 300))] * draw(st.integers(0, 3))
                + body[position:]
            )
    return body


@st.composite
def objects(draw: Any, example: Mapping[str, Any]) -> bytes:
    """One transaction: `example` with values changed and fields omitted, duplicated or unknown."""
    pairs = [(name, json.dumps(value)) for name, value in example.items() if draw(st.integers(0, 15))]
    pairs = [(name, draw(_VALUES) if draw(st.integers(0, 5)) == 0 else text) for name, text in pairs]
    if draw(st.integers(0, 2)) == 0:
        names = st.sampled_from([*example, "", "x", "is_fraud", "__proto__", "\ud800", "a" * 5000])
        pairs += draw(st.lists(st.tuples(names, _VALUES), max_size=4))
    comma = draw(st.sampled_from([",", ", ", "\r\n,\t"]))
    return ("{" + comma.join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}").encode(
        "utf-8", "surrogatepass"
    )


@st.composite
def singles(draw: Any, example: Mapping[str, Any]) -> bytes:
    """Bodies of /score: a transaction, another value, or arbitrary bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        return draw(_VALUES).encode("utf-8", "surrogatepass")
    return draw(broken(draw(objects(example))))


@st.composite
def arrays(draw: Any, example: Mapping[str, Any]) -> bytes:
    """Bodies of /score/batch as JSON."""
    rows = draw(st.lists(objects(example) | singles(example), max_size=6))
    return draw(broken(b"[" + b",".join(rows) + b"]"))


@st.composite
def lines(draw: Any, example: Mapping[str, Any]) -> bytes:
    """Bodies of /score/batch as NDJSON."""
    rows = draw(st.lists(objects(example) | singles(example), max_size=6))
    return draw(broken(draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"])).join(rows)))


@st.composite
def streams(draw: Any, example: Mapping[str, Any]) -> bytes:
    """Bodies of /score/batch as Arrow: other column types, nulls, compression, mutated bytes."""
    columns: dict[str, pa.Array] = {}
    size = draw(st.sampled_from([0, 1, 3]))
    for name, value in example.items():
        values = [None if draw(st.integers(0, 9)) == 0 else value for _ in range(size)]
        column = pa.array(values, pa.array([value]).type)
        if draw(st.integers(0, 5)) == 0:
            dtype = draw(_TYPES)
            try:
                column = column.cast(dtype)
            except pa.ArrowException:
                column = pa.nulls(size, dtype)
        if draw(st.integers(0, 15)):
            columns[name] = column
    if draw(st.integers(0, 9)) == 0:
        columns[draw(st.text(max_size=5))] = pa.nulls(size)
    options = pa.ipc.IpcWriteOptions(compression=draw(st.sampled_from([None, None, None, "zstd", "lz4"])))
    sink = io.BytesIO()
    table = pa.table(columns)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
            writer.write_table(table)
    return draw(broken(sink.getvalue()))


def kinds(example: Mapping[str, Any]) -> list[tuple[str, str, st.SearchStrategy[bytes]]]:
    """(path, media type, bodies) of every endpoint that takes a body."""
    return [
        ("/score", "application/json", singles(example)),
        ("/explain", "application/json", singles(example)),
        ("/score/batch", "application/json", arrays(example)),
        ("/score/batch", NDJSON, lines(example)),
        ("/score/batch", ARROW, streams(example)),
    ]


def run(
    target: Target,
    example: Mapping[str, Any],
    n: int,
    tally: Tally,
    *,
    start: int = 0,
    after: Callable[[], None] | None = None,
) -> None:
    """Send `n` bodies in equal shares of each kind. Answers must be 200, 413 or 422 with a valid body."""
    for number, kind in enumerate(kinds(example)):
        _run_kind(target, kind, n // 5, start + number, tally, after)


def _run_kind(
    target: Target,
    kind: tuple[str, str, st.SearchStrategy[bytes]],
    n: int,
    start: int,
    tally: Tally,
    after: Callable[[], None] | None,
) -> None:
    path, media_type, strategy = kind
    connection = http.client.HTTPConnection(target.host, target.port, timeout=TIMEOUT_S)
    headers = {"X-API-Key": target.key, "Content-Type": media_type}
    what = f"POST {path} ({media_type.rpartition('.')[2]})"

    @seed(start)
    @settings(
        max_examples=n, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(body=strategy)
    def send(body: bytes) -> None:
        tally.requests[what] += 1
        if after is not None:
            after()
        try:
            with tally.timed(what):
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            tally.statuses["none"] += 1
            tally.fail(f"{type(error).__name__}: {what}", repr(body))
            return
        tally.statuses[str(answer.status)] += 1
        if (wrong := fault_of(answer.status, answer.headers.get_content_type(), text)) is not None:
            tally.fail(f"{wrong}: {what}", f"{body!r}\n{text[:500]!r}")

    try:
        send()
    finally:
        connection.close()


def fault_of(status: int, media_type: str, text: bytes) -> str | None:
    """Description of what is wrong with an answer; None if it is right."""
    if status not in (200, 413, 422):
        return f"status {status}"
    if status == 200 and media_type == ARROW:
        pa.ipc.open_stream(text).read_all().validate(full=True)
        return None
    try:
        documents = [
            json.loads(line, parse_constant=_refuse) for line in (text.splitlines() if media_type == NDJSON else [text])
        ]
    except ValueError:
        return "an answer that is no JSON"
    return None if status == 200 or documents[0]["detail"] else "an error that says nothing"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
