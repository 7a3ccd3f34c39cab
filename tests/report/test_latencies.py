"""What a latency table says to a person."""

from __future__ import annotations

from dataclasses import replace

from mixbit.cost import LatencyCheck
from mixbit.report import after_latency, latency_checks_table, latency_table
from tests.support import chain
from tests.support import latency_table as by_hand

NET = chain((10, 100), (10, 100))
TIMES = {"l0": {"W4A8": 2_000, "W8A8": 3_000}, "l1": {"W4A8": 50_000, "W8A8": 50_000}}
TABLE = by_hand(NET, TIMES, rest=1_500, float32=120_000, notes=["weights of 4 bits take less time"])


def test_layers_rest_and_sums() -> None:
    table = latency_table(TABLE)
    assert table.headings == ("layer", "W4A8", "W8A8", "fastest", "at")
    assert table.rows == (
        ("l0", "2.000 us", "3.000 us", "2.000 us", "W4A8"),
        ("l1", "50.00 us", "50.00 us", "50.00 us", "W4A8 and 1 more"),
        ("all that is no layer", "1.500 us", "1.500 us", "1.500 us", ""),
        ("sum", "53.50 us", "54.50 us", "53.50 us", ""),
    )
    assert table.notes == (
        "paper 1.0 on a CPU, 1 of 2 cores, batch 1, 3 repeats.",
        "The float32 network takes 120.0 us.",
        "Weights of 4 bits take less time.",
    )


def test_layers_without_an_option_of_others_show_a_dash() -> None:
    table = by_hand(NET, {"l0": {"W4A8": 2_000, "W8A8": 3_000}, "l1": {"W4A8": 5_000}})
    assert latency_table(table).rows[1][2] == latency_table(table).rows[-1][2] == "-"


def test_instructions_are_counted() -> None:
    table = replace(by_hand(NET, TIMES), unit="instructions")
    assert latency_table(table).rows[0][1] == "2.000 k"


def test_checks_show_the_error_with_its_sign() -> None:
    checks = (
        LatencyCheck(name="random 0", bits={}, predicted=110_000, measured=100_000, spread=2_000),
        LatencyCheck(name="random 1", bits={}, predicted=95_000, measured=100_000, spread=2_000),
    )
    rows = latency_checks_table(replace(TABLE, checks=checks)).rows
    assert rows[0] == ("random 0", "100.0 us", "2.000 us", "110.0 us", "+10.0 %")
    assert rows[1][-1] == "-5.0 %"


def test_the_next_command_allocates_within_a_time_that_is_there(tmp_path: object) -> None:
    words = after_latency("latency.json", TABLE)  # type: ignore[arg-type]
    assert words[-2:] == ["--latency", "latency.json"]
    # Between 53.5 and 54.5 us.
    assert words[words.index("--budget") + 1] == "latency=54us"
    counted = replace(TABLE, unit="instructions")
    assert "instructions=54k" in after_latency("latency.json", counted)  # type: ignore[arg-type]


def test_notes_tell_of_which_files_the_times_are() -> None:
    found = replace(TABLE, cpu="vnni", threads=1, batch=4, repeats=7, notes=("", "odd"))
    notes = latency_table(found).notes
    assert notes[0] == "paper 1.0 on a CPU, 1 of 2 cores, batch 4, 7 repeats, files for --cpu vnni."
    assert notes[2:] == ("Odd.",)
    assert latency_table(replace(TABLE, float32=None)).notes[1] == "Weights of 4 bits take less time."
