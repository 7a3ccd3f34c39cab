"""The distilled loss by its formula, and how a training treats the teacher."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mixbit.data import read_keys
from mixbit.errors import MixbitError
from mixbit.testing.options import alike
from mixbit.training import TrainConfig, distilled_loss, train
from tests.nets import quantized_net, tiny_net, tiny_split

CONFIG = TrainConfig(epochs=3, batch_size=16, lr=0.05, bn_samples=32, augment=False)


def test_distillation_needs_a_teacher() -> None:
    config = TrainConfig(epochs=1, batch_size=16, distill=0.5)
    with pytest.raises(MixbitError, match="teacher"):
        train(quantized_net(), tiny_split(), None, config, quiet=True)


def test_the_distilled_loss_is_the_divergence_of_the_student_from_its_teacher() -> None:
    """Of probabilities p (teacher) and q that are no mirror images of each other, softened by 3: sum p log(p / q)."""
    outputs, teacher = (
        torch.tensor([[3.0, 0.0, -1.0], [0.5, 0.2, 2.0]]),
        torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 0.3]]),
    )
    apart = 0.0
    for row, other in zip(outputs.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(one / 3) / sum(math.exp(two / 3) for two in line) for one in line] for line in (row, other))
        apart += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    found = distilled_loss(outputs, teacher, torch.tensor(0.8), weight=0.3, temperature=3.0)
    assert float(found) == pytest.approx(0.7 * 0.8 + 0.3 * 9 * apart, rel=1e-5)


def test_distilled_loss_does_not_guess_the_axis_of_the_classes() -> None:
    outputs, teacher = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    with pytest.raises(MixbitError, match="class_axis="):
        distilled_loss(outputs, teacher, torch.tensor(0.0), weight=1.0, temperature=1.0)
    found = distilled_loss(outputs, teacher, torch.tensor(0.0), weight=1.0, temperature=1.0, class_axis=2)
    flat = (one.flatten(0, 1) for one in (outputs, teacher))
    torch.testing.assert_close(found, distilled_loss(*flat, torch.tensor(0.0), weight=1.0, temperature=1.0))


def test_a_teacher_judges_in_evaluation_mode_and_stays_as_it_was() -> None:
    """Its dropout and its norm are off in the copy, and the user's own has neither mode nor statistics changed."""
    model, teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), tiny_net().train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    train(model, tiny_split(), None, replace(CONFIG, distill=1.0), teacher=teacher, quiet=True)
    assert teacher.training and alike(before, dict(teacher.state_dict()))


def test_the_teacher_gets_the_same_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return (self.fc(x) * scale[:, None]).flatten()  # type: ignore[no-any-return]

    random = torch.Generator().manual_seed(0)
    x, scale = torch.randn(32, 4, generator=random), torch.rand(32, generator=random) + 0.5
    torch.manual_seed(0)
    model, teacher = Named(), Named()
    rows = [{"x": a, "scale": b, "y": 0.0} for a, b in zip(x, scale, strict=True)]
    config = TrainConfig(epochs=30, batch_size=16, lr=0.1, distill=1.0, bn_samples=0, validate_every=0)
    train(
        model, DataLoader(rows, 16), None, config, teacher=teacher, loss=nn.functional.mse_loss,  # type: ignore[arg-type]
        distill=nn.functional.mse_loss, read=read_keys(["x", "scale"], "y"), quiet=True,
    )  # fmt: skip
    assert float(nn.functional.mse_loss(model(x, scale), teacher(x, scale))) < 1e-2
