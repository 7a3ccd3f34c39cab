"""The C on this machine: every layer's bytes are those of the reference executor."""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixbit import models
from mixbit.cost import LayerBits
from mixbit.errors import ExportError
from mixbit.export.c import COptions, _scratch, host, verify_c, write_c
from mixbit.export.c._cmsis_checkout import Library
from mixbit.export.c.host import SANITIZERS, CVerification, compile_host, compile_kernels
from mixbit.integer import IntegerGraph, Rounding, executor, lower
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Grid
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from tests.export.c import arm, layers
from tests.export.c.guarded import verify_guarded
from tests.export.graphs import (
    NAMES,
    Builder,
    called_twice,
    every_printer,
    random_graph,
    renamed,
    resnet_cifar,
    rounded,
)
from tests.needs import needs

pytestmark = needs("gcc")

ROUNDINGS: tuple[Rounding, ...] = ("single", "double", "away")


def inputs(graph: IntegerGraph, samples: int = 4, seed: int = 0) -> np.ndarray:
    shape = graph.tensors[graph.input].shape
    return np.random.default_rng(seed).standard_normal((samples, *shape)).astype(np.float32) * 2


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernels(tmp_path_factory.mktemp("kernels"), flags=("-O0",))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kernels(tmp_path_factory.mktemp("sanitized"), sanitize=True, flags=("-O0",))


def checked(found: CVerification) -> CVerification:
    assert found.exact, found
    assert found.identical_layers == found.samples * found.layers
    return found


def drawn(seed: int) -> tuple[IntegerGraph, COptions]:
    """A random network; every choice of the options meets every rounding."""
    graph = random_graph(seed, steps=4 + seed % 5, spatial=1 + int(seed % 3 > 0))
    options = COptions(pack_activations=bool(seed // 2 % 2), row_alignment=(1, 4)[seed // 4 % 2])
    return rounded(graph, ROUNDINGS[(seed + seed // 3) % 3]), options


@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int, objects: Path) -> None:
    graph, options = drawn(seed)
    checked(verify_c(graph, inputs(graph), options=options, objects=objects, flags=("-O0",)))


@pytest.mark.parametrize("rounding", ["single", "away"])
def test_sums_beyond_int32_of_16_bit_inputs(rounding: Rounding) -> None:
    """Weights of one sign on inputs in the upper half; and weights of 1 bit, by channel and by feature."""
    b = Builder((300, 4), bits=16, signed=False, seed=1)
    weight = b.random.integers(90, 128, (5, 300, 3)) * np.array([1, -1, 1, -1, 1]).reshape(-1, 1, 1)
    x = b.conv(b.first, 5, 3, weight_bits=8, weight=weight, bits=16, scale=4.0)
    x = b.linear(b.flatten(b.conv(x, 5, 2, groups=5, weight_bits=1, bits=16)), 6, bits=16, weight_bits=1)
    graph = rounded(b.finish(b.linear(x, 3, bits=None)), rounding)
    assert executor.accumulator_bound(graph, graph.weighted()[0]) > 2**32
    samples = 40 + 5 * np.abs(inputs(graph, 16))
    reached = executor.accumulate(graph, graph.weighted()[0], executor.trace(graph, samples)[graph.weighted()[0].x])
    assert np.abs(reached).max() > 2**32
    checked(verify_c(graph, np.concatenate([samples, inputs(graph)]), flags=("-O1",), sanitize=True))


def test_ties_of_sums_beyond_int32_go_up_or_away_from_zero() -> None:
    """-7.2e9 and biases that make it a tie of a factor of 2^-21, one less, one more, and the next tie."""
    b = Builder((1200,), bits=16, signed=False, seed=1)
    b.linear(b.first, 5, weight_bits=8, weight=np.full((5, 1200), -100), bits=16, signed=True)
    graph = b.finish(b.linear("op1_out", 2, bits=None))
    acc = -100 * 60_000 * 1200
    bias = (2**20 - acc) % 2**21 + np.array([0, -1, 1, 2**21, 0])
    op = replace(
        graph.weighted()[0], weight_scale=np.full(5, 2.0**-10, np.float32), bias=bias.astype(np.int32), shift=0
    )
    tensors = dict(graph.tensors)
    for name, scale in (("xq", 2.0**-8), ("op1_out", 2.0**3)):
        tensors[name] = replace(tensors[name], grid=replace(graph.grid(name), scale=scale))
    graph = replace(graph, tensors=tensors, ops=(graph.ops[0], op, *graph.ops[2:]))
    x, found = np.full((2, 1200), 60_000 * 2.0**-8, np.float32), []
    for rounding in ("single", "away"):
        found.append(executor.trace(rounded(graph, rounding), x)["op1_out"][0])
        checked(verify_c(rounded(graph, rounding), x, flags=("-O1",), sanitize=True))
    assert (found[0] - found[1]).tolist() == [1, 0, 0, 1, 0]  # the last channel has no weights


def test_outputs_beyond_int32_are_refused_with_the_remedy() -> None:
    b = Builder((4000,), bits=16, signed=False, seed=1)
    graph = rounded(b.finish(b.linear(b.first, 2, bits=None, weight=np.full((2, 4000), 100), weight_bits=8)), "single")
    with pytest.raises(
        ExportError, match="below 2.31 for outputs, which are int32. Give it fewer weight or activation"
    ):
        verify_c(graph, inputs(graph))


def drawn_wide(seed: int) -> tuple[IntegerGraph, COptions]:
    """A random network with weights of 1 bit and tensors of 1 and of 9 to 16 bits among others."""
    graph = random_graph(seed, steps=5 + seed % 4, spatial=1 + int(seed % 3 > 0), wide=True)
    options = COptions(pack_activations=bool(seed % 2), row_alignment=(1, 4)[seed // 2 % 2])
    return rounded(graph, ("single", "away")[seed // 3 % 2]), options


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_of_one_and_of_sixteen_bits(seed: int, objects: Path) -> None:
    graph, options = drawn_wide(seed)
    checked(verify_c(graph, inputs(graph), options=options, objects=objects, flags=("-O0",)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 216))
def test_random_networks_of_one_and_of_sixteen_bits_under_sanitizers(seed: int) -> None:
    graph, options = drawn_wide(seed)
    checked(verify_c(graph, inputs(graph, 2), options=options, sanitize=True, flags=("-O0",)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 118))
def test_random_networks_under_sanitizers(seed: int, sanitized: Path) -> None:
    graph, options = drawn(seed)
    checked(verify_c(graph, inputs(graph, 2), options=options, sanitize=True, objects=sanitized, flags=("-O0",)))


def test_a_layer_that_is_called_again_has_one_array(tmp_path: Path, objects: Path) -> None:
    graph = rounded(called_twice(weight_bits=5), "single")
    checked(verify_c(graph, inputs(graph), objects=objects, flags=("-O0",)))
    found = write_c(graph, tmp_path / "net")
    assert [layer.weight_bytes > 0 for layer in found.layers if layer.weights] == [True, True, False, True, True]
    text = (tmp_path / "net" / "weights.c").read_text()
    declared = [int(size) for size in re.findall(r"const uint8_t \w+_weights\[(\d+)\]", text)]
    assert (len(declared), sum(declared)) == (4, found.footprint.weight_bytes)
    assert found.footprint.policy_bytes == -(-graph.weight_bits // 8)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_residual_network_with_its_own_kernels(rounding: Rounding) -> None:
    """Folded requantizations, strided shortcuts, in-place additions; compiled as the Makefile does."""
    graph = rounded(resnet_cifar(blocks=1, width=8, size=16, weight_bits=3, bits=4), rounding)
    found = checked(verify_c(graph, inputs(graph, 3), options=COptions(pack_activations=rounding == "double")))
    assert found.samples == 3 and found.layers > 10


@pytest.fixture(scope="session")
def dsp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for cores with the DSP extension. A pointer of this machine need not lie at a multiple of 8."""
    flags = ("-O0", *SANITIZERS, "-fno-sanitize=alignment")
    return arm.compile_dsp(tmp_path_factory.mktemp("dsp") / "kernels", flags=flags)


CASES: list[tuple[str, Rounding, bool]] = [
    *itertools.product(layers.NETWORKS, ("single",), (False, True)),
    *itertools.product(("others",), ("double", "away"), (False, True)),
    ("folded", "double", True),
    ("grouped", "away", True),
]
"""Network, rounding, whether activations are packed."""


@pytest.mark.parametrize(("name", "rounding", "packed"), CASES)
def test_layers_unlike_in_their_directions(
    name: str, rounding: Rounding, packed: bool, sanitized: Path, tmp_path: Path
) -> None:
    graph, options = layers.network(name, rounding), COptions(pack_activations=packed, row_alignment=4 if packed else 1)
    checked(verify_guarded(graph, inputs(graph, 2), tmp_path, options=options, objects=sanitized, flags=("-O0",)))


@pytest.mark.parametrize(("name", "rounding", "packed"), CASES)
def test_layers_with_two_products_an_instruction(
    name: str, rounding: Rounding, packed: bool, dsp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instruction by instruction on this machine, whose pointers are longer than those of the core."""
    monkeypatch.setattr(_scratch, "POINTER", struct.calcsize("P"))
    graph, options = layers.network(name, rounding), COptions(kernels="dsp", pack_activations=packed)
    checked(verify_guarded(graph, inputs(graph, 2), tmp_path, options=options, objects=dsp, flags=("-O0",)))


def test_the_instructions_are_read_as_the_core_reads_them() -> None:
    """`sxtb16` with a rotated operand, a load that moves its pointer on, and text that is no assembly."""
    source = '__asm__ volatile("sxtb16 %[t], %1, ror #8\\n\\t" "ldrd %2, %3, [%4], #8" : [t] "=r"(t), "=r"(x[1]));'
    with pytest.raises(KeyError):
        arm.translated(source)
    source = source.replace(");", ', "=r"(a), "=r"(b), "+r"(p));')
    text = arm.translated("char before; " + source + " char after;")
    assert text == (
        "char before; { (t) = arm_sxtb16(arm_ror((x[1]), 8)); (a) = ((const uint32_t *)(p))[0]; "
        "(b) = ((const uint32_t *)(p))[1]; (p) = (const void *)((const char *)(p) + 8); }; char after;"
    )
    assert arm.translated('int f(void) __asm__("g");') == 'int f(void) __asm__("g");'


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]], ids=["from the first", "from the last"])
def test_no_name_of_a_module_matters(names: tuple[str, ...], sanitized: Path) -> None:
    """Names are in comments and texts alone: never a word of the program, never a place."""
    graph = renamed(rounded(every_printer(), "single"), names)
    options = COptions(pack_activations=True, fold_requantize=False)
    found = verify_c(graph, inputs(graph, 2), options=options, objects=sanitized, sanitize=True, flags=("-O0",))
    checked(found)


def test_multipliers_of_zero(objects: Path) -> None:
    """A channel whose factor is below 2^-32 is its zero point; a shift by its exponent would be undefined in C."""
    b = Builder((3, 6, 6), seed=0)
    graph = rounded(b.finish(b.linear(b.flatten(b.conv(b.first, 4, bits=8)), 3, bits=None)), "single")
    conv = graph.ops[1]
    assert isinstance(conv, g.Conv)
    scales = conv.weight_scale.copy()
    scales[1:3] = [1e-30, -1e-25]
    graph = replace(graph, ops=(graph.ops[0], replace(conv, weight_scale=scales), *graph.ops[2:]))
    for rounding in ROUNDINGS:
        checked(verify_c(rounded(graph, rounding), inputs(graph), objects=objects, flags=("-O0",)))


def test_a_softmax_is_left_to_the_caller(objects: Path) -> None:
    b = Builder((6,), seed=0)
    graph = rounded(b.finish(b.softmax(b.linear(b.first, 4, bits=None))), "single")
    assert checked(verify_c(graph, inputs(graph), objects=objects, flags=("-O0",))).layers == 1


def test_features_that_lie_apart(objects: Path) -> None:
    """A linear layer along the last dimension of a map, as in attention; its channels are the innermost in memory."""
    b = Builder((3, 4, 6), seed=0)
    graph = rounded(b.finish(b.linear(b.linear(b.first, 5, bits=8), 4, bits=None)), "single")
    checked(verify_c(graph, inputs(graph), objects=objects, flags=("-O0",)))


FLOATS = """\
#include <stdio.h>
#include "model.h"
void model_hook(int layer, const void *output, uint32_t size_bytes) { (void)layer; (void)output; (void)size_bytes; }
int main(void)
{
    static float x[MODEL_INPUT_SIZE], y[MODEL_OUTPUT_SIZE];
    static int32_t output[MODEL_OUTPUT_SIZE];
    while (fread(x, sizeof x, 1, stdin) == 1) {
        model_quantize_input(x, model_input());
        if (model_invoke(model_input(), output) != 0) return 1;
        model_dequantize_output(output, y);
        y[0] = model_argmax(output) == 2u ? -y[0] : y[0];
        fwrite(y, sizeof y, 1, stdout);
    }
    return 0;
}
"""


@pytest.mark.parametrize("bits", [8, 4])
def test_float_helpers_give_the_reference_logits(bits: int, tmp_path: Path) -> None:
    """Ties of the input's rounding, values out of range or none at all, and units that differ from class to class."""
    b = Builder((2, 3, 3), bits=bits, signed=False, zero_point=7, seed=4)
    graph = rounded(b.finish(b.linear(b.flatten(b.conv(b.first, 4, bits=8)), 3, bits=None)), "single")
    folder = write_c(graph, tmp_path / "net", options=COptions(pack_activations=bits == 4)).path
    (folder / "host_main.c").write_text(FLOATS)
    flags = ("-DMODEL_FLOAT", "-O0", "-fsanitize=float-cast-overflow", "-fno-sanitize-recover=all")
    program = compile_host(folder, flags=flags)
    scale = graph.grid("xq").scale
    constants = (2.5 * scale, 1e9, -1e9, np.nan, np.inf, -np.inf)
    x = np.concatenate([inputs(graph, 6), *(np.full((1, 2, 3, 3), value) for value in constants)])
    x[0, 1, 1, 2] = np.nan
    x = x.astype(np.float32)
    raw = subprocess.run([program], input=x.transpose(0, 2, 3, 1).tobytes(), capture_output=True, check=True).stdout
    found, wanted = np.frombuffer(raw, np.float32).reshape(len(x), 3).copy(), executor.run(graph, x)
    found[wanted.argmax(axis=1) == 2, 0] *= -1  # the program turns it where model_argmax says 2
    assert np.array_equal(found, wanted)


CALLED = """\
#include <stdio.h>
#include "model.h"
void model_hook(int layer, const void *output, uint32_t size_bytes) { (void)layer; (void)output; (void)size_bytes; }
int main(void)
{
    static int32_t output[MODEL_OUTPUT_SIZE];
    static float y[MODEL_OUTPUT_SIZE + 1];
    if (model_invoke(0, output) != -1 || model_invoke(model_input(), 0) != -1) return 1;
    while (fread(output, sizeof output, 1, stdin) == 1) {
        model_dequantize_output(output, y);
        y[MODEL_OUTPUT_SIZE] = (float)model_argmax(output);
        fwrite(y, sizeof y, 1, stdout);
    }
    return 0;
}
"""


@pytest.mark.parametrize("shape", [(4,), (3, 2, 4)])
def test_outputs_in_real_numbers_and_the_first_of_the_largest(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Any accumulators; units whose largest is negative, and a shift; of a map along its last dimension too."""
    b = Builder(shape, seed=4)
    graph = rounded(b.finish(b.linear(b.first, 5, weight_bits=3, shift=2, bits=None)), "single")
    scales = np.array([0.5, -4.0, 0.25, 0.5, 0.125], np.float32)
    linear = graph.ops[-1]
    assert isinstance(linear, g.Linear)
    graph = replace(graph, ops=(*graph.ops[:-1], replace(linear, weight_scale=scales)))
    folder = write_c(graph, tmp_path / "net").path
    (folder / "host_main.c").write_text(CALLED)
    program = compile_host(folder, flags=("-DMODEL_FLOAT", "-O0"))
    result = graph.tensors[graph.output].shape
    outputs = np.random.default_rng(0).integers(-2, 3, (40, *result)).astype(np.int32)  # ties as often as not
    stored = np.moveaxis(outputs, 1, -1) if len(result) > 1 else outputs
    raw = subprocess.run([program], input=stored.tobytes(), capture_output=True, check=True).stdout
    found = np.frombuffer(raw, np.float32).reshape(40, -1)
    real = outputs * (scales * np.float32(graph.grid("xq").scale / 4))
    wanted = (np.moveaxis(real, 1, -1) if len(result) > 1 else real).reshape(40, -1)
    assert found[:, :-1] == pytest.approx(wanted, rel=1e-6)
    assert np.array_equal(found[:, -1], wanted.argmax(axis=1))


def test_many_samples_are_verified_in_parts(monkeypatch: pytest.MonkeyPatch, objects: Path) -> None:
    monkeypatch.setattr(host, "_CHUNK", 2)
    b = Builder((3, 4), seed=0)
    graph = rounded(b.finish(b.linear(b.flatten(b.conv(b.first, 2, bits=8)), 3, bits=None)), "single")
    found = checked(verify_c(graph, inputs(graph, 5), objects=objects, flags=("-O0",)))
    assert (found.samples, found.identical_outputs, found.layers, found.sanitized) == (5, 5, 2, False)
    found = verify_c(graph, inputs(graph, 5), objects=objects, flags=("-O0",), every_layer=False)
    assert (found.exact, found.samples, found.layers, found.identical_layers) == (True, 5, 0, 0)


def test_exact_is_every_output_and_no_difference() -> None:
    found = CVerification(samples=2, layers=1, identical_outputs=2, identical_layers=2, first_difference=None,
                          compiler="gcc", sanitized=False, seconds=1.0)  # fmt: skip
    assert found.exact
    assert not replace(found, identical_outputs=1).exact
    assert not replace(found, first_difference="sample 0, layer 0 (a)").exact


def test_a_wrong_weight_is_found_with_its_layer(tmp_path: Path) -> None:
    """The self-test names the first layer that differs, and so does its exit status."""
    b = Builder((3, 5, 5), seed=0)
    graph = rounded(
        b.finish(b.linear(b.flatten(b.conv(b.conv(b.first, 4, bits=8), 4, bits=8)), 3, bits=None)), "single"
    )
    folder = write_c(graph, tmp_path / "net", samples=inputs(graph)).path

    def run() -> subprocess.CompletedProcess[str]:
        program = compile_host(folder, target="selftest", flags=("-O0",))
        return subprocess.run([program], capture_output=True, text=True, check=False)

    right = run()
    assert right.returncode == 0 and "all 3 layers as recorded" in right.stdout
    text = (folder / "weights.c").read_text()
    at = text.index("{", text.index("model_1_bias")) + 1
    (folder / "weights.c").write_text(text[:at] + " 9 +" + text[at:])
    wrong = run()
    assert wrong.returncode == 1 and "layer 1 (op2) is the first that differs" in wrong.stdout


def test_a_folder_that_is_there_is_checked_as_it_is(tmp_path: Path, objects: Path) -> None:
    b = Builder((3, 5, 5), seed=0)
    x = b.conv(b.first, 4, bits=4)
    graph = rounded(b.finish(b.linear(b.flatten(x), 3, bits=None)), "single")
    folder = write_c(graph, tmp_path / "net", options=COptions(pack_activations=True, row_alignment=4)).path
    before = sorted(folder.rglob("*"))
    checked(verify_c(graph, inputs(graph), folder=folder, objects=objects, flags=("-O0",)))
    assert sorted(folder.rglob("*")) == before
    text = (folder / "weights.c").read_text()
    (folder / "weights.c").write_text(text.replace("model_1_bias[3] = {", "model_1_bias[3] = { 9 + "))
    assert verify_c(graph, inputs(graph), folder=folder, objects=objects, flags=("-O0",)).first_difference is not None
    with pytest.raises(ExportError, match="holds the network sha256:0123456789abcdef, not sha256:f"):
        verify_c(replace(graph, fingerprint="sha256:f"), inputs(graph), folder=folder)
    with pytest.raises(ExportError, match="No file at"):
        verify_c(graph, inputs(graph), folder=tmp_path / "none")


def test_differences_are_told(tmp_path: Path, objects: Path) -> None:
    """A kernel that computes something else: how many samples and layers, and where first."""
    b = Builder((3, 5, 5), seed=0)
    x = b.conv(b.first, 4, bits=8)
    graph = rounded(b.finish(b.linear(b.flatten(b.max_pool(x)), 3, bits=None)), "single")
    wrong = tmp_path / "objects"
    shutil.copytree(objects, wrong)
    (wrong / "mixbit_max_pool.o").unlink()
    source = tmp_path / "mixbit_max_pool.c"
    source.write_text(
        '#include "mixbit_kernels.h"\n'
        "void mixbit_max_pool(const mixbit_pool_layer *layer, const int8_t *x, int8_t *y)\n"
        "{ uint32_t i; (void)x; for (i = 0; i < (uint32_t)layer->y_height * layer->y_width * layer->channels; i++) "
        "y[i] = 1; }\n"
    )
    found = verify_c(graph, inputs(graph), objects=wrong, flags=(str(source), "-O0"))
    assert not found.exact and found.first_difference == "sample 0, layer 1 (op2)"
    assert found.identical_layers == 4 and found.identical_outputs == 0


def test_a_compiler_that_is_not_there() -> None:
    graph = rounded(random_graph(0), "single")
    with pytest.raises(ExportError, match="'no-such-cc' is not there. Install one"):
        verify_c(graph, inputs(graph), compiler="no-such-cc")


def test_a_compiler_that_fails(objects: Path) -> None:
    graph = rounded(random_graph(0), "single")
    with pytest.raises(ExportError, match="gcc failed in .*no-such-flag"):
        verify_c(graph, inputs(graph), objects=objects, flags=("--no-such-flag",))


def test_zero_points_at_both_ends(objects: Path) -> None:
    for zero_point in (0, 255):
        b = Builder((2, 5, 5), bits=8, signed=False, zero_point=zero_point, seed=1)
        x = b.add(b.conv(b.first, 2, bits=4, zero_point=zero_point and 15), b.first, bits=8, zero_point=zero_point)
        graph = rounded(
            b.finish(b.linear(b.flatten(b.average_pool(x, 2, stride=2, padding=1)), 3, bits=None)), "double"
        )
        assert graph.grid("xq") == Grid(scale=graph.grid("xq").scale, zero_point=zero_point, qmin=0, qmax=255)
        checked(verify_c(graph, inputs(graph), objects=objects, flags=("-O0",)))


@pytest.mark.parametrize(
    ("bits", "signed", "zero_point"), [(8, True, -128), (8, False, 3), (4, False, 0), (4, True, 7)]
)
def test_average_pools_between_equal_grids(bits: int, signed: bool, zero_point: int, objects: Path) -> None:
    """LiteRT divides the int8 integers; four of any lie a tie apart as often as not."""
    b = Builder((3, 9, 9), bits=bits, signed=signed, zero_point=zero_point, seed=2)
    of = {"bits": bits, "signed": signed, "zero_point": zero_point, "scale": b.tensors["xq"].grid.scale}
    pools = [b.average_pool(b.first, 2, stride=1, padding=padding, **of) for padding in (0, 1)]
    x = b.add(pools[0], b.cut(pools[1], (0, 1, 1), (3, 9, 9), (1, 1, 1)), bits=8)
    graph = b.finish(b.linear(b.flatten(x), 3, bits=None))
    for rounding, packed in itertools.product(ROUNDINGS, (False, True)):
        options = COptions(pack_activations=packed)
        checked(verify_c(rounded(graph, rounding), inputs(graph), options=options, objects=objects, flags=("-O0",)))


def lowered(model: nn.Module, x: torch.Tensor, *, bits: tuple[int, int], rounding: Rounding) -> IntegerGraph:
    """A model with random weights, quantized and calibrated; some layers at other bits than the rest."""
    network = capture(model, x[:1])
    policy = Policy.uniform(network, *bits)
    for layer in network.layers[1:-1:3]:
        policy.layers[layer.name] = LayerBits(2, policy.layers[layer.name].activation_bits)
    quantize(model, policy, network)
    calibrate(model, [x])
    return lower(model.eval(), network, [x], rounding=rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_lowered_network(rounding: Rounding, objects: Path) -> None:
    """From PyTorch to C: a folded batch norm, a depthwise layer, and a map that is flattened before a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU6()),
        *(nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.BatchNorm2d(6), nn.Hardswish()),
        *(nn.Conv2d(6, 9, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9 * 9, 5)),
    ).eval()
    x = torch.randn(16, 3, 12, 12)
    graph = lowered(model, x, bits=(3, 4), rounding=rounding)
    options = COptions(pack_activations=rounding == "double")
    checked(verify_c(graph, x[:6].numpy(), options=options, objects=objects, flags=("-O0",)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ds-cnn", "mobilenetv1-0.25", "resnet8", "ad-autoencoder"])
def test_networks_of_mlperf_tiny(name: str, objects: Path) -> None:
    torch.manual_seed(0)
    model = models.build(name).eval()
    x = torch.randn(2, *models.info(name).input_shape)
    graph = lowered(model, x, bits=(4, 8), rounding="single")
    found = checked(verify_c(graph, x.numpy(), objects=objects, flags=("-O2",)))
    assert found.layers >= len(graph.weighted())


@pytest.mark.parametrize("shared", [True, False])
def test_a_library_beside_the_network_is_compiled_by_its_own_rules(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code is not ours to warn of; in a shared library it moves as all else does."""
    commands: list[list[str]] = []
    library = Library(include=tmp_path / "include", sources=(tmp_path / "arm.c",), defines=("OWN=1",))
    monkeypatch.setattr(host, "_compile", lambda _folder, arguments, _compiler: commands.append(arguments))
    monkeypatch.setattr(host, "library_of", lambda _: library)
    program = host.compile_library(tmp_path) if shared else compile_host(tmp_path, sanitize=True)
    own, linked = commands
    assert {"-w", "-DOWN=1", "-c", str(tmp_path / "arm.c")} < {*own} and "-Werror" not in own and "-shared" not in own
    assert ("-fPIC" in own) is shared is ("-fPIC" in linked) and not {*SANITIZERS} & {*own}
    assert str(tmp_path / "build" / "cmsis_nn" / "arm.o") in linked and f"-isystem{library.include}" in linked
    assert "-Werror" in linked and str(program.resolve()) in linked and shared is not ({*SANITIZERS} < {*linked})
