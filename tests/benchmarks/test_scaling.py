"""The costs that are read off measured runs, and what is predicted from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.scaling import __main__ as command
from benchmarks.scaling import measure, table
from benchmarks.scaling.measure import Run
from benchmarks.scaling.simulate import Cost, cost, estimated_seconds, saturation_cpus, simulated_seconds


def test_a_line_through_two_sizes_gives_what_is_fixed_and_what_a_row_costs() -> None:
    runs = [Run(1_000_000, 1, 7.0, 2.0), Run(3_000_000, 1, 13.0, 3.0), Run(3_000_000, 2, 9.0, 3.0)]
    one = cost(runs)
    assert one.fixed_s == pytest.approx(4.0)
    assert one.driver_s * 1e6 == pytest.approx(0.5) and one.work_s * 1e6 == pytest.approx(2.5)
    assert saturation_cpus(one) == pytest.approx(5.0)


def test_the_simulation_keeps_to_what_arithmetic_allows() -> None:
    one = Cost(fixed_s=3.0, work_s=1e-6, driver_s=1e-9)
    for cpus in (1, 8, 80):
        assert simulated_seconds(one, 10**9, cpus) == pytest.approx(estimated_seconds(one, 10**9, cpus), rel=0.1)
    many = simulated_seconds(one, 10**9, 100_000)
    assert many > estimated_seconds(one, 10**9, 100_000), "blocks are whole and actors take time to come"
    assert many >= 3.0 + 1.0, "one driver takes in every block"


def test_a_slow_driver_bounds_any_number_of_workers() -> None:
    one = Cost(fixed_s=0.0, work_s=1e-6, driver_s=1e-7)
    assert simulated_seconds(one, 10**9, 10_000) == pytest.approx(100.0, rel=0.05)
    assert simulated_seconds(one, 10**9, 5) > 190.0


def test_the_page_holds_the_tables_of_the_last_run() -> None:
    measured = table.markdown(json.loads(table.RESULTS.read_text()))
    assert measured in table.PAGE.read_text()


@pytest.mark.ray
@pytest.mark.drill
def test_a_stage_is_measured_on_a_ray_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    from benchmarks.scoring.measure import prepare

    folder = tmp_path_factory.mktemp("s")
    prepare(folder)
    stage = measure.Stage("score", measure.STAGES[0].command, (1_000, 3_000))
    messages: list[str] = []
    (runs,) = measure.measure([stage], (1,), folder, 1, messages.append).values()
    assert [(one.rows, one.cpus) for one in runs] == [(1_000, 1), (3_000, 1)] and len(messages) == 2
    assert all(0 < one.driver_cpu_s <= one.seconds * 2 for one in runs)


def test_the_tables_need_a_run(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is missing: run"):
        command.main(["--table", "--out", str(tmp_path / "none.json")])
