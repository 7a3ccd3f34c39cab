"""Exported networks on emulated boards: every byte of every layer, the counts, and what the fast kernels must reach."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mixbit.errors import ExportError
from mixbit.export.c import COptions, plan_memory, write_c
from mixbit.export.mcu import BOARDS, count, model, verify_board
from mixbit.export.mcu.emulator import Run
from mixbit.export.mcu.image import Sizes
from mixbit.integer.graph import IntegerGraph
from tests.export.graphs import Builder, random_graph, rounded
from tests.needs import needs


def every_width(*, bits: int = 8) -> IntegerGraph:
    """All weight widths, odd channels, columns that are no whole group, strides, dilation, groups, depthwise, add."""
    b = Builder((3, 9, 7), seed=1)
    b.rounding = "single"
    x = b.conv(b.first, 7, 3, weight_bits=8, bits=bits)
    x = b.conv(x, 18, 3, weight_bits=3, stride=2, bits=bits)
    y = b.conv(x, 18, 1, weight_bits=5, bits=bits)
    y = b.conv(y, 18, 3, weight_bits=7, groups=18, bits=bits)
    x = b.add(x, y, bits=bits)
    x = b.conv(x, 12, 3, weight_bits=6, groups=6, bits=bits)
    x = b.conv(x, 24, 3, weight_bits=3, groups=12, bits=bits)
    x = b.conv(x, 33, 3, weight_bits=2, dilation=2, padding=2, bits=bits)
    x = b.conv(x, 5, 1, weight_bits=4, bits=bits)
    return b.finish(b.linear(b.flatten(x), 10, weight_bits=4, bits=None))


def samples_of(graph: IntegerGraph, count: int = 2, seed: int = 0) -> np.ndarray:
    """Random inputs that saturate now and then."""
    shape = graph.tensors[graph.input].shape
    return (2 * np.random.default_rng(seed).standard_normal((count, *shape))).astype(np.float32)


@needs("board")
@pytest.mark.parametrize("core", BOARDS)
def test_every_layer_has_the_reference_s_bytes(core: str) -> None:
    graph = every_width()
    found = verify_board(graph, samples_of(graph), board=core)
    assert found.first_difference is None and found.exact
    assert (found.identical_outputs, found.identical_layers) == (2, 2 * found.layers)


@needs("board")
def test_packed_activations_have_them_too() -> None:
    graph = every_width(bits=3)
    options = COptions(kernels="dsp", pack_activations=True)
    assert verify_board(graph, samples_of(graph), options=options).first_difference is None


@needs("board")
@pytest.mark.parametrize("options", [COptions(), COptions(kernels="dsp")], ids=["plain", "dsp"])
def test_weights_of_one_bit_and_tensors_of_sixteen_have_them_too(options: COptions) -> None:
    """Layers that read 16 bits have the same kernels beside both kinds."""
    b = Builder((3, 6, 5), bits=16, seed=4)
    x = b.conv(b.conv(b.conv(b.first, 8, weight_bits=1, bits=8), 7, weight_bits=1), 8, weight_bits=1, bits=16)
    x = b.add(b.conv(x, 8, 3, weight_bits=1, groups=8, bits=16), b.requantize(x, bits=12), bits=16)
    x = b.linear(b.flatten(b.average_pool(x, 2, bits=9)), 7, weight_bits=5, bits=8)
    graph = rounded(b.finish(b.linear(x, 4, weight_bits=1, bits=None)), "single")
    found = verify_board(graph, samples_of(graph), options=options)
    assert found.first_difference is None and found.exact


@needs("board")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_networks_have_them_too(seed: int) -> None:
    """Extreme zero points, clamps, one dimension and two, both roundings, plain kernels and those with two products."""
    graph = rounded(random_graph(seed, spatial=1 + seed % 2), ("single", "double")[seed // 2 % 2])
    options = COptions(kernels="plain" if seed % 4 == 3 else "dsp", pack_activations=seed % 3 == 0)
    core = ("cortex-m4", "cortex-m7", "cortex-m3", "cortex-m55")[seed % 4]
    assert verify_board(graph, samples_of(graph, seed=seed), board=core, options=options).first_difference is None


@needs("board")
def test_a_wrong_weight_is_found_in_its_layer(tmp_path: Path) -> None:
    graph, options = every_width(), COptions(kernels="dsp")
    folder = write_c(graph, tmp_path / "model", options=options).path
    weights = folder / "weights.c"
    name, text = "model_2_weights", weights.read_text()
    start = text.index("{", text.index(name)) + 1
    first = text[start:].split(",", 1)[0]
    weights.write_text(text[:start] + text[start:].replace(first, f" {int(first) ^ 3}", 1))
    found = verify_board(graph, samples_of(graph), options=options, folder=folder)
    assert found.first_difference is not None and found.first_difference.startswith("sample 0, layer 2 (")
    assert not found.exact and found.identical_layers < 2 * found.layers


@needs("board")
def test_counts_add_up_and_are_the_same_in_every_run() -> None:
    graph = every_width()
    found, again = count(graph), count(graph)
    assert found == again
    assert sum(layer.instructions for layer in found.layers) == pytest.approx(found.instructions, rel=0.01)
    assert all((layer.per_mac is None) == (layer.macs == 0) for layer in found.layers)
    assert 0 < found.stack_bytes < 2048
    assert found.sizes.ram == plan_memory(graph, options=COptions(kernels="dsp")).arena_bytes


@needs("board")
def test_an_inference_is_counted_without_the_hooks_that_count_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[int] = []
    run = model.run

    def seen(*args: Any, **settings: Any) -> Run:
        found = run(*args, **settings)
        whole.append(int(np.frombuffer(found.files["ticks"], "<u4")[-1]))
        return found

    monkeypatch.setattr(model, "run", seen)
    b = Builder((3,), seed=0)
    found = count(rounded(b.finish(b.linear(b.first, 2, bits=None)), "single"))
    assert len(whole) == 2 and min(whole) < max(whole)
    assert found.instructions == round(min(whole) * BOARDS["cortex-m4"].instructions_per_tick)


def test_counts_are_medians_and_stack_and_sizes_those_of_a_firmware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are counted with a hook, all else is of the image without one; a tick is 40 instructions."""
    ticks = {True: [[1, 10], [9, 30], [2, 20]], False: [[3, 5], [8, 25], [4, 7]]}
    given: list[tuple[int, float]] = []

    def image(*_: Any, hook: bool, **__: Any) -> Any:
        return SimpleNamespace(hook=hook, model=Sizes(text=100 + 50 * hook, rodata=1, data=0, bss=2))

    def ran(image: Any, inputs: list[bytes], timeout_s: float) -> Run:
        given.append((len(inputs), timeout_s))
        files = {"ticks": np.array(ticks[image.hook], "<u4").tobytes(), "stack": bytes([200 + image.hook, 1, 0, 0])}
        return Run(exit_code=0, files=files, log="")

    monkeypatch.setattr(model, "_kernels", lambda *_: [])
    monkeypatch.setattr(model, "build_model", image)
    monkeypatch.setattr(model, "run_model", ran)
    b = Builder((3,), seed=0)
    graph = rounded(b.finish(b.linear(b.first, 2, bits=None)), "single")
    found = count(graph, samples=samples_of(graph, 3), timeout_s=7.0)
    assert [one.instructions for one in found.layers] == [2 * 40] and found.instructions == 7 * 40
    assert (found.stack_bytes, found.sizes.flash, found.sizes.ram) == (456, 101, 2)
    assert given == [(3, 7.0)] * 2


@needs("board")
@pytest.mark.parametrize(("bits", "limit"), [(8, 1.4), (6, 1.9), (4, 1.45), (2, 1.35)])
def test_instructions_of_a_product_do_not_grow(bits: int, limit: float) -> None:
    """3x3, 32 to 32 channels, 16x16 on an M4; the goals are 2.0 at 8 bits, 2.3 at 4 and 2.6 at 2."""
    b = Builder((32, 16, 16), seed=2)
    b.rounding = "single"
    x = b.conv(b.first, 32, 3, weight_bits=bits)
    graph = b.finish(b.linear(b.flatten(b.average_pool(x, 16)), 2, weight_bits=8, bits=None))
    first = count(graph).layers[0]
    assert first.kernel == "mixbit_conv" and first.macs == 2_359_296
    assert first.per_mac is not None and first.per_mac < limit


@needs("board")
def test_a_network_larger_than_the_memory_is_an_error() -> None:
    """The M55 board has 2 MB of RAM and 512 kB of flash."""
    b = Builder((1, 1500, 1500), seed=0)
    b.rounding = "single"
    x = b.conv(b.first, 1, 1, weight_bits=8, stride=100, bits=8)
    graph = b.finish(b.linear(b.flatten(x), 2, weight_bits=8, bits=None))
    with pytest.raises(ExportError, match=r"(?s)link for mps3-an547.*RAM"):
        verify_board(graph, samples_of(graph, 1), board="cortex-m55")


def test_float32_rounding_is_an_error() -> None:
    b = Builder((3, 4, 4))
    graph = b.finish(b.linear(b.flatten(b.conv(b.first, 2)), 2, bits=None))
    with pytest.raises(ExportError, match="rounding"):
        count(graph)
