"""The path without root: the same C by a compiler and an emulator from PyPI, byte for byte, and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixbit.export.c import COptions, write_c
from mixbit.export.c._program import build_program
from mixbit.export.c._selftest import layer_bytes
from mixbit.export.mcu import count
from mixbit.integer.graph import IntegerGraph
from tests.export.graphs import Builder, random_graph, rounded
from tests.export.mcu.unicorn_runner import Core, compile_gcc, compile_zig
from tests.needs import needs


def mixed() -> IntegerGraph:
    """Four widths, an odd number of channels, a depthwise layer, an addition."""
    b = Builder((3, 7, 6), seed=3)
    b.rounding = "single"
    x = b.conv(b.first, 7, 3, weight_bits=8)
    y = b.conv(x, 7, 3, weight_bits=8, groups=7)
    x = b.add(x, b.conv(y, 7, 1, weight_bits=4))
    x = b.conv(x, 10, 3, weight_bits=2, stride=2)
    return b.finish(b.linear(b.flatten(b.conv(x, 5, 3, weight_bits=3)), 4, weight_bits=5, bits=None))


def check(graph: IntegerGraph, options: COptions, folder: Path) -> None:
    """Every byte of every layer of two inputs."""
    shape = graph.tensors[graph.input].shape
    samples = (2 * np.random.default_rng(0).standard_normal((2, *shape))).astype(np.float32)
    written = write_c(graph, folder / "model", options=options).path
    core, program = Core(compile_zig(written, folder / "build")), build_program(graph, options)
    last = next(step.index for step in program.steps if step.op is program.last)
    for stored, wanted in zip(*layer_bytes(program, samples), strict=True):
        found = core.infer(stored, len(wanted[last]))
        assert found.layers == wanted
        assert found.output == wanted[last]


@needs("unicorn", "ziglang")
@pytest.mark.parametrize("kernels", ["dsp", "plain"])
def test_every_layer_has_the_reference_s_bytes(tmp_path: Path, kernels: str) -> None:
    check(mixed(), COptions(kernels=kernels), tmp_path)  # type: ignore[arg-type]


@needs("unicorn", "ziglang")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_networks_have_them_too(tmp_path: Path, seed: int) -> None:
    graph = rounded(random_graph(seed + 300, spatial=1 + seed % 2), "double" if seed % 2 else "single")
    check(graph, COptions(kernels="plain" if seed % 3 == 2 else "dsp", pack_activations=seed == 3), tmp_path)


@needs("unicorn", "ziglang")
def test_a_wrong_weight_is_seen(tmp_path: Path) -> None:
    """The comparison can fail: a bit of one weight is turned over before compiling."""
    graph = mixed()
    written = write_c(graph, tmp_path / "model").path
    head, tail = (written / "weights.c").read_text().split("model_0_weights", 1)
    begin = tail.index("{") + 1
    end = tail.index(",", begin)
    (written / "weights.c").write_text(f"{head}model_0_weights{tail[:begin]} {int(tail[begin:end]) ^ 64}{tail[end:]}")
    samples = np.random.default_rng(1).standard_normal((1, 3, 7, 6)).astype(np.float32)
    (stored,), (wanted,) = layer_bytes(build_program(graph, COptions()), samples)
    found = Core(compile_zig(written, tmp_path / "build")).infer(stored, 16)
    assert found.layers[0] != wanted[0]


@needs("unicorn", "board")
@pytest.mark.parametrize("kernels", ["dsp", "plain"])
def test_both_emulators_count_alike(tmp_path: Path, kernels: str) -> None:
    """The same compiler and the same input: QEMU's timer has ticks of 40 instructions, one at each end."""
    graph, options = mixed(), COptions(kernels=kernels)  # type: ignore[arg-type]
    samples = np.random.default_rng(1).standard_normal((1, 3, 7, 6)).astype(np.float32)
    (stored,), (wanted,) = layer_bytes(build_program(graph, options), samples)
    written = write_c(graph, tmp_path / "model", options=options).path
    found = Core(compile_gcc(written, tmp_path / "build")).infer(stored, 16)
    assert found.layers == wanted
    counted = count(graph, board="cortex-m4", samples=samples, options=options)
    for layer, instructions in zip(counted.layers, found.instructions, strict=True):
        assert abs(layer.instructions - instructions) <= 80, layer.name
