"""What a comparison has reached: means and spreads over seeds, who is first, and the lines for a spreadsheet."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mixbit import _io
from mixbit.cost import LayerBits
from mixbit.metric import MetricInfo
from mixbit.runs import Comparison, Effort, Judged, Row, Subject, _comparison, _folder
from tests.report.compared import comparison, costs

ROW = Row(
    budget="b", name="fit", seed=0, bits={"fc": [3, 4]}, costs=costs(3000, 300), slack={"bitops": 7.0}, calibrated=0.5,
    tuned=0.75,
)  # fmt: skip


def of(*rows: Row) -> Comparison:
    return replace(comparison(), rows=rows)


def test_a_standing_is_the_mean_of_its_seeds_after_fine_tuning() -> None:
    rows = [replace(ROW, seed=seed, calibrated=0.1 * seed, tuned=tuned) for seed, tuned in enumerate((0.7, 0.8, 0.96))]
    (one,) = of(*rows).results("b")
    assert one.accuracy == pytest.approx(0.82) and one.spread == pytest.approx(statistics.stdev((0.7, 0.8, 0.96)))
    assert one.tuned == {0: 0.7, 1: 0.8, 2: 0.96} and one.calibrated == pytest.approx({0: 0.0, 1: 0.1, 2: 0.2})
    (one,) = of(*(replace(row, tuned=None) for row in rows)).results("b")
    assert one.accuracy == pytest.approx(0.1) and one.spread == pytest.approx(0.1)
    assert of(ROW).results("b")[0].spread is None and of(ROW).results("other") == ()


def test_a_seed_that_failed_is_told_and_the_others_count() -> None:
    failed = replace(ROW, seed=1, reason="no memory", tuned=None, calibrated=None, costs=None, bits={})
    (one,) = of(failed, ROW).results("b")
    assert (one.reason, one.accuracy, one.costs) == ("no memory", 0.75, ROW.costs)


def test_twins_have_the_same_bits_within_the_same_budget() -> None:
    other = replace(ROW, name="sqnr", bits={"fc": [4, 3]})
    rows = (ROW, replace(ROW, name="hawq-v2"), other, replace(other, budget="c", bits=ROW.bits))
    found = {one.name: one.twins for one in of(*rows).results("b")}
    assert found == {"fit": ("hawq-v2",), "hawq-v2": ("fit",), "sqnr": ()}
    nothing = replace(ROW, bits={}, reason="none")
    assert [one.twins for one in of(nothing, replace(nothing, name="x")).results("b")] == [(), ()]


def test_equals_stand_by_name_and_what_has_no_result_last() -> None:
    rows = (replace(ROW, name="z"), replace(ROW, name="a"), replace(ROW, name="best", tuned=0.8))
    none = replace(ROW, name="0", reason="none", tuned=None, calibrated=None)
    assert [one.name for one in of(none, *rows).results("b")] == ["best", "a", "z", "0"]


@pytest.mark.parametrize(
    ("larger_is_better", "wanted"), [(True, ["c", "a", "b"]), (False, ["b", "a", "c"]), (None, ["a", "b", "c"])]
)
def test_the_best_stands_first_by_the_metrics_direction(larger_is_better: bool | None, wanted: list[str]) -> None:
    """Without a direction nothing beats anything, and names decide."""
    found = of(*(replace(ROW, name=name, tuned=tuned) for name, tuned in (("b", 0.5), ("a", 0.75), ("c", 1.0))))
    metric = MetricInfo(name="made up", larger_is_better=larger_is_better)
    found = replace(found, float32=replace(found.float32, metric=metric))
    assert [one.name for one in found.results("b")] == wanted


def test_the_least_loss_in_the_supernet_ranks_first_and_orders_what_was_not_trained() -> None:
    """Equal losses share the better place; what was fine-tuned stands by that, and keeps its rank."""
    losses = {"c": 0.5, "a": 0.5, "b": 0.25, "d": 0.75}
    untrained = replace(ROW, calibrated=None, tuned=None)
    rows = [replace(untrained, name=name, judged=Judged(loss=loss, value=loss)) for name, loss in losses.items()]
    none = replace(untrained, name="0", reason="none")
    found = of(none, *rows).results("b")
    assert [(one.name, one.rank) for one in found] == [("b", 1), ("a", 2), ("c", 2), ("d", 4), ("0", None)]
    assert [one.accuracy for one in found] == [0.25, 0.5, 0.5, 0.75, None] and found[0].spread is None
    tuned = [replace(row, tuned=losses[row.name]) for row in rows]
    assert [(one.name, one.rank) for one in of(*tuned).results("b")] == [("d", 4), ("a", 2), ("c", 2), ("b", 1)]


def test_one_line_a_row() -> None:
    effort = Effort(cpu_seconds=2.5, wall_seconds=3.0, images=64, forward_images=65.5, backward_images=0.0)
    row = replace(ROW, judged=Judged(loss=0.25, value=0.875))
    failed = Row(budget="b", name="x, y", seed=2, outside=True, reason='said "no"')
    first, second = csv.DictReader(io.StringIO(_comparison.as_csv(replace(of(row, failed), efforts={"fit": effort}))))
    assert first == {
        "budget": "b", "name": "fit", "seed": "0", "outside": "False", "calibrated": "0.5", "tuned": "0.75",
        "judged": "0.875", "judged_loss": "0.25",
        "bitops": "3000", "weight_bytes": "300", "activation_bytes": "64", "search_cpu_seconds": "2.5",
        "search_wall_seconds": "3.0", "search_images": "64", "search_forward_images": "65.5",
        "search_backward_images": "0.0", "reason": "",
    }  # fmt: skip
    assert (second["name"], second["outside"], second["reason"]) == ("x, y", "True", 'said "no"')
    assert second["bitops"] == second["search_images"] == second["tuned"] == ""
    assert _comparison.as_csv(of()) == "budget,name,seed\n"


def test_all_of_a_comparison_in_plain_values() -> None:
    found = _comparison.as_json(comparison())
    assert found["format"] == "mixbit-comparison" and found["float"]["accuracy"] == 0.97
    assert found["float"]["costs"]["bitops"] == 1_024_000 and found["settings"] == {"epochs": 1}
    assert found["interrupted"] == ["fit"] and found["efforts"]["mct"]["cpu_seconds"] == 90.0
    assert [Row.from_json(row) for row in found["rows"]] == list(comparison().rows)


def begin(folder: Path) -> None:
    _folder.begin(folder, {"command": "compare", **Subject(model="resnet8").facts(), "settings": None})


def test_every_row_has_a_place_of_its_own(tmp_path: Path) -> None:
    w3a4 = LayerBits(3, 4)
    rows = [ROW, replace(ROW, seed=1), replace(ROW, name="random?seed=1"), replace(ROW, budget="bitops=3x3,ram=4kB")]
    begin(tmp_path)
    for row in rows:
        _comparison.write_row(tmp_path, row)
    assert len(_comparison.measured(tmp_path)) == 4
    assert [_comparison.read_row(tmp_path, row.budget, row.name, row.seed) for row in rows] == rows
    assert _comparison.read_row(tmp_path, "b", "fit", 5) is None
    keys = [_comparison.accuracies_key(layers, 0) for layers in ({"a": w3a4}, {"a": LayerBits(4, 3)}, {"b": w3a4})]
    assert len({*keys}) == 3 and keys[0] == _comparison.accuracies_key({"a": LayerBits(3, 4)}, 0)
    assert comparison().search_folder("a/b?c").parent == Path("runs/arena/search")
    assert _comparison.slug("a/b?c=[1,2]") == "a_b_c=_1,2_"


def test_what_searches_under_budgets_took_is_told_of_each(tmp_path: Path) -> None:
    begin(tmp_path)
    _comparison.write_effort(tmp_path, "a?x", Effort(images=1))
    for budget, images in (("b", 2), ("c,d", 3)):
        _comparison.write_effort(tmp_path, "r", Effort(images=images), interrupted=budget == "b", budget=budget)
    _comparison.write_row(tmp_path, ROW)
    start = {"accuracy": 0.5, "costs": asdict(comparison().float32.costs)}
    _comparison.measured(tmp_path).put(_comparison.FLOAT, start)
    found = _comparison.read_comparison(tmp_path)
    assert found.efforts == {"a?x": Effort(images=1)} and found.interrupted == ()
    assert found.effort("r", "b") == Effort(images=2) and found.effort("r", "c,d") == Effort(images=3)
    assert found.effort("a?x", "b") == Effort(images=1) and found.effort("r", "e") is found.effort("z", "b") is None
    assert found.was_interrupted("r", "b") and not found.was_interrupted("r", "c,d")
    plain = _comparison.as_json(found)
    assert plain["budget_efforts"]["r"]["c,d"]["images"] == 3 and plain["budget_interrupted"] == [("r", "b")]
    assert "budget_efforts" not in _comparison.as_json(comparison())
    row = replace(ROW, name="r", budget="c,d")
    (line,) = csv.DictReader(io.StringIO(_comparison.as_csv(replace(found, rows=(row,)))))
    assert line["search_images"] == "3" and replace(found, rows=(row,)).results("c,d")[0].effort == Effort(images=3)
    _io.write_text(tmp_path / "search" / "r" / "b" / "policy.json", "")
    assert found.search_folder("r", "b") == tmp_path / "search" / "r" / "b"
    assert found.search_folder("r", "c,d") == found.search_folder("r") == tmp_path / "search" / "r"
