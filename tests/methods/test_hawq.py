"""HAWQ: scores are average trace times squared error, and a killed search goes on."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mixbit.allocation import allocate
from mixbit.cost import Budget
from mixbit.errors import MixbitError, StaleRun
from mixbit.methods import HawqV2, HawqV3, Method
from mixbit.methods.hawq import omega
from mixbit.policy import Program, Scores
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task

FAST = {"images": 32, "batch_size": 8, "draws": 6, "calibration_images": 16}


class TestHawqV2(MethodCases):
    def method(self, seed: int) -> Method:
        return HawqV2(**FAST, seed=seed)  # type: ignore[arg-type]

    def task(self) -> Task:
        return tiny_task()


class TestHawqV3(TestHawqV2):
    def method(self, seed: int) -> Method:
        return HawqV3(**FAST, bits=(8, 6, 4, 3, 2), seed=seed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(scope="module")
def scores(task: Task) -> Scores:
    return HawqV2(**FAST).search(task, quiet=True)  # type: ignore[arg-type]


def test_omega_is_average_trace_times_squared_error(task: Task, scores: Scores) -> None:
    """From the traces in the file and a quantizer written out here: one min-max step a channel, zero point 0."""
    weight = task.model.get_parameter("conv2.weight").detach()
    rows = weight.flatten(1)
    for bits in (8, 3):
        step = torch.maximum(rows.amax(1) / (2 ** (bits - 1) - 1), -rows.amin(1) / 2 ** (bits - 1))[:, None]
        error = (torch.round(rows / step) * step - rows).square().sum().item()
        trace = scores.settings["traces"]["conv2"]["weight"]["trace"]  # type: ignore[index, call-overload]
        assert scores.layers["conv2"].weight[bits] == pytest.approx(trace / weight.numel() * error, rel=1e-4)


def test_omega_of_inputs_is_per_sample(task: Task, scores: Scores) -> None:
    """Elements and squared error are those of one sample; inputs of a ReLU get an unsigned grid."""
    model, seen = task.model.eval(), []
    handle = model.get_submodule("conv2").register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))
    batches = task.train.batches(8, seed=0, shuffle=True)
    with torch.no_grad():
        model(torch.cat([next(batches)[0] for _ in range(2)]))
    handle.remove()
    step = seen[0].max() / 7
    error = (torch.round(seen[0] / step) * step - seen[0]).square().flatten(1).sum(1).mean().item()
    facts = scores.settings["traces"]["conv2"]["activation"]  # type: ignore[index, call-overload]
    assert facts["elements"] == 4 * 6 * 6  # type: ignore[index, call-overload]
    wanted = facts["trace"] / 144 * error  # type: ignore[index, call-overload, operator]
    assert scores.layers["conv2"].activation[3] == pytest.approx(wanted, rel=1e-4)


def test_report_says_what_was_measured(scores: Scores) -> None:
    found = scores.settings
    assert found["images_used"] == 32 and found["draws_made"] == 6 and found["settled"] is False
    assert found["not_scored"] == [] and found["negative_traces"] == []
    sides = found["traces"]["hidden"]  # type: ignore[index, call-overload]
    assert set(sides) == {"weight", "activation"}  # type: ignore[arg-type]
    assert all(side["standard_error"] > 0 for side in sides.values())  # type: ignore[union-attr, index, call-overload, operator]
    assert scores.alpha == 1 and scores.program == Program()


def test_images_that_no_draw_reached_are_not_counted(task: Task) -> None:
    """Two draws of eight images, of the 32 at hand."""
    found = HawqV2(bits=(4, 2), images=32, batch_size=8, draws=2, tolerance=1e-9).search(task, quiet=True).settings
    assert (found["draws_made"], found["images_used"]) == (2, 16)


def test_negative_traces_count_as_zero_and_are_listed(task: Task) -> None:
    """One joint draw of few images is noisy enough to go below zero somewhere."""
    for seed in range(30):
        found = HawqV2(images=4, batch_size=4, draws=1, joint=True, seed=seed).search(task, quiet=True)
        negative = found.settings["negative_traces"]
        if negative:
            break
    assert negative and isinstance(negative, list)
    name, side = str(negative[0]).split(":")[0].split(", ")
    assert set(getattr(found.layers[name], side).values()) == {0.0} and "counted as 0" in str(negative[0])


def test_monotone_asks_for_bits_in_the_order_of_the_traces(task: Task, scores: Scores) -> None:
    found = HawqV2(**FAST, monotone=True).search(task, quiet=True)  # type: ignore[arg-type]
    traces = {
        name: found.settings["traces"][name]["weight"]["trace"] / task.network.layer(name).weights  # type: ignore
        for name in found.layers
    }
    assert list(found.program.order) == sorted(traces, key=lambda name: -traces[name])
    inputs = {
        name: sides["activation"]["trace"] / sides["activation"]["elements"]
        for name, sides in found.settings["traces"].items()  # type: ignore[attr-defined]
    }
    assert found.program.activation_order == tuple(sorted(inputs, key=lambda name: -inputs[name]))
    assert found.layers == scores.layers
    weights = HawqV2(**FAST, monotone=True, activations=False).search(task, quiet=True)  # type: ignore[arg-type]
    assert weights.program.orders == (found.program.order, ())


def test_without_activations_inputs_keep_the_most_bits(task: Task) -> None:
    found = HawqV2(**FAST, activations=False).search(task, quiet=True)  # type: ignore[arg-type]
    assert all(one.activation == {8: 0.0} for one in found.layers.values())
    policy, _ = allocate(task.network, found, Budget.parse(["weight-bytes=8x"]))
    assert {bits.activation_bits for bits in policy.layers.values()} == {8}


def test_v3_scores_weights_alone_and_couples_both_sides(task: Task) -> None:
    found = HawqV3(**FAST).search(task, quiet=True)  # type: ignore[arg-type]
    assert found.program == Program(coupled=True)
    for one in found.layers.values():
        assert set(one.weight) == {8, 4} and one.activation == {8: 0.0, 4: 0.0}
    policy, _ = allocate(task.network, found, Budget.parse(["bitops=5x5"]))
    assert all(bits.weight_bits == bits.activation_bits for bits in policy.layers.values())


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_search_goes_on(task: Task, scores: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixbit.sensitivity.curvature import Hutchinson

    whole, calls = Hutchinson._draw, []

    def draw(self: Hutchinson, *args: object) -> object:
        if len(calls) == 4:
            raise Killed
        calls.append(1)
        return whole(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Hutchinson, "_draw", draw)
    method = HawqV2(**FAST)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        method.search(task, run=tmp_path, quiet=True)
    assert len((tmp_path / "traces.jsonl").read_text().splitlines()) == 1 + 4
    calls.clear()
    assert method.search(task, run=tmp_path, quiet=True).layers == scores.layers
    assert len(calls) == 2


def test_a_run_of_other_settings_or_weights_is_refused(task: Task, tmp_path: Path) -> None:
    HawqV3(**FAST).search(task, run=tmp_path, quiet=True)  # type: ignore[arg-type]
    with pytest.raises(StaleRun, match="seed=0, now seed=1"):
        HawqV3(**FAST, seed=1).search(task, run=tmp_path, quiet=True)  # type: ignore[arg-type]
    model = copy.deepcopy(task.model)
    with torch.no_grad():
        model.get_parameter("conv1.weight").mul_(2)
    other = Task(model=model, train=task.train, test=task.test, network=task.network)
    with pytest.raises(StaleRun, match="weights="):
        HawqV3(**FAST).search(other, run=tmp_path, quiet=True)  # type: ignore[arg-type]


def test_illegal_settings_are_refused() -> None:
    with pytest.raises(MixbitError, match="draws=0 is illegal. Legal: a whole number from 1"):
        HawqV2(draws=0)
    with pytest.raises(MixbitError, match="none twice"):
        HawqV3(bits=(8, 8))


def test_omega_by_hand() -> None:
    assert omega(0.5, 4.0) == 2.0 and omega(-0.5, 4.0) == 0.0


# ------------------------------------------------------------------------------------------------------- options


SMALL_V2, SMALL_V3 = (
    partial(method, bits=(4, 2), images=8, batch_size=2, draws=6, calibration_images=2, tolerance=1e-9)
    for method in (HawqV2, HawqV3)
)


def products(method: Method) -> list[int]:
    """How many tensors each product with the Hessian was of."""
    from mixbit.sensitivity import curvature

    found: list[int] = []
    forms = curvature._forms

    def counted(gradients: Any, tensors: Any, vectors: Any) -> list[float]:
        found.append(len(tensors))
        return forms(gradients, tensors, vectors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curvature, "_forms", counted)
        seen.search(method)
    return found


def traces_of(method: Method) -> dict[str, float]:
    """Layer -> trace of its weight."""
    found: Any = seen.search(method).settings["traces"]
    return {name: sides["weight"]["trace"] for name, sides in found.items()}


def order_of(monotone: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The order in the program, and that of the traces over the numbers of weights: 54 and 12."""
    method = SMALL_V2(monotone=monotone)
    average = {name: trace / {"conv": 54, "hidden": 12}[name] for name, trace in traces_of(method).items()}
    return seen.search(method).program.order, tuple(sorted(average, key=lambda name: -average[name]))


def shared_rows(make: seen.Make, *, sides: int) -> tuple[OptionRow, ...]:
    """What both have."""
    return (
        OptionRow(
            "images",
            (4, 9),
            seen=lambda value: seen.distinct_images(make(images=value, batch_size=4)),
            holds=lambda a, b: (a, b) == (4, 8),  # full batches only
            says="images that are read",
        ),
        OptionRow(
            "batch_size",
            (4, 3),
            seen=lambda value: set(seen.loss_calls(make(batch_size=value))),
            holds=lambda a, b: (a, b) == ({4}, {3}),
            says="images of a draw",
        ),
        OptionRow(
            "draws",
            (6, 3),
            seen=lambda value: len(seen.loss_calls(make(draws=value))),
            holds=lambda a, b: (a, b) == (6, 3),
            says="draws that are made",
        ),
        OptionRow(
            "tolerance",
            (1e-9, 1e9),
            seen=lambda value: len(seen.loss_calls(make(tolerance=value))),
            holds=lambda a, b: (a, b) == (6, 2),  # one draw says nothing yet
            says="draws that are made",
        ),
        OptionRow(
            "joint",
            (False, True),
            seen=lambda value: products(make(joint=value)),
            holds=lambda a, b: (a, b) == ([1] * 6 * 2 * sides, [2 * sides] * 6),
            says="products with the Hessian",
        ),
        seen.rule_row(make, "weight_rule", "weight", of=2),
        seen.per_channel_row(make),
        seen.first_last_row(make),
        seen.seed_row(make, images_used=2),
        OptionRow(
            "seed",
            (0, 1),
            # One batch of all images: only the vectors differ.
            seen=lambda value: traces_of(make(seed=value, images=12, batch_size=12, draws=1)),
            holds=lambda a, b: all(a[name] != pytest.approx(b[name], rel=1e-4) for name in a),
            says="vectors",
        ),
    )


class TestHawqV2Options(OptionCases):
    owner = HawqV2
    options = fields_of(HawqV2)
    rows = (
        seen.bits_row(SMALL_V2),
        OptionRow(
            "activations",
            (True, False),
            seen=lambda value: [
                set(one.activation) for one in seen.search(SMALL_V2(activations=value)).layers.values()
            ],
            holds=lambda a, b: (a, b) == ([{4, 2}] * 2, [{4}] * 2),
            says="bits that inputs may have",
        ),
        OptionRow(
            "monotone",
            (False, True),
            seen=order_of,
            holds=lambda a, b: a[0] == () and len(b[0]) == 2 and b[0] == b[1],
            says="order of the layers",
        ),
        *shared_rows(SMALL_V2, sides=2),
        seen.rule_row(SMALL_V2, "activation_rule", "activation", of=2),
        seen.step_images_row(SMALL_V2, "calibration_images"),
    )


class TestHawqV3Options(OptionCases):
    owner = HawqV3
    options = fields_of(HawqV3)
    rows = (
        seen.bits_row(SMALL_V3),
        *shared_rows(SMALL_V3, sides=1),
        OptionRow(
            "calibration_images",
            (2, 5),
            # Weights alone are scored: the images set nothing, but they are those that would.
            seen=lambda value: seen.search(SMALL_V3(calibration_images=value)),
            holds=lambda a, b: a.layers == b.layers and b.settings["calibration_images"] == 5,
            says="no effect on scores of weights",
        ),
    )


def test_defaults_of_v2_are_those_that_are_documented() -> None:
    assert HawqV2() == HawqV2(
        bits=(8, 6, 5, 4, 3, 2),
        activations=True,
        monotone=False,
        images=512,
        batch_size=32,
        draws=32,
        tolerance=0.001,
        joint=False,
        weight_rule="minmax",
        activation_rule="minmax",
        per_channel=True,
        calibration_images=64,
        first_last=False,
        seed=0,
    )


def test_defaults_of_v3_are_those_that_are_documented() -> None:
    assert HawqV3() == HawqV3(
        bits=(8, 4),
        images=512,
        batch_size=32,
        draws=32,
        tolerance=0.001,
        joint=False,
        weight_rule="minmax",
        per_channel=True,
        calibration_images=64,
        first_last=False,
        seed=0,
    )
