"""Brevitas's statistics are behind before its step is timed; its package is replaced, since it lives elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from tests.support import ROOT

PEERS = ROOT / "benchmarks" / "peers"
ABSENT = (
    "brevitas", "brevitas.nn", "brevitas.quant", "torchao", "torchao.quantization", "torchao.quantization.pt2e",
    "torchao.quantization.pt2e.quantize_pt2e", "torchao.testing", "torchao.testing.pt2e",
    "torchao.testing.pt2e._xnnpack_quantizer",
)  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ABSENT:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.delitem(sys.modules, "qat_step", raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("peers_qat_step", PEERS / "qat_step.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Counting(nn.Module):
    """As Brevitas's scaling: one pass more than `collect_stats_steps` sets what is learned."""

    collect_stats_steps = 5

    def __init__(self, by: int = 1) -> None:
        super().__init__()
        self.counter, self.by, self.images = 0, by, list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.training and not torch.is_grad_enabled()
        self.images.append(len(x))
        self.counter += self.by
        return x


def test_the_statistics_are_taken_before_the_first_step_on_few_images(script: ModuleType) -> None:
    model = nn.Sequential(Counting(), nn.ReLU(), Counting()).eval()
    assert script.collected(model, torch.zeros(128, 1)) == 6
    assert model[0].counter == 6 and set(model[0].images) == {script.FEW}


def test_another_way_of_counting_is_an_error(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="counts the passes"):
        script.collected(nn.Sequential(nn.ReLU()), torch.zeros(8, 1))
    with pytest.raises(SystemExit, match="take statistics after 6 passes"):
        script.collected(nn.Sequential(Counting(by=0)), torch.zeros(8, 1))
