"""The FastAPI app with our engine as a Ray Serve ingress deployment, with Serve's default settings.

serve deploy, with import_path benchmarks.serving.peers.ray_serve:app
"""

from __future__ import annotations

from collections.abc import Mapping

from ray import serve
from ray.serve import Application

from benchmarks.serving.peers import fastapi_engine


def app(arguments: Mapping[str, str]) -> Application:
    """Build the application; `arguments` is unused."""
    return serve.deployment(name="Scorer")(serve.ingress(fastapi_engine.create)()).bind()
