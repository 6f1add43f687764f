"""LitServe: an API with our engine, written as in its documentation; one worker, one API server.

python -m benchmarks.serving.peers.lit PORT
"""

from __future__ import annotations

import sys
from typing import Any

import litserve

from benchmarks.serving.peers import shared_engine


class Scorer(litserve.LitAPI):
    """Takes a transaction, or an array of them."""

    def setup(self, device: str) -> None:
        """Load the engine."""
        self.engine = shared_engine.load()

    def predict(self, x: Any) -> dict[str, Any]:
        """Score."""
        return shared_engine.score_rows(self.engine, x) if isinstance(x, list) else shared_engine.score(self.engine, x)


if __name__ == "__main__":
    server = litserve.LitServer(Scorer(api_path="/score"), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
