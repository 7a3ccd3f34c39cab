"""Tables of attacks."""

from __future__ import annotations

from dataclasses import replace

from mixbit.attacks import Interval
from mixbit.report import attack_tables
from tests.report.attacked import FLOAT, FOUND, INT8, NEAREST, STRONG


def test_accuracies_have_their_intervals_and_say_whose_points() -> None:
    table = attack_tables(FOUND)[0]
    assert table.rows[0] == (
        STRONG,
        FLOAT,
        "its own",
        "80.00 %",
        "40.00 %",
        "30.00 to 50.00",
        "50.00 %",
        "40.00 to 60.00",
    )
    assert table.rows[1][:5] == (STRONG, INT8, FLOAT, "70.00 %", "30.00 %")
    assert table.rows[-1] == (NEAREST, INT8, FLOAT, "0.00 %", "0.00 %", "-10.00 to 10.00", "-", "-")
    assert table.notes[0].startswith("10 test images.") and len(table.notes) == 1


def test_an_attack_that_is_made_of_several_says_which_broke_how_many() -> None:
    first, *others = FOUND.results
    parted = replace(FOUND, results=(replace(first, by={"apgd": 3, "square": 1}), *others))
    assert attack_tables(parted)[0].notes[1:] == (f"{STRONG} on {FLOAT}: 3 by apgd, 1 by square.",)


def test_distances_are_of_the_fooled_and_queries_of_those_who_asked() -> None:
    boundary = Interval(value=0.25, low=0.2, high=0.3)
    rows = [replace(one, measures=replace(one.measures, boundary=boundary)) if one.attack == NEAREST else one
            for one in FOUND.results]  # fmt: skip
    table = attack_tables(replace(FOUND, results=tuple(rows)))[1]
    found = [dict(zip(table.headings[:-1], row[:-1], strict=True)) for row in table.rows]
    assert (found[0]["fooled"], found[0]["L2"], found[0]["Linf median"], found[0]["L2 on the grid"]) == (
        "4/8", "0.5", "0.25", "-"
    )  # fmt: skip
    assert found[0]["queries"] == "21.5" and table.rows[0][-1] == "20" and found[0]["to the boundary"] == "-"
    assert found[1]["Linf on the grid"] == "0.5" and (found[1]["queries"], table.rows[1][-1]) == ("-", "-")
    assert found[3]["fooled"] == "0/7" and found[3]["L0"] == found[3]["L2 median"] == "-"
    assert found[4]["to the boundary"] == "0.25 L2"


def test_transfer_and_signs_have_tables_of_their_own() -> None:
    *_, strong, _, nearest, signs = attack_tables(FOUND)
    assert strong.title == f"Transfer of {STRONG}, in %" and strong.columns == ("made on", ">on float", f">on {INT8}")
    assert strong.rows == ((FLOAT, "50.0 [40, 60]", "25.0 [15, 35]"),) and nearest.rows[0][2] == "-"
    assert signs.rows == ((FLOAT, "pgd at 0.01", "50.00 %", "pgd missed some"),)
    alone = replace(FOUND.transfers[STRONG], targets=(FLOAT,), shares=((None,),), images=((8,),))
    assert len(attack_tables(replace(FOUND, signs={}, transfers={STRONG: alone}))) == 2
