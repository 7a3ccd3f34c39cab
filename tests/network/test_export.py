"""The model comes back as it was, and torch.export is quiet."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import config as fx_config

from mixbit.errors import CaptureError
from mixbit.network import capture
from mixbit.network._export import _without_stack_traces, is_data_dependent
from tests.network.conftest import Call


def state(model: nn.Module) -> list[object]:
    """All that capture could change, by identity where that matters."""
    facts: list[object] = [(name, module.training, type(module)) for name, module in model.named_modules()]
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        gradient = None if value.grad is None else (id(value.grad), value.grad.clone().tolist())
        facts.append((name, id(value), value.requires_grad, gradient, value.detach().clone().tolist()))
    hooks = [len(module._forward_hooks) for module in model.modules()]
    return [*facts, hooks]


class Odd(nn.Module):
    """A part of it is frozen in evaluation mode, one gradient is there, and it keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.tail = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.last: torch.Tensor | None = None
        self.calls = 0
        self.norm.eval()
        self.tail.weight.requires_grad_(False)
        self.fc.weight.grad = torch.ones(4, 4)

    def train(self, mode: bool = True) -> Odd:
        raise AssertionError("capture sets the flags itself")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = self.norm(self.fc(x))
        return self.tail(self.last)


def test_the_model_is_put_back() -> None:
    model = Odd()
    before = state(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = capture(model, torch.randn(3, 4))
    assert [layer.name for layer in network.layers] == ["fc", "tail"]
    assert state(model) == before
    assert (model.last, model.calls, model.training, model.norm.training) == (None, 0, True, False)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("before", [False, True])
def test_no_stack_traces_are_written_and_the_setting_is_put_back(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a model that cannot be followed."""
    monkeypatch.setattr(fx_config, "do_not_emit_stack_traces", before)
    monkeypatch.setattr(torch.export, "export", seen := Seen(torch.export.export))
    capture(nn.Linear(4, 2), torch.zeros(2, 4))
    with pytest.raises(CaptureError):
        capture(Call(lambda self, x: self.fc(torch.from_numpy(x.numpy())), fc=nn.Linear(4, 4)), torch.zeros(2, 4))
    assert set(seen.settings) == {True} and fx_config.do_not_emit_stack_traces is before


def test_where_pytorch_has_no_such_setting_none_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fx_config, "do_not_emit_stack_traces")
    with _without_stack_traces():
        assert not hasattr(fx_config, "do_not_emit_stack_traces")
    assert not hasattr(fx_config, "do_not_emit_stack_traces")


class Seen:
    """torch.export, and whether it was asked for no stack traces."""

    def __init__(self, real: Any) -> None:
        self.real, self.settings = real, list[bool]()

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.settings.append(fx_config.do_not_emit_stack_traces)
        return self.real(*given, **named)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.fc(torch.from_numpy(x.numpy())),
        lambda self, x: self.fc(x[:, :3]),
        lambda self, x: self.fc(x) if x.sum() > 0 else x,
    ],
)
def test_the_model_is_put_back_after_failures_and_fallbacks(forward: Any) -> None:
    model = Call(forward, fc=nn.Linear(4, 4)).train()
    before, level = state(model), logging.root.manager.disable
    with suppress(CaptureError):
        capture(model, torch.randn(2, 4))
    assert state(model) == before
    assert torch.backends.mha.get_fastpath_enabled()
    assert logging.root.manager.disable == level


FAILURES = """
import torch
from torch import nn
from mixbit.errors import CaptureError
from mixbit.network import capture

class Branch(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x

capture(Branch(4, 4), torch.ones(2, 4))
try:
    capture(nn.Sequential(nn.Linear(5, 4)), torch.randn(2, 4))
except CaptureError:
    print("told")
"""


def test_failures_print_nothing() -> None:
    """torch.export prints the graph as far as it came and logs long tracebacks."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FAILURES], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("told\n", "")


def test_data_dependence_is_found_behind_other_errors() -> None:
    class GuardOnDataDependentSymNode(RuntimeError):
        pass

    wrapped = ValueError("outer")
    wrapped.__cause__ = GuardOnDataDependentSymNode()
    assert is_data_dependent(wrapped)
    assert not is_data_dependent(ValueError("plain"))
