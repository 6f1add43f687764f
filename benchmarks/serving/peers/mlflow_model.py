"""MLflow: our engine as a Python model from code, for `mlflow models serve`.

python -m benchmarks.serving.peers.mlflow_model FOLDER      saves it
"""

from __future__ import annotations

import sys

import mlflow
import pandas as pd

from benchmarks.serving.peers import shared_engine


class EngineModel(mlflow.pyfunc.PythonModel):
    """Takes a frame, returns scores and decisions."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Load the engine."""
        self.engine = shared_engine.load()

    def predict(self, context: mlflow.pyfunc.PythonModelContext, model_input: pd.DataFrame) -> pd.DataFrame:
        """Score every row."""
        if len(model_input) == 1:
            return pd.DataFrame([shared_engine.score(self.engine, model_input.iloc[0].to_dict())])
        return self.engine.score_frame(model_input)[["score", "is_fraud"]]


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[1], python_model=__file__, pip_requirements=[])
else:
    mlflow.models.set_model(EngineModel())
