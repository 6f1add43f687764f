"""Say which command runs the gate: `python -m ray_jobs.promote --gate`."""

from __future__ import annotations

from collections.abc import Sequence

from fraud.cli import point_to, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Raise ConfigError that names the command; see `--help`."""
    point_to(
        argv,
        "ray_jobs.gate",
        "The gate judges a challenger against the champion on rows that neither was trained on, and promotes or "
        "refuses it. It runs in `python -m ray_jobs.promote` with --gate, whose --help has its flags.",
        "python -m ray_jobs.promote challenger --gate --data training.parquet",
        "python -m ray_jobs.promote challenger --gate --data training.parquet --out gate/2026-01-31.json",
    )


if __name__ == "__main__":
    run_command(main)
