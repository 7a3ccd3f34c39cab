"""Steps that an optimizer would take through zero are held above it, others are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.quantizers import DoReFaWeights, LsqClip, Pact, PositiveSteps, Quantizer


def with_steps(step: float, channels: int = 1, **settings: object) -> Quantizer:
    quantizer = Quantizer([4], signed=True, channels=channels, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        quantizer.steps.fill_(step)
    return quantizer


def update(model: nn.Module, guard: PositiveSteps, change: Tensor | float) -> None:
    guard.look()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Quantizer):
                module.steps += change
    guard.hold()


@pytest.mark.parametrize(
    ("change", "after"), [(-0.3, 0.1), (-0.2, 0.1), (-0.11, 0.1), (-0.09, 0.11), (0.0, 0.2), (5.0, 5.2)]
)
def test_no_step_falls_below_half(change: float, after: float) -> None:
    quantizer = with_steps(0.2)
    guard = PositiveSteps(quantizer)
    update(quantizer, guard, change)
    assert float(quantizer.steps.detach()) == pytest.approx(after)
    assert guard.cut_short() == ({"steps": 1} if change < -0.1 else {})


def test_channels_are_held_one_by_one() -> None:
    quantizer = with_steps(0.2, channels=3)
    guard = PositiveSteps(quantizer)
    update(quantizer, guard, torch.tensor([[-1.0, -0.05, 0.3]]))
    torch.testing.assert_close(quantizer.steps.detach(), torch.tensor([[0.1, 0.15, 0.5]]))
    update(quantizer, guard, torch.tensor([[-1.0, -1.0, -0.1]]))
    assert guard.cut_short() == {"steps": 2}  # of the step that was cut short most often, not of all together


def test_what_is_told_names_the_steps_that_were_cut_short_most() -> None:
    model = nn.Sequential(*(with_steps(0.2) for _ in range(5)))
    guard = PositiveSteps(model)
    for number in (0, 1, 1, 2, 2, 2, 3, 3, 3, 3):
        guard.look()
        with torch.no_grad():
            model[number].steps -= 1.0
        guard.hold()
    assert guard.cut_short() == {"0.steps": 1, "1.steps": 2, "2.steps": 3, "3.steps": 4}
    text = guard.told(updates=100)
    assert text is not None and text.startswith("updates of 4 of 5 step sizes were cut short at half of the step")
    assert "3.steps (4 times), 2.steps (3 times), 1.steps (2 times), ..." in text and "0.steps" not in text
    few = guard.told(updates=300)
    assert few is not None and "updates of 2 of 5" in few and "2.steps (3 times). The rate" in few
    assert guard.told(updates=401) is None


def test_the_smallest_step_is_that_of_the_rules() -> None:
    quantizer = with_steps(1.5e-8)
    guard = PositiveSteps(quantizer)
    for _ in range(3):
        update(quantizer, guard, -1.0)
    assert float(quantizer.steps.detach()) == pytest.approx(1e-8)


def test_nan_stays_for_training_to_report() -> None:
    quantizer = with_steps(0.2)
    update(quantizer, PositiveSteps(quantizer), float("nan"))
    assert bool(torch.isnan(quantizer.steps).all())


def test_clamped_and_fixed_steps_are_left_alone() -> None:
    """LIMPQ reads the raw value of a step that its code clamps before use."""
    for quantizer in (with_steps(0.2, step_range=(1e-5, 1.0)), DoReFaWeights([4], signed=True)):
        guard, before = PositiveSteps(quantizer), quantizer.steps.detach().clone()
        update(quantizer, guard, -9.0)
        assert torch.equal(quantizer.steps.detach(), before - 9.0) and guard.told() is None


@pytest.mark.parametrize("kind", [Quantizer, LsqClip, Pact])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizers_at_a_rate_that_is_too_high(kind: type[Quantizer], name: str) -> None:
    torch.manual_seed(0)
    quantizer = kind([3], signed=kind is not Pact)
    with torch.no_grad():
        quantizer.steps.fill_(0.02)
    make = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    optimizer = make(quantizer.parameters(), lr=1.0)
    guard = PositiveSteps(quantizer, optimizer)
    for _ in range(20):
        optimizer.zero_grad()
        (quantizer(torch.randn(64)).square().sum() * 30).backward()
        optimizer.step()
        assert float(quantizer.steps.detach().min()) > 0
    assert guard.cut_short()["steps"] > 0
    assert "1 of 1 step sizes" in str(guard.told()) and "lower step_lr" in str(guard.told())
    (count,) = guard.cut_short().values()
    assert guard.told(100 * count) is not None and guard.told(100 * count + 1) is None  # once in a while is no news


def test_updates_that_do_not_reach_so_far_are_the_optimizers_own() -> None:
    """Bit for bit, with momentum and all."""
    results = []
    for guarded in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(with_steps(0.2), nn.Linear(4, 4), with_steps(0.3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
        guard = PositiveSteps(model, optimizer) if guarded else None
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
        assert guard is None or not guard.cut_short()
        results.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_model_without_quantizers_has_nothing_to_hold() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = PositiveSteps(model, optimizer)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert guard.told() is None
