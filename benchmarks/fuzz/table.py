"""The table of docs/bad_input.md, from the JSON of the last run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages import ROOT, write_section

RESULTS = ROOT / "benchmarks/results/fuzz.json"
PAGE = ROOT / "docs/bad_input.md"
BEGIN = "<!-- measured: python -m benchmarks.fuzz --table -->"
PARTS = {
    "cases": "requests from the OpenAPI document (schemathesis)",
    "bodies": "raw bodies (hypothesis)",
    "attacks": "attacks on the socket",
    "keys": "requests without a valid key",
}


def markdown(results: Mapping[str, Any]) -> str:
    """Markdown table: a row per run and part."""
    lines = [
        "| server, schema | what | requests | answers | longest | failures |",
        "|---|---|---|---|---|---|",
    ]
    memory = []
    for run in results.values():
        where = f"{run['server']}, {run['schema']}"
        for name, title in PARTS.items():
            part = run["parts"][name]
            statuses = ", ".join(f"{status}: {n:,}" for status, n in sorted(part["statuses"].items()))
            cells = [where, title, f"{part['requests']:,}", statuses, f"{part['longest_ms']:,.0f} ms"]
            lines.append(f"| {' | '.join([*cells, str(len(part['failures']))])} |")
        rss = run["rss"]
        memory.append(
            f"{where}: {rss['before_mib']:,.0f} MiB before, {rss['after_mib']:,.0f} MiB after; over the second half of "
            f"the {run['requests']:,} generated requests {rss['kib_a_request']:+.2f} KiB a request."
        )
    return "\n".join([*lines, "", "Memory (RSS). " + " ".join(memory)])


def write(results: Mapping[str, Any]) -> None:
    write_section(PAGE, markdown(results), BEGIN)
