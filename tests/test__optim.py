"""Parameter groups with kinds of quantizers that learn nothing, or decay."""

from __future__ import annotations

import torch
from torch import nn

from mixbit._optim import make_optimizer, split_parameters
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
