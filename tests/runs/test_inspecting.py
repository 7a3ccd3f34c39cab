"""Capture a model and its costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixbit.errors import MixbitError
from mixbit.network import Network
from mixbit.runs import Subject, inspect
from mixbit.runs.inspecting import open_model


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
