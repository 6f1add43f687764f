"""MLServer: a custom runtime with our engine; V2 inference protocol."""

from __future__ import annotations

import pandas as pd
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving.peers import shared_engine


class EngineRuntime(MLModel):
    """Takes one input tensor of shape (n_rows, n_columns)."""

    async def load(self) -> bool:
        """Load the engine."""
        self.engine = shared_engine.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score every row."""
        values = NumpyCodec.decode_input(payload.inputs[0])
        names = shared_engine.columns(self.engine)
        if len(values) == 1:
            scores = [shared_engine.score(self.engine, dict(zip(names, values[0].tolist(), strict=True)))]
            scored = pd.DataFrame(scores)
        else:
            scored = self.engine.score_frame(pd.DataFrame(values, columns=names))
        outputs = [NumpyCodec.encode_output(name, scored[name].to_numpy()) for name in ("score", "is_fraud")]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
