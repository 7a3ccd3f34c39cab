"""One step at the lowest bits, at the highest and at random ones: which bits, and the gradients that are left."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from mixbit import Task
from mixbit.errors import MixbitError
from mixbit.quantization import quantized_layers, quantizers
from mixbit.supernet import (
    SandwichStep,
    SubnetJudge,
    SupernetConfig,
    SwitchableBatchNorm,
    Uniform,
    build_supernet,
    elastic_layers,
    select,
)
from mixbit.task import cross_entropy
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.testing.steps import StepCases
from mixbit.training import StepContext, TrainConfig, train
from tests.supernet import nets


def made(**settings: Any) -> tuple[Task, nn.Module, SandwichStep]:
    task, config = nets.task(), SupernetConfig(**{"bits": (8, 4, 2), "calibration_images": 16} | settings)
    model = build_supernet(task, config)
    return task, model, SandwichStep(model, task.network, config)


def context(model: nn.Module, number: int = 0, total: int = 100, seed: int = 0) -> StepContext:
    return StepContext(
        model=model, loss=lambda _x, out, y: cross_entropy(out, y), forward=lambda x: model(x),
        number=number, total=total, seed=seed,
    )  # fmt: skip


def test_a_supernet_is_a_copy_with_banks_and_pinned_ends() -> None:
    task, model, _ = made()
    assert elastic_layers(model) == ["left", "right"] and not quantized_layers(task.model)
    banks = {name: bank.bits for name, bank in quantizers(model).items()}
    assert {name for name, bits in banks.items() if bits == (8,)} == {
        f"{layer}.{side}_quantizer" for layer in ("stem", "head") for side in ("weight", "input")
    }
    assert all(bits == (8, 4, 2) for name, bits in banks.items() if name.startswith(("left", "right")))
    assert all(bool(bank.ready.all()) for bank in quantizers(model).values()), "calibrated at every bit-width"
    assert elastic_layers(build_supernet(task, SupernetConfig(bits=(4, 2), first_last=True))) == [
        "stem", "left", "right", "head",
    ]  # fmt: skip


def test_the_first_two_passes_are_the_lowest_and_the_highest_and_the_others_are_drawn() -> None:
    _, model, step = made(passes=5)
    found = list(step.choices(context(model)))
    assert found[0] == {"left": (2, 2), "right": (2, 2)} and found[1] == {"left": (8, 8), "right": (8, 8)}
    assert len(found) == 5
    drawn = [choice for number in range(120) for choice in list(step.choices(context(model, number)))[2:]]
    assert all(choice["left"][1] == choice["right"][1] for choice in drawn), "they read one tensor"
    for counts in (Counter(c["left"][0] for c in drawn), Counter(c["right"][0] for c in drawn),
                   Counter(c["left"][1] for c in drawn)):  # fmt: skip
        assert set(counts) == {8, 4, 2} and all(abs(n / len(drawn) - 1 / 3) < 0.1 for n in counts.values())
    assert len({tuple(c.items()) for c in drawn}) == 27, "weights of both layers and their tensor, independently"


def test_draws_are_of_seed_and_step_alone() -> None:
    _, model, step = made()
    assert list(step.choices(context(model, 3))) == list(step.choices(context(model, 3)))
    assert list(step.choices(context(model, 3))) != list(step.choices(context(model, 4)))
    several = [[list(step.choices(context(model, n, seed=s))) for n in range(5)] for s in (0, 1)]
    assert several[0] != several[1]


def test_gradients_are_the_sum_over_the_passes_and_the_loss_their_mean() -> None:
    task, model, step = made(norms="bits")
    twin = copy.deepcopy(model)
    x, y = next(iter(task.train.batches(16)))
    told = step(context(model.train(), 7), x, y)
    other = SandwichStep(twin.train(), task.network, step.config)
    losses = []
    for choice in other.choices(context(twin, 7)):
        other.use(choice)
        losses.append(cross_entropy(twin(x), y))
        losses[-1].backward()
    assert float(told) == pytest.approx(float(torch.stack(losses).mean()))
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, msg=name)
    steps = quantized_layers(model)["left"].weight_quantizer.steps.grad  # type: ignore[union-attr]
    assert steps is not None and bool((steps[[0, 2]] != 0).all()), "the ends learn in every step"


def test_float_is_drawn_in_the_first_part_alone() -> None:
    task, model, step = made(float_share=0.5, passes=8)

    def floats(number: int) -> int:
        return sum(
            bits is None for choice in step.choices(context(model, number)) for side in choice.values() for bits in side
        )

    assert sum(map(floats, range(50))) > 50 and sum(map(floats, range(50, 100))) == 0
    step.use({"left": (None, 4), "right": (2, None)})
    layers = quantized_layers(model)
    assert [bank.bypass for layer in ("left", "right") for bank in
            (layers[layer].weight_quantizer, layers[layer].input_quantizer)] == [True, False, False, True]  # type: ignore[union-attr]  # fmt: skip
    x, y = next(iter(task.train.batches(16)))
    step(context(model), x, y)
    assert not any(bank.bypass for bank in quantizers(model).values()), "nothing is left in float"


def draws_float(share: float) -> bool:
    step = made(float_share=share)[2]
    passes = [choice for number in range(9) for choice in step.choices(context(nn.Identity(), number))]
    return any(None in sides for choice in passes for sides in choice.values())


def calibrated(**settings: Any) -> tuple[int, int, int]:
    """Images, the seed of their choice, and the seed of what the model draws meanwhile."""
    with (
        mock.patch.object(Task, "calibration", return_value=torch.zeros(2, 3, 6, 6)) as images,
        mock.patch("mixbit.supernet.sandwich.calibrate") as done,
    ):
        made(**settings)
    return (*images.call_args.args, done.call_args.kwargs["seed"])


class TestSupernetConfigOptions(OptionCases):
    owner = SupernetConfig
    options = fields_of(SupernetConfig)
    rows = (
        OptionRow("bits", ((8, 2), (8, 4, 3)), lambda v: quantizers(made(bits=v)[1])["left.weight_quantizer"].bits,
                  lambda a, b: (a, b) == ((8, 2), (8, 4, 3))),
        OptionRow("first_last", (False, True), lambda v: elastic_layers(made(first_last=v)[1]),
                  lambda a, b: (a, b) == (["left", "right"], ["stem", "left", "right", "head"])),
        OptionRow("passes", (2, 6), lambda v: len(list(made(passes=v)[2].choices(context(nn.Identity())))),
                  lambda a, b: (a, b) == (2, 6)),
        OptionRow("float_share", (0.0, 1.0), draws_float, lambda a, b: (a, b) == (False, True)),
        OptionRow("norms", ("shared", "pair"), lambda v: isinstance(made(norms=v)[1].bn1, SwitchableBatchNorm),
                  lambda a, b: (a, b) == (False, True)),
        OptionRow("per_channel", (False, True),
                  lambda v: quantizers(made(per_channel=v)[1])["left.weight_quantizer"].channels,
                  lambda a, b: (a, b) == (1, 4)),
        OptionRow("activations", ("lsq", "pact"),
                  lambda v: type(quantizers(made(activations=v)[1])["left.input_quantizer"]).__name__,
                  lambda a, b: (a, b) == ("Quantizer", "Pact")),
        OptionRow("calibration_images", (4, 48), lambda v: calibrated(calibration_images=v)[0],
                  lambda a, b: (a, b) == (4, 48)),
        OptionRow("seed", (0, 1), lambda v: calibrated(seed=v)[1:], lambda a, b: (a, b) == ((0, 0), (1, 1))),
    )  # fmt: skip


def test_settings_that_cannot_be() -> None:
    for bits in ((8,), (4, 4)):
        with pytest.raises(MixbitError, match="Legal: at least two bit-widths, none twice"):
            SupernetConfig(bits=bits)
    assert (SupernetConfig(bits=(3, 8, 2, 4)).middle, SupernetConfig(bits=(3, 2)).middle) == (4, 3)
    flat = [(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))]
    two = Task(model=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), train=flat, test=flat)
    with pytest.raises(MixbitError, match="no layer of the network has a choice of bits. Set first_last=True"):
        build_supernet(two, SupernetConfig(bits=(4, 2)))


class TestSandwichKeepsTheContract(StepCases):
    config = TrainConfig(epochs=2, batch_size=16, lr=0.01, bn_samples=0)

    def model(self) -> nn.Module:
        return made()[1]

    def step(self, model: nn.Module) -> SandwichStep:
        task = nets.task()
        return SandwichStep(model, task.network, SupernetConfig(bits=(8, 4, 2)))

    def data(self) -> object:
        return nets.task().train


def test_training_makes_sub_networks_better_and_tells_of_three() -> None:
    task, model, step = made(passes=3)
    judge = SubnetJudge(model, [x for x, _ in task.train.batches(16)], task.train, task.objective)
    before = [judge(Uniform(bits)).loss for bits in (2, 4, 8)]

    def validate(uniform: Uniform) -> Any:
        judge.forget()
        return judge(uniform)

    step.validate = validate
    config = TrainConfig(epochs=6, batch_size=16, lr=0.02, bn_samples=0, distill=0.5)
    found = train(model, task.train, None, config, step=step, teacher=task.model, loss=task.objective, quiet=True)
    judge.forget()
    after = [judge(Uniform(bits)).loss for bits in (2, 4, 8)]
    assert all(now < then for now, then in zip(after, before, strict=True)), (before, after)
    told = found.history[-1]["subnets"]
    assert list(told) == ["W2A2", "W4A4", "W8A8"] and [told[name]["loss"] for name in told] == pytest.approx(after)


def test_a_teacher_is_asked_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    task, model, step = made(passes=4)
    asked = []
    teacher = copy.deepcopy(task.model)
    monkeypatch.setattr(nets.Small, "forward", _counting(nets.Small.forward, asked))
    config = TrainConfig(epochs=1, batch_size=16, lr=0.01, bn_samples=0, distill=1.0)
    train(model, task.train, None, config, step=step, teacher=teacher, loss=task.objective, quiet=True)
    floats = [one for one in asked if not quantized_layers(one)]
    assert len(floats) == 3 and len(asked) == 3 + 3 * 4


def _counting(forward: Any, asked: list[nn.Module]) -> Any:
    def counted(self: nn.Module, x: torch.Tensor) -> Any:
        asked.append(self)
        return forward(self, x)

    return counted


def test_uniform_bits_are_selected_with_their_norms() -> None:
    _, model, _ = made(norms="bits")
    select(model, 2)
    assert int(model.bn1.row) == 2
