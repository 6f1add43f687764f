"""The shadow scores what the champion decided; one that raises, hangs or is slow costs its own score only."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fraud.errors import ConfigError
from fraud.scoring.row_score import RowScore
from fraud.settings import Settings
from fraud.settings.serving import ShadowSettings
from serve_app.decisions.log import Decision, DecisionLog
from serve_app.model.decided import decision_of
from serve_app.model.shadow import Shadow
from serve_app.model.state import ServedModel, load_model
from tests.serve_app.decision_cases import Counts, a_decision, eventually, rows_of, settings_of


@dataclass
class Served:
    """What the shadow reads of the replica's state."""

    model: ServedModel
    challenger: ServedModel | None
    shadow: bool = True


class Troubled:
    """A challenger's engine that waits for `go` and then raises, or answers."""

    store = None

    def __init__(self, model: ServedModel, *, raises: bool = False) -> None:
        self.schema = model.engine.schema
        self.go, self.calls, self._raises = threading.Event(), 0, raises

    def score_row(self, row: Mapping[str, object], *, learn: bool) -> RowScore:
        self.calls += 1
        assert self.go.wait(60)
        if self._raises:
            raise RuntimeError("card 4111")
        return RowScore(0.5, False, {"forest_score": 0.5, "autoencoder_score": 0.5})


class Puts:
    """The decisions that were put, and what was counted; opens every gate at the end."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.counts = Counts()
        self.shadows: list[Shadow] = []
        self.engines: list[Troubled] = []

    def shadow(self, served: Served, **settings: Any) -> Shadow:
        made = Shadow(served, self.decisions.append, ShadowSettings(**settings), metrics=self.counts)
        self.shadows.append(made)
        return made

    def troubled(self, model: ServedModel, *, version: str = "bad", raises: bool = False) -> ServedModel:
        engine = Troubled(model, raises=raises)
        self.engines.append(engine)
        return replace(model, version=version, engine=engine)  # type: ignore[arg-type]

    def outcomes(self) -> list[str | None]:
        return [decision.shadow_outcome for decision in self.decisions]


@pytest.fixture
def puts() -> Iterator[Puts]:
    made = Puts()
    yield made
    for engine in made.engines:
        engine.go.set()
    for shadow in made.shadows:
        shadow.close()


@pytest.fixture
def model(models: dict[str, ServedModel]) -> ServedModel:
    return models["transactions"]


@pytest.fixture
def transaction(model: ServedModel, requests: dict[str, Mapping[str, object]]) -> dict[str, object]:
    return dict(requests["transactions"])


def test_a_decision_gets_the_challengers_score(puts: Puts, model: ServedModel, transaction: dict[str, object]):
    strict = replace(model.engine.threshold, value=0.999999)
    challenger = replace(model, version="8", engine=type(model.engine)(model.engine.detector, threshold=strict))
    shadow = puts.shadow(Served(model, challenger), timeout_s=60.0)
    for number in range(20):
        shadow.submit(transaction, a_decision(number))
    eventually(lambda: len(puts.decisions) == 20)
    expected = challenger.engine.score_row(transaction)
    for decision in puts.decisions:
        assert decision.shadow_outcome == "scored" and decision.shadow_version == "8"
        assert decision.shadow_score == expected.score and decision.shadow_is_fraud is False
    eventually(lambda: puts.counts.shadow == {"scored": 20})


def test_switched_off_or_decided_otherwise_the_decision_goes_straight_on(
    puts: Puts, model: ServedModel, transaction: dict[str, object]
):
    served = Served(model, model)
    shadow = puts.shadow(served)
    shadow.submit(transaction, a_decision(0, role="canary"))
    shadow.submit(transaction, a_decision(1, fallback="review"))
    served.shadow = False
    shadow.submit(transaction, a_decision(2))
    served.shadow, served.challenger = True, None
    shadow.submit(transaction, a_decision(3))
    assert puts.outcomes() == [None] * 4 and not puts.counts.shadow
    served.challenger = model
    shadow.submit(transaction, a_decision(4))
    eventually(lambda: len(puts.decisions) == 5)
    assert puts.decisions[4].shadow_outcome in ("scored", "shed", "late"), "and on again without a restart"


def test_a_challenger_that_raises_is_told_of_once_without_card_data(
    puts: Puts, model: ServedModel, transaction: dict[str, object], caplog: pytest.LogCaptureFixture
):
    challenger = puts.troubled(model, raises=True)
    puts.engines[0].go.set()
    shadow = puts.shadow(Served(model, challenger), timeout_s=60.0)
    for number in range(10):
        shadow.submit(transaction, a_decision(number))
    eventually(lambda: puts.outcomes() == ["failed"] * 10)
    assert caplog.text.count("RuntimeError") == 1 and "4111" not in caplog.text


def test_behind_one_that_hangs_every_decision_is_kept_in_time_and_the_next_challenger_scores(
    puts: Puts, model: ServedModel, transaction: dict[str, object]
):
    served = Served(model, puts.troubled(model))
    shadow = puts.shadow(served, timeout_s=0.05)
    for number in range(10):
        shadow.submit(transaction, a_decision(number))
    eventually(lambda: puts.outcomes() == ["late"] * 10)
    for number in range(10, 15):
        shadow.submit(transaction, a_decision(number))
    assert puts.outcomes()[10:] == ["shed"] * 5, "while it hangs nothing waits for it"
    assert puts.engines[0].calls == 1 and len([t for t in threading.enumerate() if t.name == "shadow"]) == 1
    served.challenger = replace(model, version="9")

    def scored() -> bool:
        shadow.submit(transaction, a_decision(15))
        time.sleep(0.005)
        return "scored" in puts.outcomes()

    eventually(scored)
    (scored_decision, *_) = [decision for decision in puts.decisions if decision.shadow_outcome == "scored"]
    assert scored_decision.shadow_version == "9"
    puts.engines[0].go.set()
    eventually(lambda: len([thread for thread in threading.enumerate() if thread.name == "shadow"]) == 1)
    assert all(decision.shadow_outcome == "late" for decision in puts.decisions[:10]), "its answer comes too late"


def test_a_full_queue_sheds(puts: Puts, model: ServedModel, transaction: dict[str, object]):
    shadow = puts.shadow(Served(model, puts.troubled(model)), queue=5, timeout_s=60.0)
    shadow.submit(transaction, a_decision(0))
    eventually(lambda: puts.engines[0].calls)
    for number in range(1, 9):
        shadow.submit(transaction, a_decision(number))
    assert puts.outcomes() == ["shed"] * 3
    puts.engines[0].go.set()
    eventually(lambda: puts.counts.shadow == {"shed": 3, "scored": 6})


def test_a_slow_challenger_sheds_what_it_keeps_waiting(puts: Puts, model: ServedModel, transaction: dict[str, object]):
    shadow = puts.shadow(Served(model, puts.troubled(model)), timeout_s=1.0)
    for number in range(5):
        shadow.submit(transaction, a_decision(number))
    eventually(lambda: puts.engines[0].calls == 1)
    time.sleep(0.45)  # longer than 0.4 of the timeout
    puts.engines[0].go.set()
    eventually(lambda: len(puts.decisions) == 5)
    assert set(puts.outcomes()[1:]) <= {"shed", "late"} and puts.engines[0].calls == 1


def test_a_challenger_of_another_schema_is_not_asked(
    puts: Puts, models: dict[str, ServedModel], transaction: dict[str, object], caplog: pytest.LogCaptureFixture
):
    shadow = puts.shadow(Served(models["transactions"], models["handbook"]), timeout_s=60.0)
    for number in range(3):
        shadow.submit(transaction, a_decision(number))
    eventually(lambda: puts.outcomes() == ["failed"] * 3)
    assert caplog.text.count("TX_AMOUNT") == 1


def test_the_end_puts_what_still_waits(puts: Puts, model: ServedModel, transaction: dict[str, object]):
    shadow = puts.shadow(Served(model, puts.troubled(model)), timeout_s=60.0)
    for number in range(4):
        shadow.submit(transaction, a_decision(number))
    shadow.close(timeout=0.05)
    assert puts.outcomes() == ["late"] * 4
    shadow.submit(transaction, a_decision(4))
    assert len(puts.decisions) == 5


def test_a_challenger_enters_no_history(
    puts: Puts, bundles: dict[str, Path], tmp_path: Path, requests: dict[str, Mapping[str, object]]
):
    """The replica enters what was decided, into each history once."""
    settings = Settings.from_environment({"FRAUD_STATE": str(tmp_path)})
    model = load_model(settings, folder=str(bundles["handbook"]))
    request = {**requests["handbook"], "TX_DATETIME": "2025-09-01T10:15:00", "CUSTOMER_ID": "new"}
    puts.shadow(Served(model, model), timeout_s=60.0).submit(request, a_decision(1))
    eventually(lambda: puts.outcomes() == ["scored"])
    later = {**request, "TRANSACTION_ID": "2", "TX_DATETIME": "2025-09-01T10:16:00"}
    names = list(model.engine.detector.features.names)
    assert model.engine.encode_row(later)[names.index("count by CUSTOMER_ID (1d)")] == 0


def test_pairs_arrive_in_the_log(tmp_path: Path, model: ServedModel, transaction: dict[str, object]):
    settings = settings_of(tmp_path)
    log = DecisionLog(settings, model.engine.schema)
    shadow = Shadow(Served(model, replace(model, version="8")), log.put, ShadowSettings(timeout_s=60.0))
    answer = model.answer(transaction)
    for _ in range(50):
        shadow.submit(transaction, decision_of(log, model, transaction, answer))
    shadow.close(timeout=60.0)
    log.close()
    rows = rows_of(settings)
    assert len(rows) == 50 and {row["version"] for row in rows} == {"7"}
    scored = [row for row in rows if row["shadow_outcome"] == "scored"]
    assert scored and all((row["shadow_version"], row["shadow_score"]) == ("8", row["score"]) for row in scored)


def test_settings_are_checked():
    assert ShadowSettings.from_environment({}) == ShadowSettings(queue=1000, timeout_s=0.5)
    settings = ShadowSettings.from_environment({"FRAUD_SHADOW_QUEUE": "7", "FRAUD_SHADOW_TIMEOUT_MS": "20"})
    assert settings == ShadowSettings(queue=7, timeout_s=0.02)
    for name, value in (("FRAUD_SHADOW_QUEUE", "many"), ("FRAUD_SHADOW_TIMEOUT_MS", "0")):
        with pytest.raises(ConfigError, match=f"{name}='{value}'"):
            ShadowSettings.from_environment({name: value})
