"""MLflow's server with pages that open in the machine learning view and without the banner about telemetry.

MLflow 3.17 shows the banner also where usage reports are off, and opens in its view for GenAI. Its pages keep both in
the browser's localStorage, under keys that no setting reaches. This is MLflow's plugin `mlflow.app` (see pyproject):
a script at the top of the page sets defaults; what a user chooses stays. If MLflow renames the keys, its own defaults
are back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Response

# Keys and values as of MLflow 3.17.2.
DEFAULTS = {"mlflow.telemetry.info.alert.dismissed_v1": True, "mlflow.workflowType_v1": "machine_learning"}
_SCRIPT = (
    f"<script>for(const[k,v]of Object.entries({json.dumps(DEFAULTS)}))"
    "if(localStorage.getItem(k)===null)localStorage.setItem(k,JSON.stringify(v))</script>"
)


def create_app() -> FastAPI:
    """The app for `mlflow server --app-name fraud`."""
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import create_fastapi_app

    pages.after_request(_add_defaults)
    return create_fastapi_app(pages)


def _add_defaults(response: Response) -> Response:
    if response.status_code == 200 and response.mimetype == "text/html":
        response.direct_passthrough = False  # read the file
        page = response.get_data(as_text=True)
        if 'id="root"' in page:  # MLflow's page, not an artifact of a user
            response.set_data(page.replace("<head>", f"<head>{_SCRIPT}", 1))
            for name in ("ETag", "Last-Modified"):  # of the file, which a browser may have without the script
                response.headers.pop(name, None)
    return response
