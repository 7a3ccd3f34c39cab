"""Things by name."""

from __future__ import annotations

import pytest

from mixbit._registry import Registry
from mixbit.errors import ExportError, MixbitError


def test_names_are_given_once_and_found_again() -> None:
    registry = Registry[int]("exporter", ExportError)
    registry.enter("onnx", 1)
    registry.enter("C", 2)
    assert (registry.find("onnx"), registry.names(), registry.names("o*"), list(registry)) == (
        1, ["C", "onnx"], ["onnx"], ["C", "onnx"],
    )  # fmt: skip
    assert "onnx" in registry and "c" not in registry, "names are as they were given"
    with pytest.raises(ExportError, match="exporter 'onnx' is registered already. Choose another name"):
        registry.enter("onnx", 3)
    assert registry.find("onnx") == 1
    registry.leave("onnx")
    registry.leave("onnx")
    assert registry.names() == ["C"]


def test_an_unknown_name_brings_the_legal_ones() -> None:
    registry = Registry[str]("model")
    registry.enter("resnet20", "")
    with pytest.raises(MixbitError, match=r"model 'resnet2' is unknown. Did you mean 'resnet20'\? Legal: resnet20\."):
        registry.find("resnet2")
