"""Bytes before anything is compiled."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mixbit.export import IntegerGraph
from mixbit.export.c import COptions, predict, write_c
from mixbit.export.c.sizes import struct_bytes
from tests.export.graphs import Builder, random_graph, resnet_cifar, rounded
from tests.needs import needs

ARM = "arm-none-eabi-gcc"


def resnet(bits: int = 4, **settings: int) -> IntegerGraph:
    return rounded(resnet_cifar(weight_bits=bits, bits=4, **settings), "single")


def test_weights_take_what_the_policy_says(tmp_path: Path) -> None:
    """Within 1 %, and the difference is the padding of rows that is stated by layer."""
    for bits in range(2, 9):
        found = write_c(resnet(bits, blocks=1), tmp_path / "net")
        exact = sum(layer.weight_bytes - layer.padding_bytes for layer in found.layers)
        assert found.footprint.policy_bytes <= exact <= found.footprint.policy_bytes + len(found.layers)
        assert found.footprint.weight_bytes <= 1.01 * found.footprint.policy_bytes
        text = (tmp_path / "net" / "weights.c").read_text()
        declared = sum(int(size) for size in re.findall(r"const uint8_t \w+_weights\[(\d+)\]", text))
        assert declared == found.footprint.weight_bytes


def test_factors_are_nine_bytes_a_channel(tmp_path: Path) -> None:
    b = Builder((3, 5, 5), seed=0)
    graph = rounded(b.finish(b.linear(b.flatten(b.conv(b.first, 4, bits=8)), 3, bits=None)), "single")
    conv, linear = write_c(graph, tmp_path / "net").layers
    assert conv.factor_bytes == 4 * 9
    assert linear.factor_bytes == 3 * 4, "the last layer has biases only"
    assert (conv.macs, linear.macs) == (3 * 9 * 4 * 25, 300)
    assert (conv.output_bytes, linear.output_bytes) == (100, 12)


def test_words_cost_padding() -> None:
    b = Builder((3, 5, 5), seed=0)
    graph = rounded(b.finish(b.linear(b.flatten(b.conv(b.first, 4, weight_bits=3, bits=8)), 3, bits=None)), "single")
    bytewise, wordwise = (predict(graph, options=COptions(row_alignment=by)) for by in (1, 4))
    assert bytewise.weight_bytes == 4 * 11 + 3 * 50
    assert wordwise.weight_bytes == 4 * 12 + 3 * 52


def test_what_is_predicted_is_what_is_written(tmp_path: Path) -> None:
    for seed in range(4):
        graph = rounded(random_graph(seed), "double")
        assert predict(graph) == write_c(graph, tmp_path / "net").footprint


def test_activations_beside_scratch() -> None:
    packed = predict(resnet(), options=COptions(pack_activations=True))
    assert packed.activation_bytes == 16 * 32 * 32 * (1 + 1 + 0.5)
    assert packed.arena_bytes == packed.activation_bytes + 9 * 16 and packed.ram_bytes == packed.arena_bytes


def test_structures() -> None:
    assert struct_bytes("mixbit_requantize_layer") == 4 + 4 + 4 + 2 * 2 + 2 + 2  # 18, rounded up to words
    assert struct_bytes("mixbit_move_layer") == 16 + 8 + 32 + 4


@needs("arm")
def test_structures_are_those_of_the_compiler(tmp_path: Path) -> None:
    kernels = Path(__file__).parents[3] / "src" / "mixbit" / "export" / "c" / "kernels"
    names = re.findall(r"\} (mixbit_\w+);", (kernels / "mixbit_kernels.h").read_text())
    checks = "\n".join(f"typedef char c{at}[sizeof({name}) == {struct_bytes(name)} ? 1 : -1];"
                       for at, name in enumerate(names))  # fmt: skip
    (tmp_path / "a.c").write_text(f'#include "mixbit_kernels.h"\n{checks}\n')
    subprocess.run([ARM, "-mcpu=cortex-m4", "-mthumb", f"-I{kernels}", "-fsyntax-only", tmp_path / "a.c"], check=True)
    assert len(names) > 7


@needs("arm")
@pytest.mark.slow
@pytest.mark.parametrize(("rounding", "packed"), [("single", False), ("double", True)])
def test_flash_and_ram_of_a_cortex_m4(rounding: str, packed: bool, tmp_path: Path) -> None:
    graph = rounded(resnet_cifar(blocks=1, weight_bits=3, bits=4), "double" if rounding == "double" else "single")
    found = write_c(graph, tmp_path / "net", options=COptions(pack_activations=packed)).footprint
    target = ["CROSS=arm-none-eabi-", "CPU=-mcpu=cortex-m4 -mthumb"]
    subprocess.run(["make", "-s", "library", *target], cwd=tmp_path / "net", check=True)
    listing = subprocess.run(
        ["arm-none-eabi-size", "-t", tmp_path / "net" / "build" / "libmodel.a"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    flash, data, ram = map(int, listing.splitlines()[-1].split()[:3])
    assert (ram, data) == (found.ram_bytes, 0)
    assert abs(found.flash_bytes / flash - 1) < 0.03
