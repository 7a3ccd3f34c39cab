"""Layer-wise SQNR: the ratio of noise to signal, of each side by itself."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mixbit import _effort
from mixbit.cost import LayerBits
from mixbit.data import TensorSplit
from mixbit.errors import MixbitError
from mixbit.methods import Sqnr
from mixbit.methods.sqnr import noise_ratios
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task


class TestSqnr(MethodCases):
    def method(self, seed: int) -> Sqnr:
        return Sqnr(seed=seed, images=16)

    def task(self) -> Task:
        return tiny_task()


class TestSqnrOfTensors(MethodCases):
    def method(self, seed: int) -> Sqnr:
        return Sqnr(seed=seed, images=16, measure="tensor")

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def images(task: Task, count: int) -> Tensor:
    return next(task.train.batches(count, seed=0, shuffle=True))[0]


def test_output_noise_is_that_of_the_quantized_layer(task: Task) -> None:
    """conv1's input and output in the float model, against the same with one side quantized."""
    x = images(task, 16)
    probe = Perturbation(task, (3,), (3,), x)
    model = probe.model
    module = model.get_submodule("conv1")
    scores = Sqnr(bits=(3,), images=16, batch_size=16).search(task, quiet=True)
    with torch.no_grad():
        inputs = torch.relu(model.get_submodule("bn0")(model.get_submodule("stem")(x)))
        clean = module(inputs)
        for side, bits in (("weight", LayerBits(3, None)), ("activation", LayerBits(None, 3))):
            with probe.chosen({"conv1": bits}):
                noise = module(inputs) - clean
            wanted = (noise.flatten(1).square().sum(1) / clean.flatten(1).square().sum(1)).mean()
            assert getattr(scores.layers["conv1"], side)[3] == pytest.approx(float(wanted), rel=1e-5)


def test_tensor_noise_is_the_relative_error_of_weights_and_inputs(task: Task) -> None:
    x = images(task, 16)
    probe = Perturbation(task, (4,), (4,), x)
    weight = probe.weight("conv2")
    wanted = (probe.quantized_weight("conv2", 4) - weight).square().sum() / weight.square().sum()
    scores = Sqnr(bits=(4,), images=16, measure="tensor").search(task, quiet=True)
    assert scores.layers["conv2"].weight[4] == pytest.approx(float(wanted), rel=1e-5)


def test_a_bit_costs_about_six_decibel(task: Task) -> None:
    for found in Sqnr(images=64).search(task, quiet=True).layers.values():
        for curve in (found.weight, found.activation):
            assert 5 < 10 * math.log10(curve[2] / curve[8]) / 6 < 7
            assert [curve[b] for b in (8, 6, 5, 4, 3, 2)] == sorted(curve.values())


def test_batches_do_not_change_the_scores(task: Task) -> None:
    """Steps of inputs come from the first images, so they are given the same ones here."""
    one = Sqnr(images=32, batch_size=32, bits=(4, 2)).search(task, quiet=True)
    x = images(task, 32)
    assert one.settings["images_used"] == 32
    probe = Perturbation(task, (4, 2), (4, 2), x)
    found = Sqnr(bits=(4, 2), batch_size=5)._measure(probe, x, task, True)
    for name, layer in one.layers.items():
        assert found[name].mean("weight", 2) == pytest.approx(layer.weight[2], rel=1e-5)
        assert found[name].mean("activation", 4) == pytest.approx(layer.activation[4], rel=1e-5)


def test_threads_do_not_change_the_scores(task: Task) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(Sqnr(images=16, bits=(4, 2)).search(task, quiet=True))
    finally:
        torch.set_num_threads(threads)
    for name, layer in found[0].layers.items():
        assert found[1].layers[name].weight == pytest.approx(layer.weight, rel=1e-4)


def test_images_without_output_are_left_out_and_counted() -> None:
    """Two of four images are black, and so is what a layer without bias makes of them."""
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(4, 4, bias=False) for _ in range(3)))
    pixels = torch.tensor([[[[0, 0], [0, 0]]], [[[9, 8], [7, 6]]]] * 2, dtype=torch.uint8)
    split = TensorSplit(pixels, torch.tensor([0, 1, 0, 1]), 4, [0.0], [1.0])
    scores = Sqnr(images=4, bits=(4, 2)).search(Task(model=model, train=split, test=split), quiet=True)
    assert scores.settings["silent"] == {"2": 2}
    assert 0 < scores.layers["2"].weight[2] < 2


def test_attention_is_measured_at_its_projections() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x.squeeze(1))
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    pixels = torch.randint(0, 255, (8, 1, 5, 4)).to(torch.uint8)
    split = TensorSplit(pixels, torch.arange(8) % 3, 3, [0.5], [0.25])
    scores = Sqnr(images=8, bits=(6, 2)).search(Task(model=Block(), train=split, test=split), quiet=True)
    assert list(scores.layers) == ["attention.in_proj", "attention.out_proj"]
    for layer in scores.layers.values():
        assert 0 < layer.weight[6] < 0.01 < layer.weight[2] < 1
        assert 0 < layer.activation[6] < 0.01 < layer.activation[2] < 1


def test_layer_passes_are_reported(task: Task) -> None:
    with _effort.listen() as counts:
        Sqnr(images=16, bits=(4, 2)).search(task, quiet=True)
    macs = {layer.name: layer.macs for layer in task.network.layers}
    share = sum(macs[n] for n in ("conv1", "conv2", "hidden")) / sum(macs.values())
    assert counts.forward_images == pytest.approx(16 * share * 5)  # clean, and two sides at two bit-widths


def test_what_is_not_finite_is_an_error_that_names_the_layer(task: Task) -> None:
    model = tiny_task().model
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0, 0, 0, 0] = torch.nan
    broken = dataclasses.replace(task, model=model)
    with pytest.raises(MixbitError, match="conv2"):
        Sqnr(images=8).search(broken, quiet=True)


def test_noise_ratio_of_nothing_is_nan() -> None:
    assert noise_ratios(torch.ones(2, 3), torch.tensor([[1.0, 1, 1], [0, 0, 0]])).isnan().tolist() == [False, True]


@pytest.mark.parametrize("wrong", [{"measure": "decibel"}, {"images": 0}, {"bits": (4, 4)}])
def test_illegal_settings_are_errors(task: Task, wrong: dict[str, object]) -> None:
    with pytest.raises(MixbitError, match=f"{next(iter(wrong))}="):
        Sqnr(**wrong).search(task, quiet=True)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- options


SMALL = partial(Sqnr, bits=(4, 2), images=8, batch_size=8, step_images=2)


def noise_of_conv(measure: str) -> float:
    """Of the weight at 2 bits, by "minmax"."""
    return seen.search(SMALL(measure=measure, rule="minmax", images=12)).layers["conv"].weight[2]


def noise_of_conv_by_hand(measure: str) -> float:
    """Mean ratio of the images' outputs, or the one ratio of the weight."""
    weight = seen.small_task().model.get_parameter("conv.weight").detach()
    step = seen.minmax_weight_step("conv", 2)[:, None, None, None]
    error = torch.round(weight / step).clamp(-2, 1) * step - weight
    if measure == "tensor":
        return float(error.square().sum() / weight.square().sum())
    x, bias = seen.inputs_of("conv", seen.images(0)), seen.small_task().model.get_parameter("conv.bias")
    noise = nn.functional.conv2d(x, error, padding=1).square().flatten(1).sum(1)
    signal = nn.functional.conv2d(x, weight, bias, padding=1).square().flatten(1).sum(1)
    return float((noise / signal).mean().detach())


class TestSqnrOptions(OptionCases):
    owner = Sqnr
    options = fields_of(Sqnr)
    rows = (
        seen.bits_row(SMALL),
        OptionRow(
            "images",
            (4, 9),
            seen=lambda value: sum(seen.model_calls(SMALL(images=value))),
            holds=lambda a, b: (a, b) == (4 + 2, 9 + 2),  # two of them set the steps before
            says="images that the model sees",
        ),
        OptionRow(
            "measure",
            ("output", "tensor"),
            seen=noise_of_conv,
            holds=lambda *found: (
                found == tuple(pytest.approx(noise_of_conv_by_hand(one), rel=1e-4) for one in ("output", "tensor"))
            ),
            says="noise of a weight",
        ),
        seen.batch_size_row(SMALL, seen=seen.model_calls),
        seen.per_channel_row(SMALL),
        seen.rule_row(SMALL, "rule", "weight", of=2),
        seen.rule_row(SMALL, "rule", "activation", of=2),
        seen.step_images_row(SMALL, "step_images"),
        seen.first_last_row(SMALL),
        seen.seed_row(SMALL, images_used=2),
    )


def test_defaults_are_those_that_are_documented() -> None:
    assert Sqnr() == Sqnr(
        bits=(8, 6, 5, 4, 3, 2),
        images=256,
        measure="output",
        batch_size=128,
        per_channel=True,
        rule="mse",
        step_images=32,
        first_last=False,
        seed=0,
    )
