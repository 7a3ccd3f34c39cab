"""The float network as an ONNX file."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from mixbit.errors import ExportError
from mixbit.export._onnx_session import load_session
from mixbit.export.float_onnx import float_onnx
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, detach, quantize
from tests.needs import need


def test_it_is_the_network_without_its_quantizers_which_stay_on(monkeypatch: pytest.MonkeyPatch) -> None:
    need("onnx")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.randn(1, 4)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 2, 2), network)
    calibrate(model, [torch.randn(16, 4)])
    model.train()
    monkeypatch.setattr(logging.root.manager, "disable", 5)
    session = load_session(float_onnx(model, x))
    assert model.training and logging.root.manager.disable == 5, "as they were"
    model.eval()
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        quantized = model(x).numpy()
        detach(model)
        plain = model(x).numpy()
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    assert not np.allclose(quantized, plain, atol=1e-3), "the quantizers were on until then"


def test_what_pytorch_cannot_write_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    need("onnx")
    monkeypatch.setattr(logging.root.manager, "disable", 5)
    with pytest.raises(ExportError, match="Leave the comparison with the float model out"):
        float_onnx(Branches(), torch.zeros(1, 2))
    assert logging.root.manager.disable == 5


def test_what_pytorchs_exporter_warns_of_is_not_the_users() -> None:
    class Warns(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn("of the exporter's walk", UserWarning, stacklevel=2)
            return x + 1

    need("onnx")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert float_onnx(Warns(), torch.zeros(1, 2))
    assert [str(one.message) for one in seen] == []
