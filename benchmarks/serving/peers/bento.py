"""BentoML: a service with our engine, written as in its documentation: typed API methods, one worker.

bentoml serve benchmarks.serving.peers.bento:Scorer
"""

from __future__ import annotations

import bentoml

from benchmarks.serving.peers import shared_engine
from benchmarks.serving.peers.transaction import Answer, Answers, Transaction


@bentoml.service
class Scorer:
    """Scores transactions."""

    def __init__(self) -> None:
        self.engine = shared_engine.load()

    @bentoml.api(route="/score")
    async def score(self, transaction: Transaction, /) -> Answer:
        return Answer.model_construct(**shared_engine.score(self.engine, transaction.__dict__))

    @bentoml.api(route="/score/batch")
    async def score_batch(self, transactions: list[Transaction], /) -> Answers:
        return Answers.model_construct(**shared_engine.score_rows(self.engine, [row.__dict__ for row in transactions]))
