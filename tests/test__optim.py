"""Parameter groups with kinds of quantizers that learn nothing, or decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixbit._optim import make_optimizer, rate_at, split_parameters
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantize import QuantizeConfig, freeze, quantize


def model_of(config: QuantizeConfig) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    network = capture(model, torch.zeros(2, 4))
    quantize(model, Policy.uniform(network, 4, 4, {}), network, config)
    return model


def groups(config: QuantizeConfig) -> list[tuple[float, float, int]]:
    """Weight decay, rate and number of parameters of each group."""
    optimizer = make_optimizer(model_of(config), name="sgd", lr=0.1, step_lr=0.01, momentum=0.9, weight_decay=1e-4)
    return [(g["weight_decay"], g["lr"], len(g["params"])) for g in optimizer.param_groups]


def test_step_sizes_are_a_group_of_their_own() -> None:
    assert groups(QuantizeConfig()) == [(1e-4, 0.1, 3), (0.0, 0.1, 3), (0.0, 0.01, 6)]


def test_clips_decay_and_other_steps_do_not() -> None:
    """The first input is signed, so it is not PACT's."""
    found = groups(QuantizeConfig(activations="pact", clip_decay=0.002))
    assert found == [(1e-4, 0.1, 3), (0.0, 0.1, 3), (0.0, 0.01, 4), (0.002, 0.01, 2)]


def test_fixed_steps_are_never_learned() -> None:
    model = model_of(QuantizeConfig(weights="dorefa", activations="dorefa"))
    assert len(split_parameters(model)["steps"]) == 1  # LSQ on the signed input of the network
    freeze(model, frozen=False)
    assert len(split_parameters(model)["steps"]) == 1


@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.3, 0.5, 1.0])
def test_a_rate_held_for_an_epoch_is_the_mean_of_the_ramp(warmup: float) -> None:
    """Of four epochs, by a sum over many points; and it is above 0 from the first."""
    for epoch in range(4):
        if epoch / 4 < warmup:
            points = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000 / 4 + epoch / 4
            wanted = float((points / warmup).clamp(max=1).mean())
            found = rate_at(epoch / 4, peak=1.0, floor=0.0, warmup=warmup, held=0.25)
            assert found == pytest.approx(wanted, rel=1e-4) and found > 0


def test_momentum_that_begins_late_is_that_of_plain_sgd() -> None:
    """The fused optimizer with zeros in place of no momentum, against the unfused one; also after loading a state."""
    torch.manual_seed(0)
    ours, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(ours.state_dict())
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    first = make_optimizer(ours, name="sgd", step_lr=0.1, **settings)  # type: ignore[arg-type]
    groups = [{"params": [plain.weight]}, {"params": [plain.bias], "weight_decay": 0.0}]
    second = torch.optim.SGD(groups, nesterov=True, **settings)  # type: ignore[arg-type]
    for step in range(6):
        for model in (ours, plain):
            model.weight.grad = torch.full((2, 3), 0.1 * step)
            model.bias.grad = None if step < 3 else torch.full((2,), 0.2)
        if step == 2:
            state = first.state_dict()
            del state["state"][1]
            first.load_state_dict(state)
        first.step()
        second.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adamw_moves_step_sizes_by_a_part_of_themselves(decay: float) -> None:
    """Steps of any size shrink under a constant gradient and never turn negative; the first update is known exactly."""
    model = model_of(QuantizeConfig())
    steps = split_parameters(model)["steps"]
    for power, parameter in enumerate(steps):
        nn.init.constant_(parameter, 10.0**-power)
    optimizer = make_optimizer(model, name="adamw", lr=0.03, step_lr=0.03, momentum=0.0, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["weight_decay"] = decay
    for update in range(200):
        for parameter in steps:
            parameter.grad = torch.full_like(parameter, 0.7)
        optimizer.step()
        if not update:
            for power, parameter in enumerate(steps):
                kept = 10.0**-power * (1 - 0.03 * decay)
                torch.testing.assert_close(
                    parameter.detach(), torch.full_like(parameter, kept * 0.97), rtol=1e-5, atol=0
                )
    assert all(0 < float(p.detach().max()) < 10.0**-power * 0.97**190 for power, p in enumerate(steps))


def test_adamw_moves_weights_as_it_does() -> None:
    model, plain = model_of(QuantizeConfig()), nn.Linear(4, 5)
    plain.load_state_dict({"weight": model[0].weight, "bias": model[0].bias})  # type: ignore[index, union-attr]
    ours = make_optimizer(model, name="adamw", lr=0.01, step_lr=0.01, momentum=0.0, weight_decay=0.1)
    other = torch.optim.AdamW([plain.weight], lr=0.01, weight_decay=0.1)
    for _ in range(5):
        for weight in (model[0].weight, plain.weight):  # type: ignore[index, union-attr]
            weight.grad = torch.sin(weight.detach() * 9)  # type: ignore[union-attr, operator]
        ours.step()
        other.step()
    torch.testing.assert_close(model[0].weight, plain.weight, rtol=1e-5, atol=1e-6)  # type: ignore[index, union-attr]
