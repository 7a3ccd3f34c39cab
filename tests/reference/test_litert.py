"""The rounding `litert` against LiteRT's reference kernels: single operators with hard numbers, and whole networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbit.export.c import verify_c
from mixbit.export.c.host import compile_kernels
from mixbit.integer.arithmetic import Array, Grid, add, saturate
from mixbit.integer.executor import trace
from mixbit.integer.graph import GraphRounding
from tests.needs import need, why
from tests.reference.tflite import constant, interpret, one_operator, outputs, read
from tests.support import shared

pytest.importorskip("ai_edge_litert", reason=why("ai_edge_litert"))

BYTES = np.arange(-128, 128)
Drawn = list[tuple[float, int]]


def draw(random: np.random.Generator, count: int, powers: bool) -> Drawn:
    """Scales and zero points; scales that are powers of two make exact ties."""
    found = 2.0 ** random.integers(-6, 1, count) if powers else random.uniform(0.01, 1, count)
    return [(float(np.float32(scale)), int(random.integers(-128, 128))) for scale in found]


def activation(shape: tuple[int, ...], grid: tuple[float, int]) -> dict[str, Any]:
    return {"shape": (1, *shape), "scale": grid[0], "zero_point": grid[1]}


def differences(content: bytes, integers: Array, rounding: GraphRounding = "litert") -> int:
    """Outputs of the executor that are not LiteRT's, of a file of one operator."""
    imported = read(content, rounding)
    wanted, found = interpret(content, integers, imported), trace(imported.graph, imported.real(integers))
    return sum(int((found[name] != wanted[name]).sum()) for name in imported.indices)


@pytest.mark.parametrize("powers", [True, False])
def test_changes_of_grid(powers: bool) -> None:
    random, single = np.random.default_rng(0), 0
    for _ in range(30):
        x, y = (activation((256,), grid) for grid in draw(random, 2, powers))
        content = one_operator("QUANTIZE", "QuantizeOptions", {}, [x], y)
        assert differences(content, BYTES[None]) == 0
        single += differences(content, BYTES[None], "single")
    assert single > 0


@pytest.mark.parametrize("powers", [True, False])
def test_additions_of_all_pairs_of_bytes(powers: bool) -> None:
    random, a, b = np.random.default_rng(1), *np.meshgrid(BYTES, BYTES)
    single = 0
    for _ in range(8):
        drawn = draw(random, 3, powers)
        x, other, y = (activation((256, 256, 1), grid) for grid in drawn)
        wanted = outputs(one_operator("ADD", "AddOptions", {"potScaleInt16": True}, [x, other], y), a, b)
        grids = tuple(Grid(scale=scale, zero_point=zero, qmin=-128, qmax=127) for scale, zero in drawn)
        for rounding in ("double", "single"):
            found = saturate(add(a, b, grids, rounding), drawn[2][1], (-128, 127))  # type: ignore[arg-type]
            assert rounding == "single" or np.array_equal(found, wanted.reshape(a.shape))
            single += int((found != wanted.reshape(a.shape)).sum())
    assert (single > 0) == powers


def weighted(kind: str, bias: Array, scales: tuple[float, float, float], zero_point: int = 0) -> bytes:
    """A layer whose accumulators are its biases."""
    count = len(bias)
    convolution = kind != "FULLY_CONNECTED"
    shape = {"FULLY_CONNECTED": (count, 4), "CONV_2D": (count, 1, 1, 4), "DEPTHWISE_CONV_2D": (1, 1, 1, count)}[kind]
    options = {"FULLY_CONNECTED": "FullyConnectedOptions", "CONV_2D": "Conv2DOptions"}.get(
        kind, "DepthwiseConv2DOptions"
    )
    settings = dict.fromkeys(("strideH", "strideW", "dilationHFactor", "dilationWFactor"), 1) if convolution else {}
    settings |= {"depthMultiplier": count} if kind == "DEPTHWISE_CONV_2D" else {}
    wide = np.full(count, scales[1]) if convolution else scales[1]
    weight = constant(np.zeros(shape, np.int8), wide, axis=3 if kind == "DEPTHWISE_CONV_2D" else 0)
    inner = 1 if kind == "DEPTHWISE_CONV_2D" else 4
    x, y = ((1, 1, inner), (1, 1, count)) if convolution else ((inner,), (count,))
    inputs = [activation(x, (scales[0], 3)), weight, constant(bias, np.float32(scales[0]) * np.float32(wide))]
    return one_operator(kind, options, settings, inputs, activation(y, (scales[2], zero_point)))


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_weighted_layers_at_exact_ties(kind: str) -> None:
    """Convolutions round twice; a linear layer rounds once, ties away from zero: no one rounding is right for both."""
    bias = np.arange(-500, 501, dtype=np.int32)
    x = np.full((1, 4), 3) if kind == "FULLY_CONNECTED" else np.full((1, 1 if "DEPTH" in kind else 4, 1, 1), 3)
    wrong = dict.fromkeys(("litert", "single", "double", "away"), 0)
    for ratio in (0.5, 1.0, 2.0, 0.7, 3.3):
        content = weighted(kind, bias, (0.5, 0.5, 0.5 * ratio), zero_point=-7)
        for rounding in wrong:
            wrong[rounding] += differences(content, x, rounding)  # type: ignore[arg-type]
    right = "away" if kind == "FULLY_CONNECTED" else "double"
    assert {rounding for rounding, count in wrong.items() if not count} == {"litert", right}


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_weighted_layers_with_large_accumulators(kind: str) -> None:
    random = np.random.default_rng(2)
    x = np.full((1, 4), 3) if kind == "FULLY_CONNECTED" else np.full((1, 1 if "DEPTH" in kind else 4, 1, 1), 3)
    for _ in range(10):
        factor = 2.0 ** random.uniform(-22, 0)
        bias = random.integers(-min(200 / factor, 2**29), min(200 / factor, 2**29), 400).astype(np.int32)
        (first, _), (second, _) = draw(random, 2, powers=False)
        assert differences(weighted(kind, bias, (first, second, first * second / factor)), x) == 0


@pytest.mark.parametrize("zero_point", [-128, 0, 5, 127])
def test_average_pools(zero_point: int) -> None:
    """Ties go away from the integer 0, not from the zero point."""
    random = np.random.default_rng(3)
    for size in range(1, 9):
        names = ("strideH", "strideW", "filterHeight", "filterWidth")
        ends = [activation((side, side, 50), (0.3, zero_point)) for side in (size, 1)]
        settings = {**dict.fromkeys(names, size), "padding": 1}
        content = one_operator("AVERAGE_POOL_2D", "Pool2DOptions", settings, ends[:1], ends[1])
        assert differences(content, random.integers(-128, 128, (4, 50, size, size))) == 0


def test_means_between_grids() -> None:
    random = np.random.default_rng(4)
    for size in [*range(1, 9), 14]:
        for powers in (True, False):
            first, second = draw(random, 2, powers)
            x, y = activation((size, size, 50), first), activation((1, 1, 50), second)
            axes = constant(np.array([1, 2], np.int32))
            content = one_operator("MEAN", "ReducerOptions", {"keepDims": True}, [x, axes], y)
            assert differences(content, random.integers(-128, 128, (4, 50, size, size))) == 0


# ------------------------------------------------------------------------------------------------------------ networks


def images(count: int) -> Array:
    """CIFAR-10 test images, all classes, as the integers that the network reads: 0 to 255 less 128."""
    need("pillow")
    path = shared("data", "load.py")
    spec = importlib.util.spec_from_file_location("load", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x, _ = module.sheets(str(path.parent / "cifar10"), "test")
    return x[:: len(x) // count][:count].transpose(0, 3, 1, 2).astype(np.int64) - 128


def keywords(count: int) -> Array:
    """MFCC features of spoken words, as the network reads them."""
    found = np.load(shared("data", "kws", "speech_commands_mfcc_int8.npz"))["x"]
    return found[:: len(found) // count][:count, None].astype(np.int64)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernels(tmp_path_factory.mktemp("kernels"), flags=("-O1",))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "count"),
    [("pretrainedResnet_quant", 100), ("kws_ref_model", 100), ("vww_96_int8", 10), ("ad01_int8", 100)],
)
def test_networks_of_mlperf_tiny(file: str, count: int, objects: Path) -> None:
    """Real inputs where there are some; every layer of the executor, and of the C on this machine, byte for byte."""
    path = shared("data", "tflite", f"{file}.tflite")
    imported = read(path)
    real = {"pretrainedResnet_quant": images, "kws_ref_model": keywords}
    integers = real[file](count) if file in real else imported.random(count)
    for at in range(0, count, 25):
        part = integers[at : at + 25]
        wanted, found = interpret(path, part, imported), trace(imported.graph, imported.real(part))
        assert [name for name in imported.indices if not np.array_equal(found[name], wanted[name])] == []
    need("gcc")
    checked = verify_c(imported.graph, imported.real(integers[:10]), objects=objects, flags=("-O1",))
    assert checked.exact and checked.identical_layers == 10 * checked.layers, checked
