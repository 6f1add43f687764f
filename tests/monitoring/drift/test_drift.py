"""The command and its page: real Evidently, an answer on top, nothing from the network, nothing hostile alive."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.simulation import transactions
from fraud.errors import ConfigError, DataError, SchemaError
from monitoring.drift import command as drift
from monitoring.drift.evidently_page import guarded, plain

HOSTILE = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)>\"'`\\"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def frame(rows: int, seed: int, shift: float) -> pd.DataFrame:
    """Columns that have been trouble: hostile name and levels, no value at all, one value only, many levels, gaps."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": rng.lognormal(3 + shift, 1, rows),
            HOSTILE: rng.normal(shift, 1, rows),
            "channel": rng.choice(["web", "pos", HOSTILE], rows, p=[0.5 - shift / 4, 0.4, 0.1 + shift / 4]),
            "shop": rng.choice([f"s{i}" for i in range(300)], rows),
            "gap": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
            "empty": np.full(rows, np.nan),
            "same": np.ones(rows),
            "flag": rng.random(rows) < 0.2,
        }
    )


SCHEMA = """
name: trouble
columns:
  - {name: amount, kind: numeric, minimum: 0, transform: log}
  - {name: %s, kind: numeric}
  - {name: channel, kind: categorical}
  - {name: shop, kind: categorical}
  - {name: gap, kind: numeric, nullable: true}
  - {name: empty, kind: numeric, nullable: true}
  - {name: same, kind: numeric}
  - {name: flag, kind: boolean}
"""


@dataclass(frozen=True)
class Made:
    """One report: its folder, exit code, our page, Evidently's and the verdict."""

    folder: Path
    code: int
    html: str
    evidently: str
    document: dict


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("drift")
    tables.write_csv(frame(3_000, 1, 0.0), str(folder / "old.csv"))
    tables.write_parquet(frame(2_000, 2, 1.0), str(folder / "new <b>.parquet"))
    (folder / "schema.yaml").write_text(SCHEMA % json.dumps(HOSTILE))
    out = folder / "reports" / "drift.html"
    code = drift.main(
        [
            "--ref",
            str(folder / "old.csv"),
            "--cur",
            str(folder / "new <b>.parquet"),
            "--out",
            str(out),
            "--fail-on-drift",
            "--schema",
            str(folder / "schema.yaml"),
        ]
    )
    document = json.loads(out.with_suffix(".json").read_text())
    pages = (path.read_text(encoding="utf-8") for path in (out, out.parent / "drift.evidently.html"))
    return Made(out.parent, code, *pages, document)


def test_page_and_verdict_are_written_whole(made: Made):
    assert made.code == drift.DRIFT_EXIT_CODE
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "drift.evidently.html", "drift.html", "drift.json",
    ]  # fmt: skip
    assert made.document["verdict"] == "drift"
    moved = {column["column"] for column in made.document["columns"] if column["drifted"]}
    assert moved >= {HOSTILE, "amount"} and not moved & {"gap", "empty", "same", "flag", "shop"}


def test_our_page_is_small_and_links_to_evidently(made: Made):
    assert '<span class="badge bad">drift</span>' in made.html and "changed strongly" in made.html
    assert len(made.html) < 60_000 and "<script" not in made.html
    assert 'href="drift.evidently.html"' in made.html and 'href="drift.html"' in made.evidently
    assert (
        made.evidently.index("<body") < made.evidently.index("Our verdict: drift.") < made.evidently.index("drawDash")
    )
    assert "Value Drift for column" in made.evidently, "Evidently's own tests"


def test_evidently_marks_are_read_from_its_report(made: Made):
    evidently = made.document["evidently"]
    assert set(evidently["marked"]) >= {"amount", HOSTILE}, "names are those of the data, not Evidently's labels"
    assert "empty" not in evidently["psi"] and set(evidently["psi"]) > set(evidently["marked"])
    drifted = {column["column"] for column in made.document["columns"] if column["drifted"]}
    assert drifted ^ set(evidently["marked"]) == {one["column"] for one in evidently["differences"]}
    assert f"Evidently marks {len(evidently['marked'])} of the {len(evidently['psi'])} columns" in made.html


def test_pages_ask_nothing_of_the_network(made: Made):
    for html in (made.html, made.evidently):
        assert re.search(r'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'', html)
        markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
        assert not re.findall(r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?//""", markup)
        assert not re.findall(r"url\(\s*[\"']?(?!data:)\w+:", markup) and "@import" not in markup


def test_hostile_names_and_levels_are_dead_text(made: Made):
    for html in (made.html, made.evidently):
        assert "</script><script>document" not in html and "<img src=x" not in html
    assert "&lt;/script&gt;&lt;script&gt;document.title=" in made.html, "the reader still sees the name"
    assert "new &lt;b&gt;.parquet" in made.html and "new <b>" not in made.html
    assert HOSTILE in {column["column"] for column in made.document["columns"]}, "JSON keeps names as they are"


def test_plain_labels():
    assert plain("<b>&\"'`\\x\n") == "‹b›＆”’‵＼x"
    assert plain(" ") == "(no name)" and len(plain("x" * 500)) == 60


def test_a_changed_evidently_page_is_noticed(made: Made):
    with pytest.raises(ValueError, match="Evidently"):
        guarded(made.document, "<html><div>no head</div></html>", "drift.html")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_page_renders_in_a_browser(made: Made, tmp_path: Path):
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    shown = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            *quiet,
            f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=10000",
            "--enable-logging=stderr",
            "--dump-dom",
            (made.folder / "drift.evidently.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "our verdict: drift</title>" in shown.stdout and "pwned</title>" not in shown.stdout
    assert "Dataset Drift is detected" in shown.stdout, "Evidently's script has run under the page's policy"
    assert "Refused to" not in shown.stderr and "Uncaught" not in shown.stderr


def test_a_report_was_made_so_the_exit_code_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tables.write_csv(transactions(600, seed=1), str(tmp_path / "a.csv"))
    code = drift.main(
        [
            "--ref",
            str(tmp_path / "a.csv"),
            "--cur",
            str(tmp_path / "a.csv"),
            "--schema",
            "transactions",
            "--fail-on-drift",
            "--out",
            str(tmp_path / "report.html"),
        ]
    )
    assert code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("ok: no column of 5 changed")
    assert printed.endswith("\nnext: python -m monitoring.performance\n")


def test_files_of_something_else_are_not_replaced(tmp_path: Path):
    tables.write_csv(transactions(600, seed=1), str(tmp_path / "a.csv"))
    pair = ["--ref", str(tmp_path / "a.csv"), "--cur", str(tmp_path / "a.csv"), "--schema", "transactions"]
    command = [*pair, "--out", str(tmp_path / "report.html")]
    for name in ("report.json", "report.html"):
        (tmp_path / name).write_text('{"verdict": "mine"}')
        with pytest.raises(DataError, match=rf"{name} exists.*--force"):
            drift.main(command)
        assert (tmp_path / name).read_text() == '{"verdict": "mine"}'
    assert drift.main([*command, "--force"]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "ok"
    assert drift.main(command) == 0, "its own report is replaced"


@pytest.mark.parametrize(
    ("verdict", "out", "command"),
    [
        ("drift", "reports/2026-01-31.html", "python -m monitoring.alerts --drift reports/2026-01-31.json"),
        ("ok", "reports/2026-01-31.html", "python -m monitoring.trend --reports reports --out reports/trend.html"),
        ("ok", "2026-01-31.html", "python -m monitoring.trend --reports . --out ./trend.html"),
    ],
)
def test_the_next_command_uses_the_paths_of_this_one(verdict: str, out: str, command: str):
    assert drift.next_after(verdict, out) == f"next: {command}\n"


def test_too_few_rows_have_an_exit_code_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tables.write_csv(transactions(600, seed=1), str(tmp_path / "old.csv"))
    tables.write_csv(transactions(105, seed=2, drift=3.0), str(tmp_path / "new.csv"))
    arguments = ["--ref", str(tmp_path / "old.csv"), "--cur", str(tmp_path / "new.csv"), "--schema", "transactions"]
    arguments += ["--out", str(tmp_path / "report.html")]
    assert drift.main(arguments) == 0
    assert capsys.readouterr().out.startswith("too_few_rows: too few rows for a verdict")
    assert drift.main([*arguments, "--fail-on-drift"]) == drift.TOO_FEW_ROWS_EXIT_CODE
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "105 of 200 needed" in html and "no alert is sent" in html and "badge bad" not in html
    assert drift.main([*arguments, "--fail-on-drift", "--min-rows", "100"]) == drift.DRIFT_EXIT_CODE


def test_mistakes_leave_nothing_behind(tmp_path: Path):
    tables.write_csv(transactions(300, seed=1), str(tmp_path / "a.csv"))
    for kind, arguments in [
        (DataError, ["--cur", str(tmp_path / "none.csv"), "--schema", "transactions"]),
        (SchemaError, ["--cur", str(tmp_path / "a.csv"), "--schema", "handbook"]),
        (ConfigError, ["--cur", str(tmp_path / "a.csv"), "--min-rows", "0"]),
        (ConfigError, ["--cur", str(tmp_path / "a.csv"), "--out", str(tmp_path / "report.txt")]),
    ]:
        with pytest.raises(kind):
            drift.main(["--ref", str(tmp_path / "a.csv"), "--out", str(tmp_path / "report.html"), *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
