"""MLServer: a custom runtime, as its documentation calls it, with our engine; V2 inference protocol."""

from __future__ import annotations

import pandas as pd
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving.peers import engine as held


class EngineRuntime(MLModel):
    """Takes one input tensor of shape (n_rows, n_columns)."""

    async def load(self) -> bool:
        """Load the engine."""
        self.engine = held.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score every row."""
        values = NumpyCodec.decode_input(payload.inputs[0])
        names = held.columns(self.engine)
        if len(values) == 1:
            scores = [held.score(self.engine, dict(zip(names, values[0].tolist(), strict=True)))]
            found = pd.DataFrame(scores)
        else:
            found = self.engine.score_frame(pd.DataFrame(values, columns=names))
        outputs = [NumpyCodec.encode_output(name, found[name].to_numpy()) for name in ("score", "is_fraud")]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
