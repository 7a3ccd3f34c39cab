"""Tables and plots of robustness profiles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mixbit.errors import MixbitError
from mixbit.report import attack_tables, corruption_plot, corruption_table, stress_plots, stress_tables
from mixbit.robustness import CorruptionCell, CorruptionReport, ShiftPoint, ShiftSweep
from mixbit.runs import Profile
from tests.needs import need
from tests.report import certified
from tests.report.attacked import FOUND

FACTORS = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5)


def corruption(clean: float, worst: float, kinds: tuple[str, ...] = ("jpeg", "contrast")) -> CorruptionReport:
    cells = [CorruptionCell(kind="clean", severity=0, accuracy=clean, loss=0.1)]
    for kind in kinds:
        cells.append(CorruptionCell(kind=kind, severity=1, accuracy=(clean + worst) / 2, loss=0.5))
        cells.append(CorruptionCell(kind=kind, severity=5, accuracy=worst, loss=1.0))
    return CorruptionReport(kinds=kinds, severities=(1, 5), seed=0, scale="cifar", samples=50, cells=tuple(cells))


def sweep(protocol: str, values: tuple[float, ...], at: float | None) -> ShiftSweep:
    points = tuple(ShiftPoint(label=f"{v:g}", value=v, accuracy=v / 10, loss=0.3, samples=50) for v in values)
    reference = ShiftPoint(label="as trained", value=at, accuracy=0.9, loss=0.2, samples=50)
    return ShiftSweep(protocol=protocol, reference=reference, points=points)  # type: ignore[arg-type]


def profile(name: str, **parts: object) -> Profile:
    return Profile(run=Path("runs") / name, quantized=True, **parts)  # type: ignore[arg-type]


WHOLE = profile(
    "one",
    corruption=corruption(0.9, 0.5),
    steps=sweep("step-size", FACTORS, 1.0),
    power_of_two=sweep("power-of-two", (1.0,), None),
    bits=sweep("qat-bits", (2, 3, 4, 5, 6, 8), 4.0),
)


def test_one_model_has_a_row_a_kind_and_a_column_a_severity() -> None:
    table = corruption_table({"one": corruption(0.9, 0.5)})
    assert table.columns == ("corruption", ">1", ">5", ">mean")
    assert [row[0] for row in table.rows] == ["clean", "jpeg", "contrast", "mean of the kinds"]
    assert table.rows[1][1:] == ("70.0 %", "50.0 %", "60.0 %") or table.rows[1][1:] == ("70.00 %", "50.00 %", "60.00 %")
    assert "50 test images; constants of CIFAR-10-C" in table.notes[0]


def test_every_kind_has_its_own_numbers_and_mean() -> None:
    found = corruption(0.9, 0.6)  # of jpeg: 75 and 60 %
    darker = {1: 0.55, 5: 0.4}
    cells = [replace(one, accuracy=darker[one.severity]) if one.kind == "contrast" else one for one in found.cells]
    found = replace(found, cells=tuple(cells))
    assert corruption_table({"one": found}).rows == (
        ("clean", "", "", "90.00 %"),
        ("jpeg", "75.00 %", "60.00 %", "67.50 %"),
        ("contrast", "55.00 %", "40.00 %", "47.50 %"),
        ("mean of the kinds", "", "", "57.50 %"),
    )
    assert corruption_table({"one": found, "two": corruption(0.8, 0.7)}).rows[:4] == (
        ("clean", "90.00 %", "80.00 %"),
        ("jpeg", "67.50 %", "72.50 %"),
        ("contrast", "47.50 %", "72.50 %"),
        ("mean of the kinds", "57.50 %", "72.50 %"),
    )


def test_several_models_have_a_column_each_and_a_corruption_error() -> None:
    table = corruption_table({"one": corruption(0.9, 0.5), "two": corruption(0.9, 0.7)})
    assert table.columns == ("corruption", ">one", ">two")
    # errors summed over severities: 0.3 + 0.5, and 0.2 + 0.3
    assert table.rows[-1] == ("mCE by the first", "1.000", "0.625")


def test_a_reference_without_errors_has_no_relation() -> None:
    table = corruption_table({"perfect": corruption(1.0, 1.0), "two": corruption(0.9, 0.7)})
    assert table.rows[-1] == ("mCE by the first", "-", "-")


def test_different_corruptions_do_not_compare() -> None:
    with pytest.raises(MixbitError, match="Give the same --kinds and --severities for all"):
        corruption_table({"one": corruption(0.9, 0.5), "two": corruption(0.9, 0.7, ("jpeg",))})


def test_tables_of_a_whole_profile() -> None:
    titles = [table.title for table in stress_tables([WHOLE])]
    assert titles == [
        "Accuracy on bad data: one",
        "Accuracy with scaled steps",
        "Accuracy with weights at other bits",
        "Robustness to the quantizer",
    ]
    assert stress_tables([profile("nothing")]) == []


def test_float_and_quantized_runs_have_their_own_bit_tables() -> None:
    other = replace(WHOLE, run=Path("runs/float"), bits=sweep("ptq-bits", (2, 3, 4, 5, 6, 8), None))
    titles = [table.title for table in stress_tables([WHOLE, other])]
    assert "Accuracy after post-training quantization" in titles and "Accuracy with weights at other bits" in titles


def test_runs_of_one_name_are_told_apart() -> None:
    twin = replace(WHOLE, run=Path("elsewhere/one"))
    assert stress_tables([WHOLE, twin])[0].columns[1:] == (">runs/one", ">elsewhere/one")


def test_plots(tmp_path: Path) -> None:
    files = stress_plots([WHOLE, replace(WHOLE, run=Path("runs/two"))], tmp_path)
    assert [path.name for path in files] == ["corruptions.html", "shifts.html"]
    text = (tmp_path / "corruptions.html").read_text()
    assert all(word in text for word in ("jpeg", "contrast", '"name":"two"'))
    assert stress_plots([profile("nothing")], tmp_path) == {}
    assert corruption_plot({"one": corruption(0.9, 0.5)}, tmp_path / "x.html").is_file()


def test_lines_begin_at_the_clean_image_and_keep_to_their_panels(tmp_path: Path) -> None:
    need("plotly")
    kinds = ("jpeg", "contrast", "fog", "snow", "blur")
    reports = {"one": corruption(0.9, 0.5, kinds), "two": corruption(0.8, 0.6, kinds)}
    text = corruption_plot(reports, tmp_path / "c.html").read_text()
    data = text[text.rindex("Plotly.newPlot") :]
    found = json.JSONDecoder().raw_decode(data, data.index("["))[0]
    lines = {(one["name"], one["xaxis"]): one for one in found}
    assert len(lines) == 10 and {axis for _, axis in lines} == {"x", "x2", "x3", "x4", "x5"}
    assert all(one["x"] == [0, 1, 5] for one in found)
    assert all(one["y"] == pytest.approx([90.0, 70.0, 50.0]) for (name, _), one in lines.items() if name == "one")
    assert all(one["y"] == pytest.approx([80.0, 70.0, 60.0]) for (name, _), one in lines.items() if name == "two")
    assert [one["name"] for one in found if one["showlegend"]] == ["one", "two"]


def test_all_numbers_of_one_and_of_several_models() -> None:
    one, two = corruption(0.9, 0.5), corruption(0.8, 0.6)
    assert corruption_table({"one": one}).rows == (
        ("clean", "", "", "90.00 %"),
        ("jpeg", "70.00 %", "50.00 %", "60.00 %"),
        ("contrast", "70.00 %", "50.00 %", "60.00 %"),
        ("mean of the kinds", "", "", "60.00 %"),
    )
    table = corruption_table({"one": one, "two": two})
    assert table.rows[:4] == (
        ("clean", "90.00 %", "80.00 %"),
        ("jpeg", "60.00 %", "65.00 %"),
        ("contrast", "60.00 %", "65.00 %"),
        ("mean of the kinds", "60.00 %", "65.00 %"),
    )
    assert table.notes == ("50 test images; constants of CIFAR-10-C, severities 1, 5; noise seed 0.",)
    assert "constants of ImageNet-C" in corruption_table({"one": replace(one, scale="imagenet")}).notes[0]
    seven = corruption_table({"one": replace(one, seed=7)}).notes[0]
    assert seven.endswith("noise seed 7.")
    with pytest.raises(MixbitError, match="at .1, 5., and .* at .1,."):
        corruption_table({"one": one, "two": replace(two, severities=(1,))})


def test_runs_stand_in_the_tables_of_the_parts_that_they_have() -> None:
    bare = profile("two", steps=sweep("step-size", FACTORS, 1.0))
    tables = {table.title: table for table in stress_tables([WHOLE, bare])}
    assert tables["Accuracy with scaled steps"].columns == ("step / trained step", ">one", ">two")
    assert tables["Accuracy with weights at other bits"].columns == ("weight bits", ">one")
    assert [row[0] for row in tables["Robustness to the quantizer"].rows] == ["one", "two"]
    assert "Accuracy on bad data: one" in tables


def test_certificates_have_their_table_and_a_plot_of_their_own(tmp_path: Path) -> None:
    need("plotly")
    alone, other = (profile(name, certificates=certified.FOUND) for name in ("one", "two"))
    assert [one.title for one in stress_tables([alone])] == ["Certified accuracy in %, noise of sigma 0.5"]
    assert stress_tables([alone, other])[1].title == "Certified accuracy in %, noise of sigma 0.5: two"
    assert list(stress_plots([alone], tmp_path)) == [tmp_path / "certify.html"]
    assert list(stress_plots([alone, other], tmp_path)) == [
        tmp_path / f"certify-{name}.html" for name in ("one", "two")
    ]


def test_attacks_have_their_tables_and_a_plot_of_their_own(tmp_path: Path) -> None:
    need("plotly")
    alone, other = profile("one", attacks=FOUND), profile("two", attacks=FOUND)
    assert [one.title for one in stress_tables([alone])] == [one.title for one in attack_tables(FOUND)]
    assert stress_tables([alone, other])[0].title == "Accuracy under attack: one"
    assert stress_tables([alone, other])[-1].title == "Signs of masked gradients: two"
    assert list(stress_plots([alone], tmp_path)) == [tmp_path / "attack.html"]
    assert list(stress_plots([alone, other], tmp_path)) == [tmp_path / "attack-one.html", tmp_path / "attack-two.html"]
    assert "Accuracy under attack" in (tmp_path / "attack-two.html").read_text()
