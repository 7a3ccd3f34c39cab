"""Parameter groups with kinds of quantizers that learn nothing, or decay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig, freeze, quantize
from mixbit.training._optim import make_optimizer, rate_at, set_rates, split_parameters


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


def test_residuals_of_batchquant_neither_decay_nor_follow_the_rate_of_steps() -> None:
    """They start at 0, where a rate in parts of the value would never move them."""
    model = model_of(QuantizeConfig(activations="batchquant"))
    parts = split_parameters(model)
    named = {id(p): name for name, p in model.named_parameters()}
    residuals = [name for name in named.values() if name.endswith(("theta", "delta"))]
    assert len(residuals) == 6 and {named[id(p)] for p in parts["plain"]} >= set(residuals)
    assert len(parts["steps"]) == 3  # of the weights
    freeze(model)
    assert not any(p.requires_grad for name, p in model.named_parameters() if name in residuals)


@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.3, 0.5, 1.0])
def test_a_rate_held_for_an_epoch_is_the_mean_of_the_ramp(warmup: float) -> None:
    """Of four epochs, by a sum over many points; and it is above 0 from the first."""
    for epoch in range(4):
        if epoch / 4 < warmup:
            points = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000 / 4 + epoch / 4
            wanted = float((points / warmup).clamp(max=1).mean())
            found = rate_at(epoch / 4, peak=1.0, floor=0.0, warmup=warmup, held=0.25)
            assert found == pytest.approx(wanted, rel=1e-4) and found > 0


@pytest.mark.parametrize(
    ("peak", "floor", "warmup"), [(2.0, 0.1, 0.0), (2.0, 0.1, 0.25), (0.5, 0.0, 0.6), (0.1, 0.4, 0.2)]
)
def test_the_rate_is_a_cosine_whose_clock_includes_the_ramp(peak: float, floor: float, warmup: float) -> None:
    """A ramp from the floor to the peak, and then the later part of a cosine that began with the run."""
    floor_of = min(floor, peak)  # a floor above the peak: no decay
    for at in range(26):
        progress = at / 20
        part = progress / warmup if progress < warmup else 0.5 * (1 + np.cos(np.pi * min(progress, 1)))
        found = rate_at(progress, peak=peak, floor=floor, warmup=warmup)
        assert found == pytest.approx(floor_of + (peak - floor_of) * part, rel=1e-12)


def test_every_group_has_its_own_peak_and_floor() -> None:
    optimizer = make_optimizer(
        model_of(QuantizeConfig()), name="sgd", lr=0.3, step_lr=0.01, momentum=0.9, weight_decay=0.0
    )
    for progress, held, part in ((0.0, 0.0, 0.0), (0.05, 0.0, 0.5), (0.0, 0.1, 0.5), (1.0, 0.0, 0.0)):
        set_rates(optimizer, progress, floor=0.2, warmup=0.1, held=held)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([one * (0.2 + 0.8 * part) for one in (0.3, 0.3, 0.01)])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_nesterovs_where_it_has_momentum(momentum: float) -> None:
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, name="sgd", lr=0.1, step_lr=0.1, momentum=momentum, weight_decay=0.0)
    start, velocity, wanted = model.bias.detach().clone(), torch.zeros(2), model.bias.detach().clone()
    for number in range(4):
        gradient = torch.tensor([1.0, -0.5]) * (number + 1)
        model.bias.grad, model.weight.grad = gradient.clone(), torch.zeros(2, 3)
        optimizer.step()
        velocity = momentum * velocity + gradient
        wanted -= 0.1 * (gradient + momentum * velocity)
    torch.testing.assert_close(model.bias.detach(), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(start, wanted)


def test_weights_are_what_has_two_dimensions_and_learns() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(False))
    parts = split_parameters(model)
    assert [id(one) for one in parts["decay"]] == [id(model[0].weight), id(model[1].weight)]  # type: ignore[union-attr]
    assert len(parts["plain"]) == 4 and parts["steps"] == []


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
