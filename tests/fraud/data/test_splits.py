"""Splits never let a part see a later one, or labels that were not known yet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fraud.data.splits import PARTS, Split, SplitConfig, Window, prequential, split_by_time
from fraud.errors import ConfigError, DataError

DAY = np.timedelta64(86_400_000_000, "us")
START = np.datetime64("2018-07-01T00:00:00", "us")


def hourly(days: int) -> np.ndarray:
    """One row an hour, from START."""
    return START + np.arange(days * 24) * np.timedelta64(3_600_000_000, "us")


def parts(split: Split) -> list[np.ndarray]:
    return [getattr(split, name) for name in PARTS]


def assert_fair(split: Split, times: np.ndarray, config: SplitConfig) -> None:
    """The promises that hold for every split of every data set."""
    rows = np.concatenate(parts(split))
    assert np.unique(rows).size == rows.size
    for part in parts(split):
        assert part.dtype == np.int64
        assert (np.diff(times[part]) >= np.timedelta64(0)).all()
    delay = np.timedelta64(round(config.delay_days * 86_400_000_000), "us")
    train_end, validation_end = times[split.train].max(), times[split.validation].max()
    assert times[split.validation].min() > train_end + (delay if config.validation_gap else np.timedelta64(0, "us"))
    assert times[split.test].min() > validation_end + delay
    if split.history.size:
        assert times[split.history].max() < times[split.train].min()


def test_shares_without_delay_are_exact_and_cover_every_row() -> None:
    times = hourly(100)
    config = SplitConfig(history=0.10, train=0.50, validation=0.15, test=0.25)
    split = split_by_time(times, config, times.size)
    assert [part.size for part in parts(split)] == [240, 1200, 360, 600]
    assert np.array_equal(np.concatenate(parts(split)), np.arange(2400))
    assert split.warnings == ()
    assert_fair(split, times, config)


def test_default_is_60_15_25_without_history() -> None:
    split = split_by_time(hourly(100), SplitConfig(), 2400)
    assert [part.size for part in parts(split)] == [0, 1440, 360, 600]


def test_delay_leaves_out_rows_before_validation_and_test_and_keeps_the_shares() -> None:
    times = hourly(100)
    config = SplitConfig(delay_days=7)
    split = split_by_time(times, config, times.size)
    assert_fair(split, times, config)
    used = sum(part.size for part in parts(split))
    assert used == 2400 - 2 * 7 * 24
    assert split.train.size / used == pytest.approx(0.60, abs=0.002)
    assert split.validation.size / used == pytest.approx(0.15, abs=0.002)
    assert split.test[-1] == 2399


def test_a_row_exactly_one_delay_after_the_training_end_is_not_in_validation() -> None:
    times = hourly(100)
    split = split_by_time(times, SplitConfig(delay_days=7), times.size)
    at_the_delay = np.flatnonzero(times == times[split.train[-1]] + 7 * DAY)
    assert at_the_delay.size == 1
    assert at_the_delay[0] not in split.validation
    assert split.validation[0] == at_the_delay[0] + 1


def test_validation_gap_off_lets_validation_follow_train_at_once_but_test_still_waits() -> None:
    times = hourly(100)
    config = SplitConfig(delay_days=7, validation_gap=False)
    split = split_by_time(times, config, times.size)
    assert split.validation[0] == split.train[-1] + 1
    assert times[split.test[0]] - times[split.validation[-1]] > 7 * DAY
    assert_fair(split, times, config)


def test_rows_in_any_order_give_positions_in_time_order() -> None:
    times = hourly(50)
    shuffle = np.random.default_rng(0).permutation(times.size)
    straight = split_by_time(times, SplitConfig(delay_days=2), times.size)
    shuffled = split_by_time(times[shuffle], SplitConfig(delay_days=2), times.size)
    for name in PARTS:
        assert np.array_equal(shuffle[getattr(shuffled, name)], getattr(straight, name))


def test_rows_of_one_instant_stay_together_at_every_boundary() -> None:
    times = np.repeat(START + np.arange(20) * DAY, 37)
    config = SplitConfig(history=0.1, train=0.5, validation=0.15, test=0.25)
    split = split_by_time(times, config, times.size)
    assert_fair(split, times, config)
    for part in parts(split):
        assert part.size % 37 == 0
    assert sum(part.size for part in parts(split)) == times.size


def test_equal_times_keep_their_order_in_the_file() -> None:
    times = np.repeat(START + np.arange(10) * DAY, 5)
    split = split_by_time(times, SplitConfig(), times.size)
    assert np.array_equal(split.train, np.sort(split.train))


@pytest.mark.parametrize("seed", range(25))
def test_any_data_is_split_fairly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(200, 2000))
    resolution = int(rng.choice([1, 3600, 86_400]))
    seconds = rng.integers(0, 60 * 86_400, n) // resolution * resolution
    times = START + seconds * np.timedelta64(1_000_000, "us")
    history = float(rng.choice([0.0, 0.1]))
    config = SplitConfig(
        history=history,
        train=0.6 - history,
        delay_days=float(rng.choice([0, 0.5, 3])),
        validation_gap=bool(rng.random() < 0.5),
    )
    split = split_by_time(times, config, n)
    assert_fair(split, times, config)
    assert times[split.test].max() == times.max()


def test_other_datetime_units_are_taken() -> None:
    times = hourly(100)
    expected = split_by_time(times, SplitConfig(delay_days=3), times.size)
    for unit in ("s", "ms", "ns"):
        split = split_by_time(times.astype(f"datetime64[{unit}]"), SplitConfig(delay_days=3), times.size)
        assert all(np.array_equal(a, b) for a, b in zip(parts(split), parts(expected), strict=True))


def test_without_times_rows_are_split_in_order_with_a_warning() -> None:
    split = split_by_time(None, SplitConfig(delay_days=7), 1000)
    assert np.array_equal(np.concatenate(parts(split)), np.arange(1000))
    assert [part.size for part in parts(split)] == [0, 600, 150, 250]
    (warning,) = split.warnings
    assert "no timestamp" in warning
    assert "row order" in warning
    assert "delay_days=7 is ignored" in warning


def test_the_row_order_warning_is_silent_about_a_delay_nobody_asked_for() -> None:
    assert "delay" not in split_by_time(None, SplitConfig(), 100).warnings[0]


HANDBOOK = SplitConfig(
    train_start="2018-07-25",
    validation_start="2018-07-30",
    test_start="2018-08-08",
    test_end="2018-08-15",
    delay_days=7,
    validation_gap=False,
)


def test_the_handbook_protocol() -> None:
    times = hourly(60)  # 2018-07-01 to 2018-08-29
    split = split_by_time(times, HANDBOOK, times.size)
    labels = np.zeros(times.size, dtype=np.int8)
    labels[split.test[:3]] = 1
    labels[split.history] = -1
    assert split.windows(times, labels) == [
        Window("history", "2018-07-01T00:00:00", "2018-07-24T23:00:00", 24 * 24, None),
        Window("train", "2018-07-25T00:00:00", "2018-07-29T23:00:00", 5 * 24, 0),
        Window("validation", "2018-07-30T00:00:00", "2018-07-31T23:00:00", 2 * 24, 0),
        Window("test", "2018-08-08T00:00:00", "2018-08-14T23:00:00", 7 * 24, 3),
    ]
    assert_fair(split, times, HANDBOOK)


def test_instants_with_a_gap_end_train_one_delay_before_validation() -> None:
    times = hourly(60)
    config = SplitConfig(validation_start="2018-07-20", test_start="2018-08-05", delay_days=4)
    split = split_by_time(times, config, times.size)
    windows = {window.name: window for window in split.windows(times, None)}
    assert windows["train"].start == "2018-07-01T00:00:00"
    assert windows["train"].end == "2018-07-15T23:00:00"
    assert windows["validation"].end == "2018-07-31T23:00:00"
    assert windows["test"].end == "2018-08-29T23:00:00"
    assert windows["test"].frauds is None
    assert "history" not in windows
    assert_fair(split, times, config)


def test_an_explicit_validation_end_and_time_zones_are_kept() -> None:
    times = hourly(60)
    config = SplitConfig(
        validation_start="2018-07-20T02:00:00+02:00", validation_end="2018-07-22T00:00:00Z", test_start="2018-08-05"
    )
    windows = split_by_time(times, config, times.size).windows(times, None)
    assert (windows[1].start, windows[1].end) == ("2018-07-20T00:00:00", "2018-07-21T23:00:00")


def test_windows_without_times_name_rows() -> None:
    labels = np.array([0, 1] * 50, dtype=np.int8)
    windows = split_by_time(None, SplitConfig(), 100).windows(None, labels)
    assert windows[0] == Window("train", "row 0", "row 59", 60, 30)
    assert windows[-1] == Window("test", "row 75", "row 99", 25, 13)


def test_prequential_shifts_the_handbook_weeks_back_newest_first() -> None:
    times = hourly(60)
    folds = prequential(times, HANDBOOK, 3)
    starts = [fold.windows(times, None)[-1].start for fold in folds]
    assert starts == ["2018-08-08T00:00:00", "2018-08-01T00:00:00", "2018-07-25T00:00:00"]
    for fold in folds:
        assert [fold.train.size, fold.validation.size, fold.test.size] == [5 * 24, 2 * 24, 7 * 24]
        assert fold.history[0] == 0
        assert fold.history[-1] + 1 == fold.train[0]
        assert fold.warnings == ()
        assert_fair(fold, times, HANDBOOK)


def test_prequential_by_shares_tiles_the_tests_and_keeps_the_delay() -> None:
    times = hourly(120)
    config = SplitConfig(history=0.3, train=0.4, validation=0.2, test=0.1, delay_days=3)
    folds = prequential(times, config, 3)
    assert all(
        np.array_equal(a, b) for a, b in zip(parts(folds[0]), parts(split_by_time(times, config, 2880)), strict=True)
    )
    for newer, older in itertools.pairwise(folds):
        assert older.test[-1] + 1 == newer.test[0]
        assert older.test.size == newer.test.size
        assert older.train.size == newer.train.size
    for fold in folds:
        assert_fair(fold, times, config)


def test_a_fold_whose_training_window_begins_before_the_data_says_so() -> None:
    folds = prequential(hourly(100), SplitConfig(train=0.7, validation=0.2, test=0.1), 3)
    assert folds[0].warnings == ()
    assert "fold 1" in folds[1].warnings[0]
    assert "cut short" in folds[1].warnings[0]
    assert folds[2].train.size < folds[1].train.size < folds[0].train.size


def test_prequential_by_row_order() -> None:
    folds = prequential(None, SplitConfig(train=0.6, validation=0.3, test=0.1), 2, n_rows=1000)
    assert [fold.test.tolist()[0] for fold in folds] == [900, 800]
    assert all("row order" in fold.warnings[0] for fold in folds)


def test_too_many_folds_name_the_fold_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"train part of fold 3 is empty.*fewer folds"):
        prequential(hourly(100), SplitConfig(), 5)


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_too_few_rows_name_an_empty_part(n_rows: int) -> None:
    with pytest.raises(DataError, match=r"(train|validation|test) part is empty: .*longer stretch of data"):
        split_by_time(hourly(1)[:n_rows], SplitConfig(), n_rows)


def test_no_rows() -> None:
    with pytest.raises(DataError, match="the data has no rows"):
        split_by_time(np.array([], dtype="datetime64[us]"), SplitConfig(), 0)


def test_a_delay_longer_than_the_data_names_the_delay() -> None:
    with pytest.raises(
        DataError, match=r"part is empty.*2018-07-01T00:00:00 to 2018-07-05T23:00:00.*delay_days=7.*lower"
    ):
        split_by_time(hourly(5), SplitConfig(delay_days=7), 120)


def test_all_rows_at_one_instant_cannot_be_split() -> None:
    with pytest.raises(DataError, match="part is empty"):
        split_by_time(np.repeat(START, 100), SplitConfig(), 100)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"test_start": "2019-08-08", "test_end": None, "validation_end": "2018-08-01"}, "test"),
        ({"train_start": "2018-06-01", "validation_start": "2018-06-30", "validation_end": "2018-08-01"}, "train"),
        ({"validation_start": "2018-09-01", "test_start": "2018-09-12", "test_end": None}, "validation"),
    ],
)
def test_instants_outside_the_data_name_the_part(change: dict[str, str | None], part: str) -> None:
    settings = {name: getattr(HANDBOOK, name) for name in ("train_start", "validation_start", "test_start", "test_end")}
    config = SplitConfig(**{**settings, "delay_days": 7, "validation_gap": False, **change})
    with pytest.raises(DataError, match=f"the {part} part is empty.*move the instants into the data"):
        split_by_time(hourly(60), config, 60 * 24)


def test_a_missing_time_names_its_row() -> None:
    times = hourly(10)
    times[17] = np.datetime64("NaT")
    with pytest.raises(DataError, match="row 17 has no time"):
        split_by_time(times, SplitConfig(), times.size)


def test_instants_need_times() -> None:
    with pytest.raises(ConfigError, match="need a timestamp column"):
        split_by_time(None, HANDBOOK, 100)


def test_times_of_another_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="240 times for 100 rows"):
        split_by_time(hourly(10), SplitConfig(), 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 0.9}, "add up to 1"),
        ({"train": 0.85, "validation": 0.15, "test": 0.0}, "test=0.0 must be a number in"),
        ({"train": -0.1, "validation": 0.85}, r"train=-0\.1 must be"),
        ({"train": float("nan")}, "train=nan must be"),
        ({"delay_days": -1}, "delay_days=-1 must be"),
        ({"delay_days": float("inf")}, "delay_days=inf must be a finite number"),
        ({"test_start": "2018-08-08"}, "validation_start is missing"),
        ({"validation_start": "2018-08-08"}, "test_start is missing"),
        ({"validation_start": "8 August", "test_start": "2018-08-08"}, "validation_start is '8 August'"),
        ({"validation_start": "2018-08-01", "test_start": "2018-08-03", "delay_days": 7}, "validation window is empty"),
        (
            {
                "validation_start": "2018-08-01",
                "validation_end": "2018-08-05",
                "test_start": "2018-08-08",
                "delay_days": 7,
            },
            "validation_end 2018-08-05 is less than delay_days=7 before test_start 2018-08-08",
        ),
        (
            {"train_start": "2018-08-02", "validation_start": "2018-08-01", "test_start": "2018-08-08"},
            "train window is empty",
        ),
        (
            {"validation_start": "2018-08-01", "test_start": "2018-08-08", "test_end": "2018-08-08"},
            "test window is empty",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_when_it_is_made(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitConfig(**settings)  # type: ignore[arg-type]


def test_folds_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="folds is 0"):
        prequential(hourly(10), SplitConfig(), 0)
