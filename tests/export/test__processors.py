"""No sum of two products leaves int16, whatever a processor without VNNI adds; and what that costs the weights."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.export._processors import NARROWED_ERROR, adapted, narrow, products, saturates
from mixbit.export.onnx import write_onnx, written_graph
from mixbit.integer import executor
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array
from tests.export.graphs import Builder, called_twice, resnet_cifar
from tests.needs import needs


def one_conv(weight: Array, *, signed: bool = False) -> g.IntegerGraph:
    """A convolution on inputs of 8 bits; a pointwise one where the weights are a matrix."""
    b = Builder((weight.shape[1], 4, 4), bits=8, signed=signed)
    whole = weight if weight.ndim == 4 else weight[..., None, None]
    y = b.conv(b.first, len(whole), whole.shape[-1], weight_bits=8, weight=whole, bits=8, signed=True)
    return b.finish(y)


def pmaddubsw(stored: Array, weights: Array) -> int:
    """Sum of products as x86 has it without VNNI: neighbours in pairs, each pair saturated to int16, then in int32."""
    pairs = (stored.astype(np.int64) * weights).reshape(-1, 2).sum(axis=1)
    return int(np.clip(pairs, -(2**15), 2**15 - 1).sum())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([8, 20, 50, 200]), st.booleans())
def test_narrowed_weights_are_exact_in_every_order(seed: int, spread: int, signed: bool) -> None:
    random = np.random.default_rng(seed)
    weight = np.clip(np.rint(random.normal(0, spread, (4, 12))), -128, 127)
    graph = one_conv(weight, signed=signed)
    (op,) = adapted(graph, "any")[0].weighted()
    rows = op.weight.reshape(4, 12).astype(np.int64)
    if saturates(op, 255):  # left as it is, and multiplied as uint8
        np.testing.assert_array_equal(rows, graph.weighted()[0].weight.reshape(4, 12))
        return
    for row in rows:
        # The worst input for some pair, in the worst order: largest beside largest, lowest beside lowest.
        stored = np.where(random.random(12) < 0.5, 255, random.integers(0, 256, 12))
        for order in (np.argsort(row), random.permutation(12)):
            assert pmaddubsw(stored[order], row[order]) == int((stored * row).sum())
        assert pmaddubsw(np.full(12, 255), np.sort(row)) == 255 * int(row.sum())


def test_weights_of_8_bits_do_saturate_in_that_model() -> None:
    assert pmaddubsw(np.array([255, 255]), np.array([127, 127])) == 32767
    assert saturates(one_conv(np.full((1, 2), 127)).weighted()[0], 255)


@pytest.mark.parametrize("largest", [15, 127, 128, 200, 255])
def test_the_bound_is_that_of_all_pairs(largest: int) -> None:
    """Against every pair of weights of one channel, and either input at both ends."""
    random = np.random.default_rng(largest)
    for _ in range(40):
        weight = random.integers(-128, 128, (1, 4)) // random.integers(1, 4)
        pairs = [(int(a), int(b)) for a, b in itertools.combinations([*weight[0], 0, 0], 2)]
        reached = [a * x + b * y for a, b in pairs for x in (0, largest) for y in (0, largest)]
        wrong = max(reached) >= 2**15 or min(reached) < -(2**15)
        assert saturates(one_conv(weight).weighted()[0], largest) is wrong


def test_what_fits_is_left_alone() -> None:
    """A channel that cannot saturate keeps its weights, scale and bias; the others lose at most half a step each."""
    random = np.random.default_rng(0)
    weight = np.clip(np.rint(random.normal(0, 40, (6, 64))), -128, 127)
    weight[3] = np.clip(weight[3], -60, 60)
    graph = one_conv(weight)
    (old,), new_graph = graph.weighted(), adapted(graph, "any")[0]
    (new,) = new_graph.weighted()
    np.testing.assert_array_equal(new.weight[3], old.weight[3])
    assert new.weight_scale[3] == old.weight_scale[3] and new.bias[3] == old.bias[3]
    factor = new.weight_scale / old.weight_scale
    assert (factor[[0, 1, 2, 4]] > 1).all() and (factor < 2.04).all()
    moved = (new.weight * factor[:, None, None, None] - old.weight).reshape(6, 64)
    assert np.abs(moved).max() < factor.max()
    # Behind a ReLU a sum that is off would move the channel, so that of the errors is half a step at most.
    assert (np.abs(moved.sum(axis=1)) <= 0.51 * factor).all()
    assert np.abs(new.bias * factor - old.bias).max() <= 0.5 * factor.max() + 1e-3
    x = np.abs(random.standard_normal((8, 64, 4, 4))).astype(np.float32)
    grid = graph.grid(graph.output)
    apart = executor.run(graph, x).astype(np.float64) - executor.run(new_graph, x)
    assert np.abs(apart).max() <= 0.02 * (grid.qmax - grid.qmin)


def test_the_errors_of_a_kernel_and_of_a_channel_cancel() -> None:
    """On a constant image the result moves by less than it would if every weight were only rounded to the nearest."""
    weight = np.clip(np.rint(np.random.default_rng(0).normal(0, 40, (8, 16, 3, 3))), -128, 127)
    graph = one_conv(weight)
    (old,), (new,) = graph.weighted(), adapted(graph, "any")[0].weighted()
    factor = (new.weight_scale / old.weight_scale)[:, None, None, None]
    moved = (new.weight * factor - old.weight)[:-1] / factor[:-1]
    assert np.abs(moved).max() < 1
    assert np.abs(moved.sum(axis=(2, 3))).max() < 1  # of a kernel
    assert np.abs(moved.sum(axis=(1, 2, 3))).max() <= 0.5 + 1e-4  # of a channel
    nearest = np.rint(old.weight / factor) - old.weight / factor
    assert np.abs(nearest.sum(axis=(2, 3))).max() > 1.5 and np.abs(nearest.sum(axis=(1, 2, 3))).max() > 2


def test_weights_that_would_lose_too_much_stay() -> None:
    """One large pair among small weights: wider steps would round the small ones away."""
    weight = np.tile([1, 2, 3, -2], (1, 16))
    weight[0, :2] = 127
    many = np.repeat(weight, 3, axis=0)
    found = adapted(one_conv(many), "any")
    assert found.narrowed == {} and found.kept.keys() == {"op1"}
    assert re.fullmatch(r"wider steps would change its weights by \d+\.\d%, limit 3%", found.kept["op1"])
    random = np.random.default_rng(0)
    found = adapted(one_conv(np.clip(np.rint(random.normal(0, 40, (3, 64))), -128, 127)), "any")
    (what,) = found.narrowed.values()
    assert 0 < what.error < NARROWED_ERROR and what.of_channels == 3


def test_the_smallest_layers_stay() -> None:
    graph = resnet_cifar(blocks=1, width=16, weight_bits=8, bits=8, size=16)
    names = {op.name for op in graph.weighted()}
    changed = adapted(graph, "any")[1].keys()
    spared = [op for op in graph.weighted() if op.name not in changed]
    total = sum(products(graph, op) for op in graph.weighted())
    assert changed and changed < names
    assert sum(products(graph, op) for op in spared) <= 0.02 * total
    assert graph.weighted()[-1] in spared  # the classifier
    assert all("one of the smallest" in why for why in adapted(graph, "any").kept.values())


def test_products_of_one_sample() -> None:
    """A convolution has its weights at every place, a linear layer at every token, not at every class."""
    b = Builder((4, 6, 5))
    graph = b.finish(b.conv(b.first, 7, 3, padding=0, bits=None))
    assert products(graph, graph.weighted()[0]) == 7 * 4 * 9 * (4 * 3)
    b = Builder((5, 3))
    graph = b.finish(b.linear(b.first, 7, bits=None))
    assert products(graph, graph.weighted()[0]) == 5 * 3 * 7


def test_what_is_small_is_small_beside_the_whole_network() -> None:
    """A classifier of 8 bits behind a convolution of 4 bits, which cannot saturate: 320 of 295,232 products."""
    b = Builder((4, 16, 16))
    y = b.flatten(b.average_pool(b.conv(b.first, 32, weight_bits=4)))
    graph = b.finish(b.linear(y, 10, weight_bits=8, bits=None))
    found, name = adapted(graph, "any"), graph.weighted()[-1].name
    assert found.graph is graph and found.narrowed == {} and found.kept.keys() == {name}
    assert "one of the smallest" in found.kept[name]


def test_products_of_a_layer() -> None:
    b = Builder((3, 8, 8))
    y = b.conv(b.first, 4, 3, stride=2, padding=1)
    graph = b.finish(b.linear(b.flatten(y), 5))
    assert [products(graph, op) for op in graph.weighted()] == [4 * 3 * 9 * 16, 64 * 5]


def test_nothing_is_narrowed_for_vnni_or_by_strict() -> None:
    graph = one_conv(np.full((2, 8), 100))
    assert adapted(graph, "vnni") == (graph, {}, {})
    assert adapted(graph, "any", strict=True) == (graph, {}, {"op1": "strict widens no steps"})


def called_at_two_widths() -> g.IntegerGraph:
    """The first call of a layer reads 4 bits, which could not saturate, the second one 8."""
    b = Builder((3, 6, 6))
    x = b.conv(b.first, 16, weight_bits=4, bits=4)
    weight = np.clip(np.rint(np.random.default_rng(0).normal(0, 50, (16, 16, 3, 3))), -128, 127).astype(np.int8)
    for _ in range(2):
        x = b.conv(x, 16, weight_bits=8, weight=weight, bits=8)
    return b.finish(b.linear(b.flatten(x), 4, bits=None))


@pytest.mark.parametrize(
    "graph", [resnet_cifar(blocks=1, width=8, weight_bits=8, bits=8, size=8), called_at_two_widths()]
)
def test_layers_by_name_are_narrowed_as_by_themselves(graph: g.IntegerGraph) -> None:
    changed, found, _ = adapted(graph, "any")
    assert found
    again = narrow(graph, tuple(found))
    for one, other in zip(changed.weighted(), again.weighted(), strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.weight_scale, other.weight_scale)


def test_weights_that_are_used_twice_stay_one() -> None:
    graph = called_twice(weight_bits=8)
    changed = adapted(graph, "any")[0]
    assert changed.called_again().keys() == graph.called_again().keys() != set()


# ------------------------------------------------------------------------------------------ an emulated processor

EMULATOR = shutil.which("qemu-x86_64")
RUN = """
import sys
import numpy as np
import onnxruntime as ort
folder = sys.argv[1]
for name in sys.argv[2:]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    np.save(f"{folder}/{name}.npy", session.run(None, {"input": np.load(f"{folder}/x.npy")})[0])
"""


def emulated(folder: Path, *names: str) -> None:
    """Run files of a folder, on the inputs that are there, on a processor that has AVX2 and no VNNI."""
    command = [str(EMULATOR), "-cpu", "Haswell", sys.executable, "-c", RUN, str(folder), *names]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@needs("qemu-user", "onnx")
def test_a_processor_without_vnni_gives_the_reference(tmp_path: Path) -> None:
    """Haswell has AVX2 and no VNNI: files for any processor are right there, and the one for vnni is not."""
    graph = resnet_cifar(blocks=1, width=16, weight_bits=8, bits=8, size=8)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    options: dict[str, dict[str, Any]] = {"any": {}, "strict": {"strict": True}, "vnni": {"cpu": "vnni"}}
    for name, how in options.items():
        write_onnx(graph, tmp_path / f"{name}.onnx", **how)
    emulated(tmp_path, *options)
    same = {
        name: np.array_equal(np.load(tmp_path / f"{name}.npy"), executor.run(written_graph(graph, **how), x))
        for name, how in options.items()
    }
    assert same == {"any": True, "strict": True, "vnni": False}


@pytest.mark.slow
@needs("qemu-user", "onnx")
def test_a_processor_without_vnni_multiplies_bytes_of_wide_inputs_exactly(tmp_path: Path) -> None:
    """The largest weights and numbers, through each of the kernels: convolution, depthwise, and linear."""
    b = Builder((16, 5, 5), bits=16, signed=False)
    y = b.conv(b.first, 16, weight_bits=8, weight=np.full((16, 16, 3, 3), 127), bits=16)
    y = b.conv(y, 16, weight_bits=8, weight=np.full((16, 1, 3, 3), 127), groups=16, bits=16)
    weight = np.full((3, 400), 127)
    graph = b.finish(b.linear(b.flatten(b.add(y, y, bits=16)), 3, weight_bits=8, weight=weight, bits=None))
    x = np.random.default_rng(0).standard_normal((2, 16, 5, 5)).astype(np.float32) * 3
    np.save(tmp_path / "x.npy", x)
    assert [layer.narrowed for layer in write_onnx(graph, tmp_path / "any.onnx").layers] == [None] * 3
    emulated(tmp_path, "any")
    assert np.array_equal(np.load(tmp_path / "any.npy"), executor.run(graph, x))
