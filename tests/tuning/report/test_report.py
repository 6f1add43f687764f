"""The sweep's page and pictures: drawn from a journal in every state that a sweep can leave it in."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from fraud.errors import ConfigError, DataError
from fraud.judging import plot_style
from fraud.training.config import TrainConfig
from tuning.record.journal import Journal
from tuning.record.results import Candidate, Clock, Results, running_at_once
from tuning.report import command as report
from tuning.report.importance import importances
from tuning.report.plots import front

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CREATED = 1_790_000_000.0
SPACE = "forest: {n_estimators: {choice: [50, 100, 200, 300]}}\nautoencoder: {epochs: 27}\n"
ALL = {
    "best_so_far", "learning_curves", "importance", "pareto", "threshold_heatmap", "timeline",
    "parallel_coordinates_forest", "parallel_coordinates_autoencoder",
}  # fmt: skip


AGAIN = {
    "features.scaling": "robust", "forest.max_samples": 256, "forest.max_features": 0.7, "forest.bootstrap": True,
}  # fmt: skip


class Sweep:
    """Writes a journal as a driver and its trials do."""

    def __init__(self, root: Path, sweep_id: str = "handbook-0712", **request: Any) -> None:
        (root / sweep_id).mkdir(parents=True)
        self.journal = Journal(root / sweep_id)
        self.random = random.Random(3)
        self.journal.write_request(
            {
                "id": sweep_id, "created": CREATED, "data": "data/handbook.parquet", "fingerprint": "ab" * 16,
                "schema": "handbook", "config": TrainConfig().to_dict(), "space": SPACE, "trials": 40,
                "detector": "both", "seed": 7, "objectives": ["average_precision"],
                "objective_name": "average_precision", "folds": 1, "scheduler": "asha", "cpus_per_trial": 0.5,
                "gpus_per_trial": 0, "max_concurrent": 4, "time_budget_s": None, **request,
            }
        )  # fmt: skip
        self.event("opened", CREATED)

    def event(self, kind: str, time: float, **fields: Any) -> None:
        self.journal.append({"event": kind, "time": time, **fields})

    def forest(self, number: int, start: float, worker: str = "10.0.0.1/101", **params: Any) -> float:
        """A forest that ran to its end; returns when."""
        settings = {
            "features.scaling": self.random.choice(["robust", "standard"]),
            "forest.max_samples": self.random.choice([128, 256, 512, 1024]),
            "forest.max_features": self.random.uniform(0.3, 1.0),
            "forest.bootstrap": self.random.choice([True, False]),
        } | params
        self.event("started", start, number=number, detector="forest", params={} if number == 1 else settings)
        base = 0.3 + 0.12 * math.log2(settings["forest.max_samples"] / 128) / 3 + 0.1 * settings["forest.max_features"]
        candidates, end = [], start
        for index, trees in enumerate((50, 100, 200, 300)):
            end = start + 0.02 * trees
            value = base + 0.01 * index + self.random.gauss(0, 0.006)
            candidates.append(
                {"settings": {"forest.n_estimators": trees}, "objective": value, "by_fold": [value],
                 "scoring_cost": 8.5 * trees}
            )  # fmt: skip
            self.event("rung", end, number=number, step=trees, objective=value, epochs=[], worker=worker)
        best = max(range(4), key=lambda i: candidates[i]["objective"])
        self.end(number, end, worker, candidates, best, trees=300)
        return end

    def autoencoder(
        self, number: int, start: float, epochs: int = 27, worker: str = "10.0.0.1/102", labels: bool = True,
        **params: Any,
    ) -> float:  # fmt: skip
        """An autoencoder, stopped early when it runs fewer than 27 epochs; returns when it ended."""
        width = self.random.choice([16, 24, 32])
        settings = {
            "features.scaling": self.random.choice(["robust", "standard"]),
            "autoencoder.hidden": [width, width // 2],
            "autoencoder.activation": self.random.choice(["relu", "tanh", "elu"]),
            "autoencoder.lr": 10 ** self.random.uniform(-4, -2),
            "autoencoder.noise": self.random.uniform(0, 0.3),
            "autoencoder.batch_size": self.random.choice([128, 256, 512]),
        } | params
        self.event("started", start, number=number, detector="autoencoder", params={} if number == 2 else settings)
        top = 0.56 - 0.07 * abs(math.log10(settings["autoencoder.lr"]) + 2.7) - 0.2 * settings["autoencoder.noise"]
        end, done = start, 0
        for step in [rung for rung in (1, 3, 9, 27) if rung <= epochs]:
            reported = []
            for epoch in range(done + 1, step + 1):
                end, error = end + 0.6, 0.9 * math.exp(-epoch / 6) + 0.2 + self.random.random() / 50
                reported.append(
                    {"epoch": epoch, "train_error": error * 0.9, "validation_error": error, "seconds": 0.6, "time": end}
                )
            done = step
            value = top * (1 - math.exp(-step / 3)) + self.random.gauss(0, 0.004) if labels else None
            self.event("rung", end, number=number, step=step, objective=value, epochs=reported, worker=worker)
        value = top * (1 - math.exp(-done / 3)) if labels else 0.8
        candidates = [
            {"settings": {"autoencoder.epochs": done, "autoencoder.score": score}, "objective": value + gain,
             "by_fold": [value + gain], "scoring_cost": 2.0 * 15 * width + 4 * width * width / 2 + extra}
            for score, gain, extra in (("mse", -0.06, 0), ("whitened_latent", 0.0, 60), ("density", 0.015, 400))
        ]  # fmt: skip
        self.end(number, end, worker, candidates, 2, epochs=done, status="finished" if done == 27 else "stopped")
        return end

    def end(
        self, number: int, time: float, worker: str, candidates: list[dict[str, Any]], best: int,
        epochs: int | None = None, trees: int | None = None, status: str = "finished",
    ) -> None:  # fmt: skip
        reason = "ran to its end" if status == "finished" else f"ASHA: not in the best third at epoch {epochs}"
        result = {
            "objective": candidates[best]["objective"], "scoring_cost": candidates[best]["scoring_cost"],
            "seconds": 7.5, "fits": 1, "epochs": epochs, "trees": trees, "candidates": candidates, "best": best,
            "thresholds": None, "combinations": 480 * len(candidates), "memory_mib": 412.0,
        }  # fmt: skip
        self.event("ended", time, number=number, status=status, reason=reason, result=result, worker=worker)

    def fail(self, number: int, start: float, reason: str, detector: str = "autoencoder", **params: Any) -> None:
        self.event("started", start, number=number, detector=detector, params=params or {"autoencoder.lr": 0.5})
        self.event("ended", start + 2, number=number, status="failed", reason=reason, result=None, worker="10.0.0.1/1")

    def winner(self, **changes: Any) -> None:
        points = [
            {"policy": policy, "setting": setting, "contamination": share, "alert_rate": 0.004, "precision": 0.61,
             "recall": 0.58, "value": 0.83,
             "judged": 0.6 - 0.04 * abs(math.log2(weight)) - (0.1 if share == 0.001 else 0)}
            for share in (None, 0.001, 0.005, 0.01, 0.02)
            for policy, setting, weight in (
                [("f_beta", {"beta": 0.25 * 16 ** (i / 19)}, 0.25 * 16 ** (i / 19)) for i in range(20)]
                + [("precision_at_least", {"precision": p / 10}, p / 4) for p in range(1, 10)]
                + [("best_f1", {}, 1.01)]
                + [("cost", {"cost_false_positive": 5.0, "cost_false_negative": c}, c / 60) for c in (50.0, 200.0)]
            )
        ]  # fmt: skip
        best = max(range(len(points)), key=lambda i: points[i]["judged"])
        grid = {"points": points, "judge": "F1", "note": "", "best": best, "seconds": 0.04}
        pairs = [
            {"forest": 1 + 2 * i, "autoencoder": 2 + 2 * i, "weight": 0.4, "objective": 0.613 - 0.01 * i}
            for i in range(6)
        ]
        chosen = {**pairs[0], "settings": {"autoencoder.lr": 0.0021, "forest.n_estimators": 200}}
        record = {
            "pairs": pairs, "winner": chosen, "baseline": {"objective": 0.541, "what": "the base configuration"},
            "grid": grid, **changes,
        }  # fmt: skip
        (self.journal.path / "winner.json").write_text(json.dumps(record))


def full(root: Path) -> Sweep:
    """40 trials of both detectors on four workers; the driver was killed in the middle and went on an hour later."""
    sweep = Sweep(root)
    free = [CREATED + 14 + 0.3 * i for i in range(4)]
    for number in range(1, 41):
        slot = free.index(min(free))
        worker = f"10.0.0.1/{4100 + slot + (7 if number > 20 else 0)}"
        if number == 17:
            sweep.fail(number, free[slot], "out of memory: 2,310 MiB of 2,048; lower autoencoder.batch_size")
            free[slot] += 2
        elif number == 20:
            sweep.event("started", free[slot], number=20, detector="forest", params=dict(AGAIN))
            sweep.event("rung", free[slot] + 2, number=20, step=50, objective=0.31, epochs=[], worker=worker)
            free = [max(free) + 3600 + i for i in range(4)]
            sweep.event("opened", min(free) - 5)
            free[slot] = sweep.forest(20, free[slot], worker, **AGAIN)
        elif number % 2:
            free[slot] = sweep.forest(number, free[slot], worker) + 0.2
        else:
            epochs = 27 if number in (2, 12, 24, 36) else random.Random(number).choice([1, 3, 9])
            free[slot] = sweep.autoencoder(number, free[slot], epochs, worker) + 0.2
    sweep.event("closed", max(free))
    sweep.winner()
    return sweep


@pytest.fixture(scope="module")
def full_sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path]:
    """A whole sweep and the folder of its report."""
    root = tmp_path_factory.mktemp("full")
    sweep = full(root / "sweeps")
    report.write(sweep.journal, root / "out")
    return sweep, root / "out"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Figure, str]]:
    """The figures that were saved with their titles, by file name, beside the real PNG."""
    saved: dict[str, tuple[Figure, str]] = {}
    save = plot_style.save

    def remember(figure, path, title, subtitle):
        saved[Path(path).stem] = (figure, title)
        return save(figure, path, title, subtitle)

    monkeypatch.setattr(plot_style, "save", remember)
    return saved


def shown(path: Path) -> str:
    """The page's words, without its pictures and style."""
    text = path.read_text()
    return re.sub(r"<style>.*?</style>|data:image/png;base64,[^\"]*", "", text, flags=re.DOTALL)


def test_a_complete_sweep_has_every_picture_and_names_the_winner(full_sweep):
    _, out = full_sweep
    assert {path.stem for path in (out / "plots").iterdir()} == ALL
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (out / "plots").iterdir())
    text = shown(out / report.PAGE)
    assert text.count("<img") == len(ALL) and "Not available" not in text
    won = "Forest 1 with autoencoder 2 won with average precision 0.613 on validation, 0.072 more than the"
    assert f"</span> {won} base configuration (0.541).</h1>" in text
    assert "1 of 40 trials failed: out of memory: 2,310 MiB of 2,048" in text
    assert "base configuration: n_estimators 200" in text or "base configuration: n_estimators 300" in text
    assert "40 of 40" in text and "autoencoder 40" in text
    assert "<script" not in text and not re.search(r"(src|href)=\"(?!#|\")", text), "self-contained"


def test_epochs_saved_and_combinations_are_counted_from_the_trials(full_sweep):
    sweep, out = full_sweep
    results = Results.read(sweep.journal)
    epochs = [t.result["epochs"] for t in results.trials if t.result and t.detector == "autoencoder"]
    stopped = [e for e in epochs if e < 27]
    assert results.saved("autoencoder") == (sum(epochs), sum(27 - e for e in stopped))
    assert results.saved("forest") == (300 * 20, 0), "what ran to its end saved nothing"
    share = sum(27 - e for e in stopped) / (sum(epochs) + sum(27 - e for e in stopped))
    assert results.fits == 39 and results.combinations == 480 * (20 * 4 + 19 * 3)
    text = shown(out / report.PAGE)
    assert f"{len(stopped)} of 20 autoencoders stopped early: {share:.0%} of the epochs saved" in text
    assert "39 fits covered 65,760 combinations" in text


def test_the_timeline_leaves_the_pause_out_and_shows_what_a_kill_cut_short(full_sweep, drawn, tmp_path: Path):
    sweep, _ = full_sweep
    report.write(sweep.journal, tmp_path)
    results = Results.read(sweep.journal)
    assert len(results.clock.pauses) == 1 and results.clock.total < 200, "the hour between the drivers is no work"
    assert [(a.outcome, a.trial) for a in results.attempts if a.trial == 20] == [("lost", 20), ("finished", 20)]
    assert max(count for _, count in running_at_once(results.attempts, results.clock)) == 4
    figure, title = drawn["timeline"]
    assert title.startswith("At most 4 trials ran at once") and figure.axes[0].get_xlim()[1] < 200
    bars = [text.get_text() for text in figure.axes[0].texts]
    assert bars.count("20") == 2 and "resumed" in bars


def test_titles_say_what_was_found(full_sweep, drawn, tmp_path: Path):
    sweep, _ = full_sweep
    report.write(sweep.journal, tmp_path)
    titles = {name: title for name, (_, title) in drawn.items()}
    assert "forest by max_samples" in titles["importance"]
    assert "Best of 160 threshold rules: precision_at_least precision 0.4" in titles["threshold_heatmap"]
    assert "gains +0.0" in titles["best_so_far"] and "epochs saved" in titles["learning_curves"]
    axes = drawn["parallel_coordinates_autoencoder"][0].axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert {"lr", "noise", "hidden"} <= set(names) and names[-1] == "average\nprecision"
    assert len(axes.lines) == 18 + len(names), "a line a sampled trial, and one an axis"


def test_the_command_takes_best_yaml_as_it_is(tmp_path: Path):
    sweep = full(tmp_path / "sweeps")
    out = tmp_path / "my out"
    out.mkdir()
    (out / "best.yaml").write_text(yaml.safe_dump({"seed": 7}))
    text = shown(report.write(sweep.journal, out))
    command = "python -m ray_jobs.train --data data/handbook.parquet --schema handbook --config &#39;"
    assert f"{command}{out}/best.yaml&#39;" in text


def test_nothing_is_there_yet(tmp_path: Path):
    sweep = Sweep(tmp_path)
    text = shown(report.write(sweep.journal, tmp_path / "out"))
    assert "No result yet: no trial has ended (0 of 40 ended)." in text
    assert "no trial has started" in text and "<img" not in text


def test_it_is_drawn_while_trials_run_and_half_a_line_is_written(tmp_path: Path):
    sweep = Sweep(tmp_path)
    sweep.event("started", CREATED + 9, number=1, detector="autoencoder", params={"autoencoder.lr": 0.01})
    epochs = [{"epoch": 1, "train_error": 0.9, "validation_error": 0.8, "seconds": 0.6, "time": CREATED + 10}]
    sweep.event("rung", CREATED + 10, number=1, step=1, objective=0.2, epochs=epochs, worker="n/1")
    with (sweep.journal.path / "trials.jsonl").open("a") as file:
        file.write('{"event": "ended", "num')
    text = shown(report.write(sweep.journal, tmp_path / "out"))
    assert "0 of 40 ended" in text and "not ended" in text
    assert {p.stem for p in (tmp_path / "out" / "plots").iterdir()} == {"learning_curves", "timeline"}


def test_one_trial(tmp_path: Path):
    sweep = Sweep(tmp_path, trials=1, detector="forest")
    sweep.forest(1, CREATED + 5)
    text = shown(report.write(sweep.journal, tmp_path / "out"))
    assert "Best so far: forest 1 with average precision 0." in text and "Only 1 trial judged" in text
    assert "forest: importance needs 10 judged trials with sampled settings, and there are 0" in text
    assert "forest only" in text and "--resume handbook-0712" in text


def test_only_forests_and_a_winner_of_one_detector(tmp_path: Path):
    sweep = Sweep(tmp_path, trials=12, detector="forest")
    for number in range(1, 13):
        sweep.forest(number, CREATED + 8 * number)
    alone = {"forest": 4, "autoencoder": None, "weight": None, "objective": 0.51, "settings": {}}
    sweep.winner(pairs=[], winner=alone, baseline={"objective": 0.508, "what": "the base configuration"}, grid=None)
    text = shown(report.write(sweep.journal, tmp_path / "out"))
    assert "Forest 4 won with average precision 0.510 on validation; no better than the base configuration" in text
    assert "too small to rely on" in text and "autoencoder" not in text.split("The search space")[0]
    assert "parallel_coordinates_autoencoder" not in {p.stem for p in (tmp_path / "out" / "plots").iterdir()}


def test_every_trial_failed(tmp_path: Path):
    sweep = Sweep(tmp_path)
    for number in range(1, 4):
        sweep.fail(number, CREATED + 3 * number, "the loss is not a number at epoch 2: lower autoencoder.lr")
    text = shown(report.write(sweep.journal, tmp_path / "out"))
    assert "all 3 trials that ended have failed" in text and "No usable result" in text
    assert text.count("the loss is not a number at epoch 2") >= 4, "once in words, and once a failure"


def test_a_long_list_of_trials_is_folded(tmp_path: Path):
    sweep = Sweep(tmp_path, trials=70)
    for number in range(1, 66):
        sweep.fail(number, CREATED + 3 * number, f"reason {number}")
    text = shown(report.write(sweep.journal, tmp_path / "out"))
    listed, folded = text.split("<summary>5 more</summary>")
    assert "reason 60" in listed.split('id="trials"')[1] and "reason 61" not in listed.split('id="trials"')[1]
    assert "reason 61" in folded and "reason 65" in folded


def test_without_labels_the_stand_in_is_named(tmp_path: Path, drawn):
    sweep = Sweep(tmp_path, objective_name="synthetic_average_precision")
    for number in range(1, 12):
        sweep.autoencoder(number, CREATED + 20 * number, labels=False)
    points = [
        {"policy": "alert_budget", "setting": {"budget": b}, "contamination": None, "judged": None, "alert_rate": b,
         "precision": None, "recall": None, "value": 0.9}
        for b in (0.001, 0.01)
    ]  # fmt: skip
    note = "no labels: nothing can be judged, the budget given is kept"
    grid = {"points": points, "judge": None, "note": note, "best": None, "seconds": 0.01}
    winner = {"forest": None, "autoencoder": 3, "objective": 0.8, "settings": {}}
    sweep.winner(pairs=[], winner=winner, baseline=None, grid=grid)
    text = shown(report.write(sweep.journal, tmp_path / "out"))
    assert "synthetic average precision is a stand-in" in text and note in text
    assert "none can be judged without known frauds" in text
    assert "No frauds are known" in drawn["threshold_heatmap"][1]
    assert drawn["learning_curves"][0].axes[0].get_ylabel() == "validation error"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_stay_text(tmp_path: Path):
    bad = "<script>alert(1)</script> $\\frac{x$ \x00\n\ud800 ƒ漢" + "z" * 300
    sweep = Sweep(tmp_path, schema=bad, data=bad)
    for number in range(1, 13):
        sweep.forest(number, CREATED + 9 * number, worker=f"{bad}/{number % 2}", **{bad: bad + str(number)})
    sweep.fail(13, CREATED, bad, detector="forest", **{bad: {bad: [bad]}})
    setting = {bad: bad}
    point = {"policy": bad, "setting": setting, "contamination": 0.1, "judged": -12.0, "alert_rate": 0.1,
             "precision": None, "recall": 0.0, "value": 1.0}  # fmt: skip
    grid = {"points": [point], "judge": bad, "note": bad, "best": 0, "seconds": 0.0}
    sweep.winner(pairs=[], winner={"forest": 1, "objective": 0.1, "settings": setting}, baseline=None, grid=grid)
    path = report.write(sweep.journal, tmp_path / "out")
    text = shown(path)
    assert "<script" not in text and "&lt;script&gt;" in text and "\x00" not in text
    assert (ALL - {"parallel_coordinates_autoencoder"}) == {p.stem for p in (path.parent / "plots").iterdir()}


def test_a_picture_that_can_no_longer_be_drawn_is_taken_away(tmp_path: Path):
    report.write(full(tmp_path / "sweeps").journal, tmp_path / "out")
    report.write(Sweep(tmp_path / "sweeps", "other").journal, tmp_path / "out")
    assert not [p.stem for p in (tmp_path / "out" / "plots").iterdir() if not p.stem.startswith("parallel")]


def test_the_front_has_what_nothing_beats():
    def one(cost: float | None, value: float) -> Candidate:
        return Candidate(1, "forest", {}, value, cost, True)

    best = front([one(400, 0.6), one(100, 0.5), one(100, 0.4), one(200, 0.5), one(300, 0.55), one(None, 0.9)])
    assert [(c.scoring_cost, c.objective) for c in best] == [(100, 0.5), (300, 0.55), (400, 0.6)]


def test_importance_finds_what_moves_the_objective_and_counts_trials():
    draw = random.Random(0)
    trials = []
    for _ in range(24):
        lr, kind = 10 ** draw.uniform(-4, -1), draw.choice([[16, 8], [32]])
        trials.append(({"lr": lr, "hidden": kind, "same": 1, "some": None} | {}, math.log10(lr)))
    trials[0][0].pop("some")
    result = importances(trials, seed=1)
    assert next(iter(result.shares)) == "lr" and result.shares["lr"] > 0.8 and set(result.shares) == {"lr", "hidden"}
    assert result.left_out == ("some",) and result.trials == 24 and result == importances(trials, seed=1)
    with pytest.raises(DataError, match="needs 10 judged trials with sampled settings, and there are 9"):
        importances(trials[:9], seed=1)
    with pytest.raises(DataError, match="same objective"):
        importances([(params, 0.5) for params, _ in trials], seed=1)
    many = importances(trials * 9, seed=1)
    assert many.method == "PED-ANOVA" and next(iter(many.shares)) == "lr"


def test_a_clock_counts_short_gaps_and_no_long_ones():
    assert Clock(((0.0, 10.0), (100.0, 130.0))).seconds(110.0) == 20.0
    assert Clock(((0.0, 10.0), (100.0, 130.0))).seconds(50.0) == 10.0
    assert Clock.of(5.0, ()).total == 0.0


def test_command_draws_the_newest_sweep_again(isolated_state: Path, tmp_path: Path, capsys):
    full(isolated_state / "sweeps")
    assert report.main(["--outdir", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert output.startswith("Forest 1 with autoencoder 2 won") and str(tmp_path / "out" / report.PAGE) in output
    assert output.endswith("\nnext: python -m tuning.sweep --resume handbook-0712\n"), "there is no best.yaml yet"
    (tmp_path / "out" / "best.yaml").write_text("seed: 7\n")
    assert report.main(["--sweep", "handbook-0712", "--outdir", str(tmp_path / "out")]) == 0
    training = f"--data data/handbook.parquet --schema handbook --config {tmp_path}/out/best.yaml"
    assert capsys.readouterr().out.endswith(f"\nnext: python -m ray_jobs.train {training}\n")
    with pytest.raises(ConfigError, match=r"no sweep '../x'.*newest are handbook-0712"):
        report.main(["--sweep", "../x", "--outdir", str(tmp_path / "out")])


def test_command_without_a_sweep_or_into_a_foreign_folder(isolated_state: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no sweep in .*python -m tuning\.sweep"):
        report.main(["--outdir", str(tmp_path / "out")])
    Sweep(isolated_state / "sweeps")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        report.main(["--outdir", str(tmp_path)])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_page_renders_in_a_browser(full_sweep, tmp_path: Path):
    _, out = full_sweep
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet,
               f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom",
               (out / report.PAGE).as_uri()]  # fmt: skip
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>Sweep handbook-0712: Forest 1 with autoencoder 2 won" in seen.stdout
    assert "Refused to" not in seen.stderr and "Uncaught" not in seen.stderr
