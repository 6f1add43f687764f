"""Every picture is written whole, shows its finding in the title, and survives the windows that real life brings."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from fraud.errors import DataError
from fraud.judging import plot_style, plots
from fraud.thresholds.selection import ThresholdConfig, choose

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def window():
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < 0.015).astype(np.int8)
    scores = {
        name: 1 / (1 + np.exp(3 - rng.normal(size=labels.size) - strength * labels))
        for name, strength in (("joined", 3.0), ("forest", 1.5), ("autoencoder", 2.5))
    }
    return labels, scores


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look at what is in them, beside the real PNG."""
    figures: list[Figure] = []
    save = plot_style.save

    def remember(figure, path, title, subtitle):
        figures.append(figure)
        return save(figure, path, title, subtitle)

    monkeypatch.setattr(plot_style, "save", remember)
    return figures


def _texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def _labels_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def _check_png(path, columns=1):
    assert path.read_bytes().startswith(PNG)
    image = imread(path)
    assert image.shape[1] >= 1100 * (1 if columns == 1 else 1.3)
    assert image[:, :, :3].std() > 0.01, "an empty picture"
    assert not list(path.parent.glob(".*.tmp"))


def test_pr_curve_ranks_the_detectors_in_its_title_and_shows_the_base_rate(window, tmp_path, drawn):
    labels, scores = window
    _check_png(plots.pr_curve(labels, scores, tmp_path / "new" / "pr.png"))
    from sklearn.metrics import average_precision_score

    best = average_precision_score(labels, scores["joined"])
    assert f"AP: joined {best:.2f}, autoencoder" in _texts(drawn[0])
    assert f"{labels.sum():,} frauds" in _texts(drawn[0])
    (axes,) = drawn[0].axes
    assert [label.split()[0] for label in _labels_of(axes)] == ["joined", "forest", "autoencoder"]
    assert any(np.allclose(line.get_ydata(), labels.mean()) for line in axes.get_lines())
    by_colour = {line.get_color(): line for line in axes.get_lines()}
    # The drawn steps enclose the average precision.
    x, y = by_colour[plot_style.COLOURS["joined"]].get_data()
    assert np.sum(np.diff(x) * y[1:]) == pytest.approx(best, abs=0.01)


def test_roc_curve_starts_at_nothing_and_ends_at_everything(window, tmp_path, drawn):
    labels, scores = window
    _check_png(plots.roc_curve(labels, scores, tmp_path / "roc.png", window="validation window"))
    assert "AUC: joined 0.9" in _texts(drawn[0]) and "validation window" in _texts(drawn[0])
    lines = {line.get_color(): line for line in drawn[0].axes[0].get_lines()}
    for name in scores:
        x, y = lines[plot_style.COLOURS[name]].get_data()
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_score_histogram_counts_every_row_of_each_class(window, tmp_path, drawn):
    labels, scores = window
    path = plots.score_histogram(labels, scores, tmp_path / "scores.png", thresholds={"joined": 0.4})
    _check_png(path, columns=3)
    recall = (scores["joined"][labels == 1] >= 0.4).mean()
    assert f"finds {recall:.0%} of the frauds" in _texts(drawn[0])
    for axes in drawn[0].axes:
        assert axes.get_yscale() == "log"
        assert sum(bar.get_height() for bar in axes.containers[0]) == (labels == 0).sum()
        assert sum(bar.get_height() for bar in axes.containers[1]) == labels.sum()
    assert [len(axes.get_lines()) for axes in drawn[0].axes] == [1, 0, 0]


def test_score_histogram_works_without_labels(window, tmp_path, drawn):
    _, scores = window
    _check_png(plots.score_histogram(None, {"joined": scores["joined"]}, tmp_path / "scores.png"))
    assert [text.get_text().split()[0] for text in drawn[0].legends[0].get_texts()] == ["unlabelled"]


def test_loss_curve_marks_the_best_epoch(tmp_path, drawn):
    losses = {"training": [3.0, 2.0, 1.0, 0.5], "validation": [3.0, 1.5, 1.2, 1.4]}
    _check_png(plots.loss_curve(losses, tmp_path / "loss.png"))
    _check_png(plots.loss_curve(losses, tmp_path / "loss2.png", best_epoch=2))
    assert "epoch 3 of 4" in _texts(drawn[0]) and "epoch 2 of 4" in _texts(drawn[1])
    marks = [line.get_data() for line in drawn[0].axes[0].get_lines() if len(line.get_xdata()) == 1]
    assert ([3], [1.2]) in [(list(x), list(y)) for x, y in marks]


def test_threshold_cost_has_its_dip_where_the_cost_policy_cuts(window, tmp_path, drawn):
    labels, scores = window
    config = ThresholdConfig(policy="cost", cost_false_positive=3.0, cost_false_negative=90.0)
    chosen = choose(scores["joined"], labels, config, window={})
    path = plots.threshold_cost(labels, scores, tmp_path / "cost.png", config=config, threshold=chosen.value)
    _check_png(path)
    (axes,) = drawn[0].axes
    dots = [line.get_data() for line in axes.get_lines() if line.get_marker() == "o"]
    assert any(x[0] == chosen.value and y[0] == pytest.approx(chosen.achieved["cost"]) for x, y in dots)
    saved = 1 - chosen.achieved["cost"] / chosen.achieved["cost_without_alerts"]
    assert f"saves {saved:.0%} against no alerts" in _texts(drawn[0])
    everything = plots.threshold_cost(labels, scores, tmp_path / "all.png", config=config, threshold=0.0)
    assert everything.exists() and "more than no alerts" in _texts(drawn[1])


def test_threshold_cost_charges_amounts_and_leaves_unknown_rows_out(window, tmp_path, drawn):
    labels, scores = window
    unknown = labels.copy()
    unknown[::3] = -1
    amounts = np.random.default_rng(1).gamma(1.0, 80.0, labels.size)
    config = ThresholdConfig(policy="cost")
    chosen = choose(scores["joined"], unknown, config, window={}, amounts=amounts)
    plots.threshold_cost(unknown, {"joined": scores["joined"]}, tmp_path / "cost.png", config=config, amounts=amounts)
    dots = [line.get_data() for line in drawn[0].axes[0].get_lines() if line.get_marker() == "o"]
    assert dots[0][0][0] == chosen.value and dots[0][1][0] == pytest.approx(chosen.achieved["cost"])
    assert "a missed fraud its amount" in _texts(drawn[0])


def test_threshold_curves_state_the_precision_and_recall_of_the_threshold(window, tmp_path, drawn):
    labels, scores = window
    chosen = choose(scores["joined"], labels, ThresholdConfig(), window={})
    _check_png(plots.threshold_curves(labels, scores, tmp_path / "c.png", threshold=chosen.value), columns=3)
    precision, recall = chosen.achieved["precision"], chosen.achieved["recall"]
    assert f"{precision:.0%} of alerts are fraud, and {recall:.0%} of fraud is found" in _texts(drawn[0])
    assert len(drawn[0].axes) == 6 and drawn[0].axes[3].get_yscale() == "log"


def test_pictures_survive_constant_scores_and_a_threshold_nobody_reaches(window, tmp_path):
    labels, _ = window
    flat = {"joined": np.full(labels.size, 0.3)}
    for name, draw in {
        "pr": lambda path: plots.pr_curve(labels, flat, path),
        "roc": lambda path: plots.roc_curve(labels, flat, path),
        "scores": lambda path: plots.score_histogram(labels, flat, path, thresholds={"joined": 1.1}),
        "cost": lambda path: plots.threshold_cost(labels, flat, path, threshold=1.1),
        "curves": lambda path: plots.threshold_curves(labels, flat, path, threshold=1.1),
        "loss": lambda path: plots.loss_curve({"validation": [0.4]}, path),
    }.items():
        _check_png(draw(tmp_path / f"{name}.png"))


def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(window, tmp_path):
    labels, scores = window
    path = tmp_path / "plot.png"
    for draw in (plots.pr_curve, plots.roc_curve, plots.threshold_cost, plots.threshold_curves):
        with pytest.raises(DataError, match="longer window"):
            draw(np.zeros_like(labels), scores, path)
        with pytest.raises(DataError, match="nothing to draw"):
            draw(labels, {}, path)
    with pytest.raises(DataError, match="is nan"):
        plots.score_histogram(labels[:2], {"joined": [0.1, np.nan]}, path)
    with pytest.raises(DataError, match="no joined scores"):
        plots.score_histogram(None, {"joined": []}, path)
    with pytest.raises(DataError, match="validation loss has no finite value"):
        plots.loss_curve({"training": [1.0], "validation": [np.nan]}, path)
    assert not list(tmp_path.glob("*plot*"))


def test_a_long_title_is_made_to_fit(tmp_path):
    figure, _ = plot_style.new_figure()
    plot_style.save(figure, tmp_path / "long.png", "a very long title " * 9, "short")
    renderer = figure.canvas.get_renderer()
    assert all(text.get_window_extent(renderer).x1 <= figure.bbox.width for text in figure.texts)


def test_unknown_scores_get_colours_of_their_own():
    names = ["joined", "mixture", "graph"]
    colours = [plot_style.colour_of(name, names) for name in names]
    assert len(set(colours)) == 3 and colours[0] == plot_style.COLOURS["joined"]
