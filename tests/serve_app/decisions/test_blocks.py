"""The decisions of a batch are kept together, and come out as those of single requests do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from serve_app.decisions.files import read
from serve_app.decisions.log import DecisionLog
from serve_app.decisions.rows import DecisionBlock, blocks_of
from serve_app.model.decided import block_of, decision_of
from serve_app.model.part import Part, ScoredPart, columns_of, score_part
from serve_app.model.state import NO_LIVE_HISTORY, ServedModel
from tests.serve_app.decision_cases import Counts, a_decision, eventually, ids_of, journals_of, rows_of, settings_of

HIDDEN = {
    "transactions": {"FRAUD_DECISIONS_HASH": "amount", "FRAUD_DECISIONS_OMIT": "hour"},
    "handbook": {"FRAUD_DECISIONS_HASH": "CUSTOMER_ID,TX_DATETIME", "FRAUD_DECISIONS_OMIT": "TX_AMOUNT"},
    "mixed": {"FRAUD_DECISIONS_HASH": "seconds,class,is_new"},
}
ROWS: dict[str, list[dict[str, object]]] = {
    "transactions": [{}, {"amount": 3.5, "country_mismatch": False}],
    "handbook": [{}, {"CUSTOMER_ID": "ümlaut\n", "TX_DATETIME": "2025-09-01T10:15:00.123456"}],
    "mixed": [{}, {"is_new": True, "model_config": 0.25, "reference": 'a"b'}, {"is_new": None, "Unnamed: 0": "b"}],
}


def part_of(model: ServedModel, requests: Mapping[str, Mapping[str, object]], name: str) -> Part:
    from json import dumps

    rows = [model.reader.parse(dumps({**requests[name], **changes}).encode()) for changes in ROWS[name]]
    return Part(columns_of(model.engine.schema, rows), list(range(len(rows))), {}, rows)


def scored_of(model: ServedModel, part: Part, *, with_reasons: bool = True) -> ScoredPart:
    return score_part(model, part, learn=False, with_reasons=with_reasons)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("name", list(ROWS))
def test_a_block_comes_out_as_its_decisions_would(
    models: dict[str, ServedModel], requests: dict[str, Mapping[str, object]], tmp_path: Path, name: str, hides: bool
):
    model = models[name]
    scored = scored_of(model, part_of(model, requests, name))
    scored.is_history_live[0] = False
    environment = {**HIDDEN[name], "FRAUD_DECISIONS_KEY": "k" * 32} if hides else {}
    variants = []
    for folder in (tmp_path / "together", tmp_path / "one by one"):
        settings = settings_of(folder, **environment)
        log = DecisionLog(settings, model.engine.schema)
        if folder.name == "together":
            log.put_block(block_of(log, scored, request_id="r", key_name="gateway"))
        else:
            for transaction, answer in zip(scored.part.transactions, scored.contents, strict=True):
                log.put(decision_of(log, model, transaction, answer, request_id="r", key_name="gateway"))
        log.close()
        variants.append([{key: value for key, value in row.items() if key != "time"} for row in rows_of(settings)])
    together, alone = variants
    assert len(together) == len(ROWS[name]) and together[0]["reasons"]
    assert together[0]["warnings"] == [NO_LIVE_HISTORY] and together[1]["warnings"] == []
    assert together == alone


def blocks(
    models: dict[str, ServedModel], requests: dict[str, Mapping[str, object]], log: DecisionLog
) -> DecisionBlock:
    """Two decisions of the handbook schema."""
    model = models["handbook"]
    return block_of(log, scored_of(model, part_of(model, requests, "handbook"), with_reasons=False), request_id="7")


def test_blocks_and_single_decisions_share_a_journal_and_a_cut_block_costs_only_itself(
    models: dict[str, ServedModel], requests: dict[str, Mapping[str, object]], tmp_path: Path
):
    settings, counts = settings_of(tmp_path), Counts()
    log = DecisionLog(settings, models["handbook"].engine.schema, metrics=counts)
    log.put(a_decision(1))
    log.put_block(blocks(models, requests, log))
    log.put(a_decision(2))
    log.put_block(blocks(models, requests, log))
    eventually(lambda: counts.decisions["written"] == 6)
    journal = journals_of(settings)[0]
    table, skipped = read(journal)
    assert sorted(table["request_id"].to_pylist()) == ["1", "2", "7", "7", "7", "7"] and skipped == 0
    content = journal.read_bytes()
    cut = tmp_path / "cut.jsonl"
    for n_bytes in (60, 201, len(content) - content.rfind(b'{"_block"') - 15):
        cut.write_bytes(content[:-n_bytes])
        table, skipped = read(cut)
        assert sorted(table["request_id"].to_pylist()) == ["1", "2", "7", "7"] and skipped == 1
    cut.write_bytes(content[:-200] + b"\n" + content[content.find(b'{"request_id"') :])
    table, skipped = read(cut)
    assert len(table) == 4 + 6 and skipped == 1, "what was written after the cut one is there"
    log.close()
    assert ids_of(settings) == [1, 2, 7, 7, 7, 7]


def test_a_block_beyond_the_bound_is_lost_whole_and_counted(
    models: dict[str, ServedModel], requests: dict[str, Mapping[str, object]], tmp_path: Path
):
    (tmp_path / "decisions").write_text("in the way of the journal's folder")
    settings, counts = settings_of(tmp_path, FRAUD_DECISIONS_QUEUE="3"), Counts()
    log = DecisionLog(settings, models["handbook"].engine.schema, metrics=counts)
    eventually(lambda: counts.depth == 0)
    block = blocks(models, requests, log)
    assert not log.is_behind()
    for _ in range(4):
        log.put_block(block)
    assert log.is_behind()
    eventually(lambda: counts.decisions["lost"] >= 2)
    (tmp_path / "decisions").unlink()
    log.close()
    n_written = len(rows_of(settings))
    assert n_written in (2, 4) and n_written + counts.decisions["lost"] == 8, "one is being written, one waits"
    log.put_block(block)
    assert len(rows_of(settings)) == n_written


def test_lines_without_a_block_are_left_as_they_are():
    import pyarrow as pa

    lines = b'{"request_id":"1"}\n{"request_id":"{\\"_block\\":\\""}\n'
    assert blocks_of(lines, pa.schema([])) == (lines, [], 0)
