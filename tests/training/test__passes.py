"""The loss and the precision of a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixbit.errors import MixbitError
from mixbit.training import TrainConfig, train
from mixbit.training._passes import bf16_is_slow
from tests.nets import quantized_net, tiny_split


def test_bf16_without_its_arithmetic_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixbit.training._passes.bf16_is_slow", lambda device: True)
    config = TrainConfig(epochs=1, batch_size=16, precision="bf16", augment=False)
    with pytest.warns(UserWarning, match="no bf16 arithmetic and emulates it"):
        train(quantized_net(), tiny_split(), tiny_split(), config, quiet=True)


def test_bf16_is_slow_where_the_processor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda answer=supported: answer)
        assert bf16_is_slow(torch.device("cpu")) is not supported
        assert not bf16_is_slow(torch.device("cuda"))


def test_a_loss_without_a_gradient_is_an_error_at_the_first_step() -> None:
    data, model = [(torch.randn(16, 4), torch.randn(16))], nn.Linear(4, 1)
    for loss in (lambda o, _y: o.detach().mean(), lambda o, _y: o.mean().item()):
        with pytest.raises(MixbitError, match="does not depend on the parameters"):
            train(model, data, None, TrainConfig(epochs=1, batch_size=16), loss=loss, quiet=True)
    config = TrainConfig(epochs=1, batch_size=16, label_smoothing=0.1)
    with pytest.raises(
        MixbitError, match="label_smoothing=0.1, and the loss 'mse_loss' does not take it.*--set label_smoothing=0"
    ):
        train(model, data, None, config, loss=nn.functional.mse_loss, quiet=True)
