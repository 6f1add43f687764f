"""Reading and writing: every kind of place and file, every bad file with one line that names it and the remedy."""

from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.data import tables
from fraud.errors import DataError, FraudError, SchemaError
from fraud.schema import Column, Schema

HEADER = "amount,hour,distance,device_score,country_mismatch,is_fraud\n"
ROWS = "220,3,12,0.92,1,1\n10,4,1,0.2,0,0\n"
TRANSACTIONS = Schema.load("transactions")


def csv(folder: Path, text: str | bytes, name: str = "x.csv") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        HEADER + ROWS,
        (HEADER + ROWS).replace("\n", "\r\n"),
        (HEADER + ROWS).replace(",", ", "),
        "\ufeff" + HEADER + ROWS,
        HEADER + ROWS.replace("220", '"220"'),
    ],
    ids=["plain", "windows", "spaces", "byte-order mark", "quotes"],
)
def test_csv_dialects_give_the_same_rows(text: str, tmp_path: Path) -> None:
    checked = tables.load(csv(tmp_path, text), TRANSACTIONS)

    assert checked.rows["amount"].tolist() == [220.0, 10.0]
    assert checked.rows["is_fraud"].tolist() == [1, 0]
    assert len(checked.quarantine) == 0


def test_folder_glob_compressed_and_remote_read_alike(tmp_path: Path) -> None:
    first, second = pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"x": [3]})
    tables.write_csv(first, str(tmp_path / "in" / "a.csv"))
    tables.write_parquet(second, str(tmp_path / "in" / "day=2" / "b.parquet"))
    csv(tmp_path, "not data", "in/_SUCCESS")
    csv(tmp_path, "half written", "in/.c.csv.tmp.csv")
    csv(tmp_path, gzip.compress(b"x\n1\n2\n3\n"), "one.csv.gz")
    fsspec.filesystem("memory").pipe("/bucket/a.csv", b"x\n1\n2\n3\n")

    for path in (
        f"{tmp_path}/in",
        f"{tmp_path}/one.csv.gz",
        f"{tmp_path}/*.csv.gz",
        "memory://bucket/a.csv",
        "memory://bucket",
    ):
        assert tables.read(path)["x"].tolist() == [1, 2, 3]


def test_frames_are_bounded_and_counted_across_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tables.write_csv(pd.DataFrame({"x": range(5)}), str(tmp_path / f"{name}.csv"))

    frames = list(tables.iter_frames(str(tmp_path), rows=2))

    assert [len(frame) for frame in frames] == [2, 2, 1, 2, 2, 1]
    assert [number for frame in frames for number in frame.index] == list(range(10))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "x.csv is an empty file"),
        ("x.csv", HEADER, "a header and no rows"),
        ("x.csv", "\n" + HEADER + ROWS, "starts with an empty line"),
        ("x.csv", (HEADER + ROWS).replace(",", ";"), "separated by semicolons"),
        ("x.csv", (HEADER + ROWS).replace(",", "\t"), "separated by tabs"),
        ("x.csv", (HEADER + ROWS).replace(",", "|"), "separated by bars"),
        ("x.csv", ROWS, "has no header"),
        ("x.csv", HEADER.replace("hour", "amount") + ROWS, "names column amount twice"),
        ("x.csv", HEADER + ROWS + "1,2,3,0.4,0,0,9,9\n", "Expected 6 fields in line 4, saw 8"),
        ("x.csv", HEADER + "1,2,3,0.4,0,0,9\n" + ROWS, "not a table separated by commas"),
        ("x.csv", HEADER + '"1,2,3,0.4,0,0\n' + ROWS, "not a table separated by commas"),
        ("x.csv", (HEADER + ROWS).encode("utf-16"), "not UTF-8"),
        ("x.csv", HEADER.encode() + b"\xe9,3,12,0.92,1,1\n", "not UTF-8"),
        ("x.csv.gz", b"amount\n1\n", "cannot be read"),
        ("x.csv.gz", gzip.compress((HEADER + ROWS * 9_999).encode())[:200], "cannot be read"),
        ("x.parquet", HEADER + ROWS, "cannot be read as Parquet"),
        ("x.txt", HEADER + ROWS, "name ending in .csv or .parquet"),
        (
            "x.csv",
            HEADER + "a,b,c,d,e,f\n" * 3,
            "0 of the first 3 rows fit schema 'transactions'; most often, 'amount' is not a number",
        ),
        ("x.csv", HEADER.replace("device_score", "devise_score") + ROWS, "did you mean 'devise_score'"),
    ],
)
def test_bad_file_is_one_line_with_its_name(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    path = csv(tmp_path, text, name)

    with pytest.raises(FraudError) as caught:
        tables.load(path, TRANSACTIONS)

    assert message in str(caught.value)
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    csv(tmp_path, HEADER + ROWS, "transactions.csv")

    with pytest.raises(DataError, match=r"does not exist; did you mean 'transactions\.csv'"):
        tables.read(str(tmp_path / "transaction.csv"))
    with pytest.raises(DataError, match="no file matches"):
        tables.read(str(tmp_path / "*.parquet"))
    with pytest.raises(DataError, match=r"has no \.csv or \.parquet"):
        tables.read(csv(tmp_path, "x", "other/readme.md").rsplit("/", 1)[0])


def test_unknown_and_unreachable_places_are_data_errors() -> None:
    with pytest.raises(DataError, match="Protocol not known"):
        tables.read("nowhere://bucket/x.csv")
    with pytest.raises(DataError, match="cannot be read"):
        tables.read("http://127.0.0.1:9/x.csv")


def test_truncated_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    tables.write_parquet(pd.DataFrame({"x": range(1_000)}), str(path))
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(DataError, match="cannot be read as Parquet"):
        tables.read(str(path))


def test_one_row_is_enough(tmp_path: Path) -> None:
    checked = tables.load(csv(tmp_path, HEADER + "1,2,3,0.4,0,0\n"), TRANSACTIONS)

    assert len(checked.rows) == 1
    assert checked.warnings == (
        "every labelled row is legitimate (column 'is_fraud'): metrics that compare classes cannot be calculated",
    )


def test_constant_columns_and_missing_labels_are_reported(tmp_path: Path) -> None:
    unlabelled = csv(tmp_path, HEADER + "1,2,3,0.4,0,\n" + "2,3,4,0.5,0,\n")

    warnings = " ".join(tables.load(unlabelled, TRANSACTIONS).warnings)

    assert "label column 'is_fraud' is empty" in warnings
    assert "constant in every row, so not useful: country_mismatch" in warnings
    with pytest.raises(DataError, match="'is_fraud' is empty in every good row"):
        tables.load(unlabelled, TRANSACTIONS, need_label=True)


def test_a_file_without_the_label_column_loads_unless_labels_are_needed(tmp_path: Path) -> None:
    path = csv(tmp_path, HEADER.replace(",is_fraud", "") + "1,2,3,0.4,0\n")

    assert "is_fraud" not in tables.load(path, TRANSACTIONS).rows
    with pytest.raises(SchemaError, match=r"x\.csv: column 'is_fraud' is missing"):
        tables.load(path, TRANSACTIONS, need_label=True)


def test_pieces_give_the_same_answer_as_one_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 1_000
    frame = pd.DataFrame(
        {
            "id": rng.permutation(n),
            "when": pd.Series(pd.date_range("2024-01-01", periods=n, freq="h")).astype("str"),
            "card": [f"{number:04d}" for number in rng.integers(0, 30, n)],
            "x": rng.normal(size=n).astype(object),
            "fraud": rng.integers(0, 2, n),
        }
    )
    frame.loc[[10, 700], "x"] = "odd"
    frame.loc[900, "id"] = frame.loc[5, "id"]
    schema = Schema(
        name="s",
        columns=(
            Column(name="id", kind="id"),
            Column(name="when", kind="timestamp"),
            Column(name="card", kind="entity"),
            Column(name="x", kind="numeric"),
            Column(name="fraud", kind="label"),
        ),
    )
    path = str(tmp_path / "x.csv")
    tables.write_csv(frame, path)

    at_once, pieces = tables.load(path, schema), tables.load(path, schema, chunk_rows=64)

    pd.testing.assert_frame_equal(at_once.rows, pieces.rows, check_index_type=False)
    assert pieces.quarantine["row"].tolist() == at_once.quarantine["row"].tolist() == [10, 700, 900]
    assert at_once.rows["card"].iloc[0] == frame["card"].iloc[0]  # leading zeros survive
    good = frame.drop(index=[10, 700, 900])
    assert at_once.rows.index.tolist() == good.index.tolist()
    assert np.array_equal(at_once.rows["x"].to_numpy(), good["x"].to_numpy(dtype=float))  # to the last bit


def test_csv_and_parquet_of_the_same_table_are_the_same_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame({"card": [7.0, 123.0, np.nan], "x": [0.1, 0.2, 0.3], "ok": [True, False, True]})
    schema = Schema(
        name="s",
        columns=(
            Column(name="card", kind="entity", nullable=True),
            Column(name="x", kind="numeric"),
            Column(name="ok", kind="boolean"),
        ),
    )
    tables.write_csv(frame, str(tmp_path / "a.csv"))
    tables.write_parquet(frame, str(tmp_path / "a.parquet"))

    from_csv, from_parquet = (tables.load(str(tmp_path / f"a.{kind}"), schema).rows for kind in ("csv", "parquet"))

    pd.testing.assert_frame_equal(from_csv, from_parquet)
    assert from_csv["card"].tolist()[:2] == ["7", "123"]


def test_dictionaries_and_row_groups_of_parquet_are_read(tmp_path: Path) -> None:
    table = pa.table({"c": pa.array(["a", "b", "a"]).dictionary_encode(), "x": [1.0, 2.0, 3.0]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1)
    schema = Schema(name="s", columns=(Column(name="c", kind="categorical"), Column(name="x", kind="numeric")))

    assert tables.load(str(tmp_path / "x.parquet"), schema, chunk_rows=2).rows["c"].tolist() == ["a", "b", "a"]


def test_files_that_disagree_about_the_label_are_refused(tmp_path: Path) -> None:
    csv(tmp_path, HEADER + ROWS, "a.csv")
    csv(tmp_path, HEADER.replace(",is_fraud", "") + "1,2,3,0.4,0\n", "b.csv")

    with pytest.raises(SchemaError, match=r"b\.csv: the label column is in some files"):
        tables.load(str(tmp_path), TRANSACTIONS)


def test_a_wrong_schema_stops_before_it_copies_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_REFUSED_ROWS", 50)
    path = csv(tmp_path, HEADER + ROWS + "bad,3,12,0.92,1,1\n" * 1_000)

    with pytest.raises(DataError, match="2 of the first 100 rows fit"):
        tables.load(path, TRANSACTIONS, chunk_rows=50)


def test_writing_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    tables.write_parquet(pd.DataFrame({"x": [1]}), str(path))

    with pytest.raises(pa.ArrowException):
        tables.write_parquet(pd.DataFrame({"x": [1, "mixed", object()]}), str(path))

    assert tables.read(str(path))["x"].tolist() == [1]
    assert [file.name for file in tmp_path.glob("*")] == ["x.parquet"]
    with pytest.raises(DataError, match="cannot be written"):
        tables.write_csv(pd.DataFrame({"x": [1]}), str(path / "below" / "y.csv"))


def test_fingerprint_follows_names_and_bytes_not_the_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        csv(tmp_path, "x\n1\n", f"{folder}/a.csv")
        csv(tmp_path, "x\n2\n", f"{folder}/sub/b.csv")
    same = tables.fingerprint(str(tmp_path / "one"))

    assert tables.fingerprint(str(tmp_path / "two")) == same and len(same) == 64
    csv(tmp_path, "x\n3\n", "two/sub/b.csv")
    assert tables.fingerprint(str(tmp_path / "two")) != same
    with pytest.raises(DataError, match="does not exist"):
        tables.fingerprint(str(tmp_path / "three"))


def test_writing_to_a_url_and_text_files(tmp_path: Path) -> None:
    tables.write_parquet(pd.DataFrame({"x": [1, 2]}), "memory://written/x.parquet")
    tables.write_text("name: é\n", str(tmp_path / "new" / "x.yaml"))

    assert tables.read("memory://written/x.parquet")["x"].tolist() == [1, 2]
    assert (tmp_path / "new" / "x.yaml").read_text(encoding="utf-8") == "name: é\n"


@pytest.mark.parametrize("place", ["local", "memory://checked"])
def test_a_file_is_replaced_if_it_is_new_empty_the_commands_own_or_forced(place: str, tmp_path: Path) -> None:
    path = f"{tmp_path if place == 'local' else place}/out.html"
    own = tables.marked("<title>Drift", "</html>")
    tables.check_out(path, own)
    for content in ("", "<title>Drift: ok</title></html>"):
        tables.write_text(content, path)
        tables.check_out(path, own)
    tables.write_text("<title>Drift: ok</title> cut short", path)
    with pytest.raises(DataError, match=r"--prometheus .*out\.html exists.*name another file.*--force"):
        tables.check_out(path, own, flag="--prometheus")
    tables.check_out(path, own, force=True)
