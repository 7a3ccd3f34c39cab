"""Capture a model and its costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixbit.cli import main
from mixbit.cost import LayerBits, costs, float_costs, uniform_bits
from mixbit.errors import MixbitError
from mixbit.network import Network
from mixbit.runs import Subject, inspect
from mixbit.runs.inspecting import LARGEST_INPUT, open_model
from tests.cli import tiny


def test_zoo_model_knows_its_shape(tmp_path: Path) -> None:
    found = inspect(Subject(model="digits-resnet"), out=tmp_path / "network.json")
    assert found.input_shape == (1, 8, 8) and len(found.network.layers) == 10
    assert Network.from_json((tmp_path / "network.json").read_text()) == found.network
    assert found.uniform["W3A3"].bitops < found.uniform["W4A4"].bitops < found.float32.bitops


def test_file_model_needs_a_shape(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n")
    with pytest.raises(MixbitError, match="--input"):
        inspect(Subject(model=str(file)))
    found = inspect(Subject(model=str(file)), input_shape=(3, 9, 9))
    assert found.network.macs == 4 * 3 * 9 * 49


def test_an_opened_model_comes_with_two_inputs_of_its_shape() -> None:
    opened = open_model(Subject(model="digits-resnet", data="digits"))
    assert tuple(opened.example.shape) == (2, 1, 8, 8)
    assert tuple(opened.model(opened.example).shape) == (2, 10)
    assert opened.network == inspect(Subject(model="digits-resnet", data="digits")).network
    assert tuple(open_model(Subject(model="digits-resnet"), (1, 12, 12)).example.shape) == (2, 1, 12, 12)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        ("return self.a(x)", None),
        ("y = self.a(x)\n        return {'one': y, 'again': y}", None),
        ("y = self.a(x)\n        return y, self.b(y)", "gives 2 tensors"),
        ("y = self.a(x)\n        return (y, self.b(y)) if self.training else y", None),  # a head of training alone
    ],
)
def test_several_outputs_are_told_before_export_refuses_them(
    forward: str, why: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)\n"
        f"    def forward(self, x):\n        {forward}\ndef build():\n    return Net()\n"
    )
    found = inspect(Subject(model=str(file)), input_shape=(3,)).unexportable
    assert found is None if why is None else found is not None and why in found
    with pytest.raises(SystemExit):
        main(["inspect", str(file), "--input", "3"])
    assert ("cannot be exported as it is: the model gives 2" in " ".join(capsys.readouterr().out.split())) is bool(why)


def test_uniform_networks_have_their_ends_at_8_bits() -> None:
    found = inspect(tiny.subject())
    ends = dict.fromkeys(("stem", "head"), LayerBits(8, 8))
    for bits in (8, 4, 3, 2):
        wanted = costs(found.network, uniform_bits(found.network, LayerBits(bits, bits), ends))
        assert found.uniform[f"W{bits}A{bits}"] == wanted
    assert list(found.uniform) == ["W8A8", "W4A4", "W3A3", "W2A2"] and found.float32 == float_costs(found.network)
    assert found.input_shape == (1, 8, 8) and not found.own_data


def test_real_inputs_where_there_are_any_of_that_shape() -> None:
    test = tiny.subject().load_data().test
    assert torch.equal(open_model(tiny.subject()).example, next(test.batches(2))[0])
    assert open_model(tiny.subject(), (1, 6, 6)).example.shape == (2, 1, 6, 6)
    with pytest.raises(MixbitError, match=f"Legal: up to {LARGEST_INPUT}"):
        open_model(tiny.subject(), (1, 2**14, 2**14 + 1))
