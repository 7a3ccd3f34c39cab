"""A table worked out by hand from written answers: speeds, medians, spreads and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from mixbit.cost import Device, LatencyTable, LatencyUnit, LayerBits, Timing
from mixbit.errors import ExportError
from mixbit.latency.tables import FloatModel, Measurement, TimedStep, build
from mixbit.network import Layer, Network


def layer(name: str) -> Layer:
    return Layer(
        name=name,
        kind="conv2d",
        parameter=f"{name}.weight",
        weight_shape=(6, 2, 3, 3),
        groups=2,
        macs=1,
        macs_limpq=1,
        input_shape=(4, 8, 8),
        output_shape=(6, 6, 6),
        input_tensor=f"{name}.in",
        output_tensor=f"{name}.out",
        input_signed=False,
    )


NET = Network(layers=(layer("a"), layer("b")), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
MODEL = FloatModel(model=nn.Identity(), example=torch.zeros(1))


@dataclass
class Scripted:
    """Gives one written answer after the other. Networks are names to it."""

    name: ClassVar[str] = "script"
    unit: ClassVar[LatencyUnit] = "ns"
    runtime: ClassVar[str] = "paper"
    runtime_version: ClassVar[str] = "1"
    device: ClassVar[Device] = Device(cpu="paper", cores=3)
    threads: ClassVar[int] = 2
    batch: ClassVar[int] = 4
    arithmetic: ClassVar[str] = "all is int8"
    answers: Sequence[Mapping[str, Measurement]]
    runs_float: bool = True
    asked: list[tuple[list[str], int]] = field(default_factory=list)

    def profile(self, graphs: Mapping[str, Any], repeats: int) -> dict[str, Measurement]:
        self.asked.append((list(graphs), repeats))
        return {name: self.answers[len(self.asked) - 1][name] for name in graphs}

    def time(self, networks: Mapping[str, Any], repeats: int) -> dict[str, Timing]:
        if not self.runs_float and "float32" in networks:
            raise ExportError("no point.")
        return {name: found.whole for name, found in self.profile(networks, repeats).items()}


def measured(whole: int, *steps: tuple[str | None, str, int, int], spread: int = 0) -> Measurement:
    """From (owner, kernel, median, spread)."""
    return Measurement(
        whole=Timing(median=whole, spread=spread),
        steps=tuple(
            TimedStep(owner=owner, kind=kernel.title(), kernel=kernel, shape=(at,), median=median, spread=width)
            for at, (owner, kernel, median, width) in enumerate(steps)
        ),
    )


def table_of(target: Scripted, options: Sequence[str], **more: Any) -> LatencyTable:
    found = [LayerBits(int(one[1]), int(one[3])) for one in options]
    return build(NET, lambda bits: None, target, options=found, **more)  # type: ignore[arg-type,return-value]


# The reference takes 2000, 1000 and 500 in turn, so the blocks count half, once and twice.
ANSWERS = (
    {
        "W4A4": measured(0, ("a", "m", 8, 2), ("b", "m", 8, 2), (None, "tail", 4, 2)),
        "W8A4": measured(
            0, ("a", "k", 20, 2), ("b", "k", 40, 8), ("b", "clip", 10, 4), (None, "tail", 4, 2), (None, "add", 60, 6)
        ),
        "reference": measured(2000, ("a", "k", 60, 4), ("b", "n", 200, 14)),
    },
    {
        "W4A8": measured(0, ("a", "m", 4, 1), ("b", "m", 4, 1), *[(None, "add", 30, 3)] * 3),
        "W8A8": measured(1000, ("a", "k", 25, 9), ("b", "k", 1000, 1), ("b", "n", 70, 5), *[(None, "add", 30, 3)] * 2),
    },
    {
        "check mine": measured(450, spread=15),
        "reference": measured(500),
        "float32": measured(300, spread=10),
    },
)
OPTIONS = ("W4A4", "W8A4", "W4A8", "W8A8")
CHECKS = {"mine": {"a": LayerBits(8, 4), "b": LayerBits(4, 8)}}


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return table_of(Scripted(ANSWERS), OPTIONS, repeats=7, checks=CHECKS, float_model=MODEL)


def test_a_kernel_is_the_median_of_what_it_took_at_the_common_speed(table: LatencyTable) -> None:
    """`k` took 10, 20, 30 (half of what was measured), 25 and 1000, with spreads of 1, 4, 2, 9 and 1."""
    assert table.kernels == {
        "add": Timing(median=30, spread=3),
        "clip": Timing(median=5, spread=2),
        "k": Timing(median=25, spread=2),
        "m": Timing(median=4, spread=1),
        "n": Timing(median=85, spread=6),
        "tail": Timing(median=2, spread=1),
    }


def test_a_layer_is_the_sum_of_its_kernels_medians_and_spreads_alike(table: LatencyTable) -> None:
    assert table.layers["b"].options == {
        "W4A4": Timing(median=4, spread=1),
        "W8A4": Timing(median=30, spread=4),
        "W4A8": Timing(median=4, spread=1),
        "W8A8": Timing(median=110, spread=8),
    }


def test_the_rest_is_that_of_the_option_below_the_middle(table: LatencyTable) -> None:
    """Between them the options take 2, 32, 60 and 90 for what no layer accounts for: the lower of the middle two."""
    assert [(part.name, part.kind, part.shape, part.uses, part.median, part.spread) for part in table.other] == [
        ("tail", "Tail", (3,), 1, 2, 1),
        ("add", "Add", (4,), 1, 30, 3),
    ]


def test_whole_networks_are_at_the_common_speed_too(table: LatencyTable) -> None:
    assert table.float32 == Timing(median=600, spread=20)
    (check,) = table.checks
    assert (check.name, check.bits, check.measured, check.spread) == ("mine", {"a": "W8A4", "b": "W4A8"}, 900, 30)
    assert check.predicted == 25 + 4 + 32


def test_what_a_table_says_of_its_circumstances(table: LatencyTable) -> None:
    assert (table.threads, table.batch, table.repeats, table.device.cores) == (2, 4, 7, 3)
    one = table.layers["a"]
    assert (one.groups, one.weight_shape, one.input_shape, one.output_shape) == (2, (6, 2, 3, 3), (4, 8, 8), (6, 6, 6))


@pytest.mark.parametrize("runs_float", [True, False])
def test_every_measurement_is_of_so_many_repeats(runs_float: bool) -> None:
    target = Scripted(ANSWERS, runs_float=runs_float)
    table_of(target, OPTIONS, repeats=7, checks=CHECKS, float_model=MODEL)
    assert [repeats for _, repeats in target.asked] == [7, 7, 7]
    assert [names[-1] for names, _ in target.asked] == ["reference", "W8A8", "float32" if runs_float else "reference"]


def test_nothing_is_measured_whole_that_nobody_asked_for() -> None:
    target = Scripted(ANSWERS)
    table_of(target, OPTIONS)
    assert [names for names, _ in target.asked] == [["W4A4", "W8A4", "reference"], ["W4A8", "W8A8"]]


@pytest.mark.parametrize(
    ("bits", "first"),
    [(((8, 4), (4, 8)), ["W8A4", "reference"]), (((8, 8), (8, None)), ["W8A8", "reference"])],
)
def test_the_reference_has_the_most_bits_of_activations_and_floats_have_32(
    bits: tuple[tuple[int, int | None], ...], first: list[str]
) -> None:
    target, same = Scripted([]), measured(100, ("a", "k", 50, 0), ("b", "k", 50, 0))
    target.answers = [{str(LayerBits(*one)): same for one in bits} | {"reference": same}] * 2
    options = [LayerBits(*one) for one in bits]
    build(NET, lambda bits: None, target, options=options)  # type: ignore[arg-type,return-value]
    assert [names for names, _ in target.asked] == [first, [str(options[1])]]


SAME = ("no less", ": all is int8")
LESS = ("less", "")


@pytest.mark.parametrize(
    ("times", "groups"),
    [
        ((99, 50, 75, 100), [("2", "99", SAME), ("4, 6", "50 to 75", LESS)]),
        ((100, 104, 99, 100), [("2, 4, 6", "99 to 104", SAME)]),
        ((97, 97, 97, 100), [("2, 4, 6", "97", LESS)]),
        ((0, 0, 0, 0), [("2, 4, 6", "0", LESS)]),  # a clock too coarse to say: no division by it
    ],
)
def test_notes_hold_what_is_within_a_fiftieth_for_no_gain(
    times: tuple[int, ...], groups: list[tuple[str, str, tuple[str, str]]]
) -> None:
    options = ("W2A8", "W4A8", "W6A8", "W8A8")
    answer = {
        name: measured(time, ("a", name, time, 0), ("b", "none", 0, 0))
        for name, time in zip(options, times, strict=True)
    }
    assert table_of(Scripted([answer]), options).notes == tuple(
        f"weights of {bits} bits take {how} time than 8 bits ({percent} % of it){why}"
        for bits, percent, (how, why) in groups
    )
