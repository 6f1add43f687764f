"""The common implementation: FastAPI with plain routes, pandas, scikit-learn's scaler and forest, a torch autoencoder.

uvicorn --factory benchmarks.serving.peers.seed_style:create

The models are fitted at start, on the training rows of ours; loading pickles would give the same speed.
"""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import torch
from fastapi import FastAPI
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler

from benchmarks.serving.peers.transaction import Answer, Answers, Transaction

ROWS = "BENCHMARK_ROWS"  # environment variable: Parquet with the training rows
COLUMNS = list(Transaction.model_fields)


class Model:
    """Forest and autoencoder. score: mean of both, each scaled by its training range."""

    def __init__(self, rows: pd.DataFrame) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        normal = rows[rows["is_fraud"] != 1][COLUMNS]
        self.scaler = StandardScaler().fit(normal)
        X = self.scaler.transform(normal)
        self.forest = IsolationForest(n_estimators=100, random_state=0).fit(X)
        self.autoencoder = torch.nn.Sequential(
            torch.nn.Linear(len(COLUMNS), 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.ReLU(),
            torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, len(COLUMNS)),
        )  # fmt: skip
        optimizer, x = torch.optim.Adam(self.autoencoder.parameters(), lr=1e-2), torch.tensor(X, dtype=torch.float32)
        for _ in range(3):
            for batch in x[torch.randperm(len(x))].split(256):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(self.autoencoder(batch), batch).backward()
                optimizer.step()
        self.autoencoder.eval()
        self.ranges = [(part.min(), part.max()) for part in self._parts(X)]
        self.threshold = float(np.quantile(self._joined(X), 0.99))

    def score(self, rows: pd.DataFrame) -> np.ndarray:
        """Scores, float64 (n_rows,)."""
        return self._joined(self.scaler.transform(rows))

    def _parts(self, X: np.ndarray) -> list[np.ndarray]:
        isolation = -self.forest.decision_function(X)
        with torch.no_grad():
            x = torch.tensor(X, dtype=torch.float32)
            error = torch.mean((self.autoencoder(x) - x) ** 2, dim=1).numpy()
        return [isolation, error]

    def _joined(self, X: np.ndarray) -> np.ndarray:
        scaled = [(part - low) / (high - low) for part, (low, high) in zip(self._parts(X), self.ranges, strict=True)]
        return np.mean(scaled, axis=0)


def create() -> FastAPI:
    """Fit the models and build the app."""
    app, model = FastAPI(), Model(pd.read_parquet(os.environ[ROWS]))

    @app.post("/score")
    def score(transaction: Transaction) -> Answer:
        value = float(model.score(pd.DataFrame([transaction.model_dump()], columns=COLUMNS))[0])
        return Answer(score=value, is_fraud=value > model.threshold, threshold=model.threshold)

    @app.post("/score/batch")
    def score_batch(transactions: list[Transaction]) -> Answers:
        values = model.score(pd.DataFrame([row.model_dump() for row in transactions], columns=COLUMNS))
        decided = (values > model.threshold).tolist()
        return Answers(score=values.tolist(), is_fraud=decided, threshold=model.threshold)

    return app
