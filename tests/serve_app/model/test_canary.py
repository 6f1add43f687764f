"""The canary share is stable, grows by adding entities only, and is about as large as it says."""

from __future__ import annotations

import subprocess
import sys

from fraud.schema import Schema
from serve_app.model.canary import CanaryChoice, is_canary

CARDS = [f"card-{i}" for i in range(20_000)]


def test_the_share_is_what_it_says_and_grows_by_adding_only():
    chosen = {share: {card for card in CARDS if is_canary(card, share)} for share in (0.0, 0.01, 0.05, 0.5, 1.0)}
    assert not chosen[0.0] and chosen[1.0] == set(CARDS)
    assert chosen[0.01] < chosen[0.05] < chosen[0.5]
    for share in (0.01, 0.05, 0.5):
        assert abs(len(chosen[share]) / len(CARDS) - share) < 0.012, share


def test_another_process_chooses_the_same():
    """Python's own hash() differs from process to process, and replicas must agree."""
    code = (
        "from serve_app.model.canary import is_canary; print(sum(is_canary(f'card-{i}', 0.3) << i for i in range(200)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(process.stdout) == sum(is_canary(f"card-{i}", 0.3) << i for i in range(200))


def test_the_entity_decides_else_the_id_else_the_request():
    handbook = CanaryChoice(Schema.load("handbook"))
    assert handbook.column == "CUSTOMER_ID"
    sides = [handbook({"CUSTOMER_ID": card}, 0.5, "any") for card in CARDS[:100]]
    assert sides == [is_canary(card, 0.5) for card in CARDS[:100]]
    assert sides == [handbook({"CUSTOMER_ID": card}, 0.5, f"request {card}") for card in CARDS[:100]]
    nobodys = CanaryChoice(Schema.load("transactions"))
    assert nobodys.column is None
    assert [nobodys({}, 0.5, card) for card in CARDS[:100]] == sides
    assert [handbook({"CUSTOMER_ID": None}, 0.5, card) for card in CARDS[:100]] == sides
    assert is_canary("half a pair \ud800", 1.0)
