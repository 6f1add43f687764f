"""What an operator sees of the running stack: a line of a replica within seconds, and no noise."""

from __future__ import annotations

import pytest

from deploy import processes
from deploy.local import services
from tests.deploy.live_stack import KEY, Live, eventually

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_refused_request_is_in_its_replicas_log_at_once(live: Live):
    headers = {"X-API-Key": KEY, "X-Request-ID": "seen-by-the-operator"}
    assert live.ask("/score", {"amount": "a lot"}, headers)[0] == 422
    folder = services.session_folder(live.state)

    def logged() -> list[str]:
        replicas = folder.glob("r/session_latest/logs/serve/replica_*Scorer*.log")
        return [path.name for path in replicas if "seen-by-the-operator" in path.read_text()]

    # Without a flush per line it would come after 1,000 lines, so never.
    assert len(eventually(logged, 20)) == 1


def test_mlflows_log_has_no_line_per_request_and_something_bounds_it(live: Live):
    text = (live.state / "log/mlflow.log").read_text()
    assert "Uvicorn running" in text
    assert "GET /" not in text and "POST /" not in text
    assert any("deploy.log_keeper" in process.cmdline() for process in processes.find(live.state))
