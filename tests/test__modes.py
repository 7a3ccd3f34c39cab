"""Frozen batch norms stay frozen through everything that changes modes for a while."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mixbit._modes import in_evaluation, in_training, is_frozen, modes_kept, start_training
from mixbit.data import LoaderSplit
from mixbit.evaluation import evaluate, reestimate_batch_norm
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, norms_after_layers, quantize, quantized_layers
from mixbit.training import TrainConfig, train

X = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
SPLIT = LoaderSplit([(X, torch.arange(8) % 2)], num_classes=2)


def fine_tuned() -> nn.Sequential:
    """Two norms, the first frozen as one does it for fine-tuning, with statistics of its own."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 2),
    ).train()  # fmt: skip
    net[1].eval()
    net[1].running_mean.fill_(-3.0)
    return net


def on_quantized(act: Callable[[nn.Module], object]) -> Callable[[nn.Module], object]:
    def run(net: nn.Module) -> None:
        network = capture(net, X)
        quantize(net, Policy.uniform(network, 8, 8, {}), network)
        act(net)

    return run


ACTS: dict[str, Callable[[nn.Module], object]] = {
    "evaluate": lambda net: evaluate(net, SPLIT),
    "reestimate_batch_norm": lambda net: reestimate_batch_norm(net, [X]),
    "calibrate": on_quantized(lambda net: calibrate(net, [X])),
    "train": lambda net: train(net, SPLIT, SPLIT, TrainConfig(epochs=1, batch_size=4, bn_samples=8), quiet=True),
    "norms_after_layers": lambda net: norms_after_layers(net, X),
}


@pytest.mark.parametrize("act", ACTS)
def test_frozen_norms_stay_frozen(act: str) -> None:
    net = fine_tuned()
    mean = net[1].running_mean.clone()
    ACTS[act](net)
    assert [module.training for module in net] == [True, False, True, True, True, True, True, True]
    assert net.training and torch.equal(net[1].running_mean, mean)


def test_training_moves_the_norms_that_are_not_frozen() -> None:
    net = fine_tuned()
    mean = net[4].running_mean.clone()
    ACTS["train"](net)
    assert not torch.equal(net[4].running_mean, mean)


def test_a_model_in_evaluation_mode_is_trained_as_a_whole() -> None:
    net = fine_tuned().eval()
    start_training(net)
    assert all(module.training for module in net.modules())


def test_calibration_sees_what_the_frozen_norm_lets_through() -> None:
    """Its mean of -3 lifts the input of the next layer, far beyond what statistics of the batch would give."""
    net = fine_tuned()
    network = capture(net, X)
    quantize(net, Policy.uniform(network, 8, 8, {}), network)
    calibrate(net, [X], "minmax")
    reader = quantized_layers(net)["3"]
    seen: list[float] = []
    reader.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].detach().max())))
    net(X)
    assert reader.input_quantizer is not None
    assert 255 * float(reader.input_quantizer.steps.detach()) == pytest.approx(seen[0], rel=1e-5)


def fail_in_evaluation(net: nn.Module) -> None:
    with in_evaluation(net):
        assert not any(module.training for module in net.modules())
        raise ZeroDivisionError


def test_modes_come_back_after_an_error_and_through_the_classes_own_train() -> None:
    calls: list[bool] = []

    class Net(nn.Sequential):
        def train(self, mode: bool = True) -> Net:
            calls.append(mode)
            return super().train(mode)

    net = Net(nn.Dropout(), nn.Dropout().eval())
    with pytest.raises(ZeroDivisionError):
        fail_in_evaluation(net)
    assert [net[0].training, net[1].training] == [True, False] and calls == [False, True]
    with in_training(net):
        assert is_frozen(net, net[1]) and not is_frozen(net, net[0])
    assert not is_frozen(net.eval(), net[1])  # in evaluation as a whole, nothing is frozen
    with modes_kept(net.eval()):
        net[0].train()
    assert not net[0].training
