"""`make demo`: train, deploy, score and monitor once, each step with the command that a user would type."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy import processes
from deploy.local import access, score_service, services
from deploy.local.demo_labels import LabelScenario, find_scenario, labels_csv
from deploy.local.services import BIN, CODE, Echo, Stack, StackError
from deploy.local.status import addresses
from fraud.errors import ConfigError
from fraud.settings import Settings, context

SEED_REQUEST = {"amount": 220, "hour": 3, "distance": 12, "device_score": 0.92, "country_mismatch": 1}
DEFAULT_SCHEMA = "transactions"
LABELS_S = 15.0  # longest wait for labels to reach the live history
SCORED = "artifacts/scored.parquet"
REFERENCE = "artifacts/reference.parquet"  # written by the training, to compare later days with
REPORT = "monitoring/drift_report.html"
EVALUATION = "evaluation/evaluation.html"
# Log lines of our own code, not of Ray and other libraries: shown while a job runs.
OUR_LINE = re.compile(r"(?:INFO|WARNING|ERROR) (?:fraud|ray_jobs|monitoring|__main__)[\w.]*: (.*)")
NOT_A_RESULT = re.compile(
    r"$|next: |\d{4}[-/]\d\d[-/]\d\d |[\[(\x1b/]|\w+: .*%\||Running |Traceback |warnings\.warn|\s+(?:File |\^)"
)
# A user error as printed by fraud.cli.run_command, or the last line of a traceback.
CAUSE = re.compile(r"error: |[\w.]*(?:Error|Exception|Interrupt|Exit)\b")


@dataclass(frozen=True)
class DemoInputs:
    """Inputs of the steps.

    training: file or URL to train on; scoring: arguments of ray_jobs.score that select the day; request: body of one
    /score request. scenario: transactions to label as frauds, if the schema counts known frauds.
    """

    training: str
    scoring: list[str]
    request: dict[str, Any]
    scenario: LabelScenario | None = None


@dataclass
class Demo:
    """One demonstration.

    data, schema, config: the user's transactions, schema and training configuration. data=None generates `rows`
    synthetic transactions.
    """

    settings: Settings
    echo: Echo
    data: str | None
    schema: str
    config: str | None
    rows: int
    stack: Stack = field(init=False)
    model_name: str = field(init=False)

    def __post_init__(self) -> None:
        """Use a registered model per schema: champions of different schemas cannot be compared.

        FRAUD_MODEL_NAME names another.
        """
        self.model_name = self.settings.model_name
        if self.schema != DEFAULT_SCHEMA and not os.environ.get(context.MODEL_NAME):
            from fraud.schema import Schema

            self.model_name += f"-{Schema.load(self.schema).name}"

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, settings: Settings, echo: Echo) -> Demo:
        """Build from the arguments of `demo`. Raises ConfigError for a missing file."""
        paths = {}
        for name in ("data", "schema", "config"):
            value = getattr(arguments, name)
            located = settings.locate(value) if value else value
            is_file = value is not None and ("://" in value or Path(located).exists())
            if value and not is_file and (name == "data" or Path(value).suffix or "/" in value):
                raise ConfigError(f"--{name} {value}: there is no such file; give a path that exists or a URL")
            paths[name] = located if is_file else value
        return cls(settings, echo, paths["data"], paths["schema"], paths["config"], arguments.rows)

    def run(self) -> None:
        """Run every step and print the addresses. Raises StackError, naming the step, if one fails."""
        began = time.monotonic()
        with processes.MemoryWatch(self.settings.state) as memory:
            with self._step("start Ray and MLflow"):
                self.stack = services.up(self.settings, self._indented)
                # From here on, every command and job on this stack speaks of this demo's model.
                self.stack.remember({context.MODEL_NAME: self.model_name, context.SCHEMA: self.schema})
            inputs = self._user_inputs() if self.data else self._synthetic_inputs()
            config = ["--config", self.config] if self.config else []
            where = ["--data", inputs.training, "--schema", self.schema, "--outdir", "artifacts"]
            self._job("train", "ray_jobs.train", *where, *config)
            evaluation, scored, report = (self._result_path(name) for name in (EVALUATION, SCORED, REPORT))
            self._job("judge the champion", "ray_jobs.evaluate", "--data", inputs.training, "--out", evaluation)
            with self._step("deploy /score"):
                self.deploy()
            with self._step("score one transaction"):
                self._score_one(inputs.request)
            if inputs.scenario is not None:
                self._show_labels(inputs.scenario)
            self._job("score a day", "ray_jobs.score", *inputs.scoring, "--out", scored, "--force")
            # With shared storage, use the champion's own reference among its artifacts, not this machine's file.
            ref = [] if self.settings.store else ["--ref", REFERENCE]
            files = [*ref, "--cur", scored, "--model", "champion", "--out", report]
            self._job("compare the day with the training", "monitoring.drift", *files)
        self.echo("")
        self._close(time.monotonic() - began, memory)

    def _synthetic_inputs(self) -> DemoInputs:
        data, day = (self.settings.stored(f"data/demo_{name}.csv") for name in ("transactions", "today"))
        make, today = ("ray_jobs.generate", "--rows"), str(max(1000, self.rows // 10))
        self._job("make transactions", *make, str(self.rows), "--out", data, "--force")
        self._job("make a later day", *make, today, "--seed", "8", "--drift", "0.5", "--out", day, "--force")
        return DemoInputs(data, ["--data", day], SEED_REQUEST)

    def _user_inputs(self) -> DemoInputs:
        from deploy.local.sample import cut_last_day, request_from
        from fraud.data import tables
        from fraud.schema import Schema

        assert self.data is not None
        with self._step("cut off the last day"):
            schema = Schema.load(self.schema)
            last = cut_last_day(self.data, schema, self.settings.state / "demo")
            # Pass the complete file if the day has a date, so that its customers have their history.
            scoring = ["--data", str(last.rows)]
            if last.date is not None:
                scoring = ["--data", self.data, "--date", str(last.date), "--other-days", "skip"]
            scenario = find_scenario(tables.load(self.data, schema).rows, last.rows, schema) if schema.history else None
            return DemoInputs(self.data, scoring, request_from(last.rows, schema), scenario)

    def _result_path(self, name: str) -> str:
        """A result's path: relative, or below FRAUD_STORE."""
        return self.settings.stored(name) if self.settings.store else name

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        began = time.monotonic()
        self.echo(f"==> {title}")
        try:
            yield
        except BaseException:
            self.echo(f"    failed after {time.monotonic() - began:.1f} s; `make down` stops what runs")
            raise
        self.echo(f"    {time.monotonic() - began:.1f} s")

    def _job(self, title: str, module: str, *arguments: str) -> Path:
        """Submit `python -m module arguments` to Ray and wait. Returns its log. Raises StackError if it fails."""
        with self._step(title):
            command = ["python", "-m", module, *arguments]
            self.echo(f"    {' '.join(command)}")
            submit = ["job", "submit", "--address", self.stack.url("dashboard"), "--working-dir", str(CODE)]
            if self.model_name != self.settings.model_name:
                submit += ["--runtime-env-json", json.dumps({"env_vars": {"FRAUD_MODEL_NAME": self.model_name}})]
            return self._ray([*submit, "--", *command], title)

    def _ray(self, arguments: Sequence[str], title: str) -> Path:
        log = self.settings.state / "log" / f"{title.replace(' ', '-').replace('/', '')}.log"
        with log.open("w", encoding="utf-8") as output:
            running = subprocess.Popen(
                [str(BIN / "ray"), *arguments],
                env=self.stack.environment(),
                cwd=CODE,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            assert running.stdout is not None
            in_job = in_result = False
            for line in running.stdout:
                output.write(line)
                output.flush()
                if match := OUR_LINE.search(line):
                    self.echo(f"    {match[1]}")
                # An indented line continues the one before it: our table, or a traceback.
                in_result = in_job and not NOT_A_RESULT.match(line) and (in_result or not line[0].isspace())
                if in_result:
                    self.echo(f"    {line.rstrip()}")
                in_job = in_job or line.startswith("Running entrypoint")
            code = running.wait()
        if code != 0:
            self.echo(processes.last_lines(log))
            raise StackError(f"step '{title}' failed: {_reason(log) or f'exit code {code}'}; its log is {log}")
        return log

    def deploy(self) -> None:
        """Deploy /score and wait until it runs."""
        score_service.deploy(self.stack, self._config(), self._indented)

    def _config(self) -> Path:
        """serve_app/config.yaml with this stack's host and port and this demo's model."""
        return score_service.configure(self.stack, score_service.CONFIG, self.model_name, self._indented)

    def _indented(self, line: str) -> None:
        self.echo(f"    {line}")

    def _score_one(self, request: dict[str, Any]) -> None:
        url, body = f"http://{access.local_address()}:{self.stack.serve_port}/score", json.dumps(request)
        self.echo(f"    curl -X POST {url} -H 'Content-Type: application/json' -d '{body}'")
        deadline = time.monotonic() + 30
        while True:
            code, answer = services.ask(url, body=body, timeout_s=30)
            if code == 200:
                self.echo(f"    {answer}")
                for reason in json.loads(answer)["reasons"]:
                    self.echo(f"    because: {reason['text']}")
                return
            # The route opens a moment after the status is RUNNING.
            if code not in (0, 404, 503) or time.monotonic() > deadline:
                raise StackError(f"/score answered {code or 'nothing'}: {answer[:500]}")
            time.sleep(0.5)

    def _show_labels(self, scenario: LabelScenario) -> None:
        """Ingest fraud labels, show that the entity's next score rises, then retract the labels: they are invented.

        Raises StackError if the labels do not reach the live history within `LABELS_S`.
        """
        before = self._explain_score(scenario)
        for is_fraud, verdict in ((True, "frauds"), (False, "legitimate after all")):
            path = self.settings.state / "demo" / f"labels-{int(is_fraud)}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(labels_csv(scenario, is_fraud=is_fraud), encoding="utf-8")
            title = f"call {len(scenario.ids)} transactions of {scenario.entity} {scenario.value} {verdict}"
            self._job(title, "ray_jobs.labels", "ingest", str(path), "--schema", self.schema, "--source", "demo",
                      "--force")  # fmt: skip
            began, after = time.monotonic(), self._explain_score(scenario)
            while after == before and time.monotonic() - began < LABELS_S:
                time.sleep(0.2)
                after = self._explain_score(scenario)
            if after == before:
                raise StackError(f"the labels did not reach the live history within {LABELS_S:.0f} s: see GET /readyz")
            self.echo(
                f"    the next transaction of {scenario.entity} {scenario.value}: score {before:.4f} -> {after:.4f}"
            )
            before = after

    def _explain_score(self, scenario: LabelScenario) -> float:
        """The score of the scenario's transaction by /explain, which does not add it to the history."""
        url = f"http://{access.local_address()}:{self.stack.serve_port}/explain"
        code, answer = services.ask(url, body=json.dumps(scenario.request), timeout_s=30)
        if code != 200:
            raise StackError(f"/explain answered {code or 'nothing'}: {answer[:500]}")
        return float(json.loads(answer)["score"])

    def _close(self, seconds: float, memory: processes.MemoryWatch) -> None:
        for line in addresses(self.stack):
            self.echo(line)
        self.echo(f"evaluation     {self.settings.stored(EVALUATION)}")
        self.echo(f"drift report   {self.settings.stored(REPORT)}")
        self.echo(f"scored day     {self.settings.stored(SCORED)}")
        peak, fall = memory.peak_bytes / 2**30, memory.fall_bytes / 2**30
        self.echo(
            f"took {seconds:.0f} s; peak memory {peak:.1f} GiB (the machine's free memory fell by {fall:.1f} GiB)"
        )
        self.echo("stop everything with: make down")


def _reason(log: Path) -> str:
    """The last line of a job's log that names the cause of its failure, or ""."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if CAUSE.match(line)), "")
