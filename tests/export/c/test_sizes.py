"""Bytes before anything is compiled."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
from pathlib import Path

import pytest

from mixbit.export.c import COptions, footprint, write_c
from mixbit.export.c._emit import WIDE, config_h, config_text, kernel_files
from mixbit.export.c._options import KERNELS, Kernels
from mixbit.export.c._program import build_program
from mixbit.export.c.sizes import Footprint, struct_bytes
from mixbit.export.c.sizes import layers as program_layers
from mixbit.integer import IntegerGraph, Rounding
from tests.export.c import layers
from tests.export.graphs import Builder, resnet_cifar, rounded
from tests.needs import needs

ARM = "arm-none-eabi-gcc"


def resnet(bits: int = 4, **settings: int) -> IntegerGraph:
    return rounded(resnet_cifar(weight_bits=bits, bits=4, **settings), "single")


def test_weights_take_what_the_policy_says(tmp_path: Path) -> None:
    """Within 1 %, and the difference is the padding of rows that is stated by layer."""
    for bits in range(1, 9):
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
    bytewise, wordwise = (footprint(graph, options=COptions(row_alignment=by)) for by in (1, 4))
    assert bytewise.weight_bytes == 4 * 11 + 3 * 50
    assert wordwise.weight_bytes == 4 * 12 + 3 * 52


def symbols(folder: Path, *, tools: str = "", flags: tuple[str, ...] = ()) -> dict[str, int]:
    """Name -> bytes of all that a compiler makes of the network's own two files."""
    sources = ["model.c", "weights.c"]
    command = [f"{tools}gcc", *flags, "-std=c99", "-O1", "-I.", "-Ikernels", "-c", *sources]
    subprocess.run(command, cwd=folder, check=True)
    objects = [source.replace(".c", ".o") for source in sources]
    listing = subprocess.run([f"{tools}nm", "-S", *objects], cwd=folder, capture_output=True, text=True, check=True)
    rows = [line.split() for line in listing.stdout.splitlines()]
    return {row[3]: int(row[1], 16) for row in rows if len(row) == 4}


@needs("gcc")
@pytest.mark.parametrize("name", layers.NETWORKS)
def test_what_is_predicted_is_what_a_compiler_lays_out(name: str, tmp_path: Path) -> None:
    """Arena and arrays have their sizes on every machine; all but what holds pointers."""
    graph, alignment = layers.network(name, "single"), 4 if name == "grouped" else 1
    options = COptions(
        kernels="dsp" if name == "depthwise" else "plain", pack_activations=True, row_alignment=alignment
    )
    found, written = footprint(graph, options=options), write_c(graph, tmp_path / "net", options=options)
    sizes = symbols(tmp_path / "net")
    assert found == written.footprint
    assert found.ram_bytes == found.arena_bytes == sizes["arena"] == written.plan.arena_bytes
    roles = {
        "weight_bytes": ("weights",),
        "factor_bytes": ("bias", "multiplier", "exponent"),
        "table_bytes": ("table",),
    }
    for field, names in roles.items():
        of_layer = [sum(sizes.get(f"model_{one.index}_{role}", 0) for role in names) for one in written.layers]
        assert of_layer == [getattr(one, field) for one in written.layers]
        assert sum(of_layer) == getattr(found, field)


@needs("arm")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("regular", COptions(kernels="dsp")),
        ("depthwise", COptions(kernels="dsp", pack_activations=True)),
        ("folded", COptions()),
        ("others", COptions(pack_activations=True)),
        ("binary", COptions(kernels="dsp")),
    ],
)
@pytest.mark.parametrize("rounding", ["double", "away"])
def test_settings_and_code_of_a_cortex_m4(name: str, options: COptions, rounding: Rounding, tmp_path: Path) -> None:
    """Settings to the byte; code, which is a sum of parts that were measured once, to 9 %."""
    graph = layers.network(name, rounding)
    found = write_c(graph, tmp_path / "net", options=options)
    cpu = ("-mcpu=cortex-m4", "-mthumb")
    sizes = symbols(tmp_path / "net", tools="arm-none-eabi-", flags=cpu)
    settings = {one.index: one.settings_bytes for one in found.layers if one.settings_bytes}
    assert settings == {
        at: sum(size for symbol, size in sizes.items() if re.fullmatch(rf"layer_{at}(_\d+)?", symbol))
        for at in settings
    }
    assert sum(settings.values()) == found.footprint.settings_bytes
    assert abs(found.footprint.flash_bytes / library(tmp_path / "net", cpu)[0] - 1) < 0.09


def wide_network(*, weight_bits: int = 1) -> IntegerGraph:
    """Inputs of 16, 8 and 12 bits of convolutions, depthwise or not, a pool, an add, a table and a linear layer."""
    b = Builder((3, 6, 6), bits=16, seed=3)
    x = b.conv(b.first, 8, weight_bits=weight_bits, bits=8)
    y = b.conv(
        b.conv(x, 8, weight_bits=weight_bits, bits=12, signed=False), 8, weight_bits=weight_bits, groups=8, bits=16
    )
    y = b.add(b.lookup(b.requantize(x, bits=16), bits=16), y, bits=16)
    return rounded(b.finish(b.linear(b.flatten(b.average_pool(y, 2, bits=16)), 4, bits=None)), "single")


def test_what_unpacks_one_bit_is_there_for_depthwise_layers_and_inputs_of_16_bits() -> None:
    """And what multiplies rows of 1 bit for the others alone, whichever kernels there are."""
    for kernels, (groups, bits) in itertools.product(KERNELS, ((1, 8), (6, 8), (1, 16))):
        b = Builder((6, 4, 4), bits=bits, seed=0)
        x = b.conv(b.first, 6, groups=groups, weight_bits=1, bits=bits)
        program = build_program(
            rounded(b.finish(b.linear(b.flatten(x), 2, bits=None)), "single"), COptions(kernels=kernels)
        )
        second = kernels == "dsp" and bits == 8
        assert ("mixbit_rows_dsp.c" in kernel_files(program)) == second
        on = set(re.findall(r"#define MIXBIT_(\w+) 1", config_h(program)))
        others = {"WEIGHTS_4", *({"WIDE_ACTIVATIONS"} if bits == 16 else ())} | ({"DSP"} if kernels == "dsp" else set())
        assert on - others == ({"WEIGHTS_1"} if (groups, bits) == (1, 8) else {"UNPACK_1"})


@needs("gcc")
def test_tensors_of_16_bits_take_twice_the_ram(tmp_path: Path) -> None:
    """To the byte of what a compiler lays out; the input of 108 elements and each result beside it."""
    found, written = footprint(wide_network()), write_c(wide_network(), tmp_path / "net")
    assert found == written.footprint
    assert found.ram_bytes == symbols(tmp_path / "net")["arena"] == written.plan.arena_bytes
    assert [(one.output_bits, one.output_bytes) for one in written.layers] == [
        (8, 288), (16, 576), (16, 576), (16, 576), (16, 576), (16, 576), (16, 144), (32, 16),
    ]  # fmt: skip
    assert "#define MODEL_INPUT_BYTES 216" in (tmp_path / "net" / "model.h").read_text()
    assert [one.weight_bytes for one in written.layers if one.weights] == [8 * 4, 8 * 9, 9, 4 * 36]


@needs("arm")
@pytest.mark.parametrize("kernels", KERNELS)
def test_settings_and_code_of_a_wide_network_on_a_cortex_m4(kernels: Kernels, tmp_path: Path) -> None:
    found = write_c(wide_network(), tmp_path / "net", options=COptions(kernels=kernels))
    cpu = ("-mcpu=cortex-m4", "-mthumb")
    sizes = symbols(tmp_path / "net", tools="arm-none-eabi-", flags=cpu)
    settings = sum(size for symbol, size in sizes.items() if re.fullmatch(r"layer_\d+(_\d+)?", symbol))
    assert settings == found.footprint.settings_bytes
    assert abs(found.footprint.flash_bytes / library(tmp_path / "net", cpu)[0] - 1) < 0.09


def library(folder: Path, cpu: tuple[str, ...]) -> list[int]:
    """Bytes of `.text`, `.data` and `.bss` of the whole library, as `make size` tells them."""
    target = ["CROSS=arm-none-eabi-", f"CPU={' '.join(cpu)}"]
    done = subprocess.run(["make", "-s", "size", *target], cwd=folder, capture_output=True, text=True, check=True)
    return [int(size) for size in done.stdout.splitlines()[-1].split()[:3]]


def test_layers_tell_their_results() -> None:
    """Shapes and bits as stored; the last layer's are int32."""
    b = Builder((3, 6, 5), seed=0)
    x = b.conv(b.first, 5, (3, 2), weight_bits=3, stride=(1, 2), bits=3, padding=0)
    graph = rounded(b.finish(b.linear(b.flatten(x), 7, weight_bits=2, bits=None)), "single")
    conv, linear = program_layers(build_program(graph, COptions(pack_activations=True)))
    assert (conv.kernel, conv.weights, conv.weight_bits, conv.macs) == ("mixbit_conv", 90, 3, 90 * 4 * 2)
    assert (conv.output_shape, conv.output_bits, conv.output_bytes) == ((5, 4, 2), 4, 20)
    assert (conv.weight_bytes, conv.padding_bytes) == (5 * 7, 5 * 7 - 34), "18 weights of 3 bits are 54 bits"
    assert (linear.output_shape, linear.output_bits, linear.output_bytes, linear.macs) == ((7,), 32, 28, 280)
    assert (conv.scratch_bytes, linear.scratch_bytes) == (18, 40), "a column, and the features taken out of 4 bits"
    plain = program_layers(build_program(graph, COptions()))
    assert [one.scratch_bytes for one in plain] == [18, 0], "features in bytes are read where they lie"
    dsp = program_layers(build_program(graph, COptions(kernels="dsp")))
    assert [one.scratch_bytes for one in dsp] == [6 * 32, 3 * 48], "whole groups of 16: two columns, and one"


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_a_linear_layer_multiplies_at_every_place_of_what_it_reads(shape: tuple[int, ...]) -> None:
    b = Builder(shape, seed=0)
    graph = rounded(b.finish(b.linear(b.first, 7, weight_bits=4, bits=None)), "single")
    (linear,) = program_layers(build_program(graph, COptions()))
    assert linear.macs == math.prod(shape) * 7 and linear.output_bytes == 4 * 7 * math.prod(shape[:-1])


def test_scratch_of_depthwise_layers() -> None:
    b = Builder((6, 6, 5), seed=0)
    x = b.conv(b.conv(b.first, 6, (3, 2), groups=6), 12, 1, groups=6)
    graph = rounded(b.finish(b.linear(b.flatten(x), 2, bits=None)), "single")
    plain, dsp = (
        [one.scratch_bytes for one in program_layers(build_program(graph, COptions(kernels=kernels)))[:2]]
        for kernels in ("plain", "dsp")
    )
    assert plain == [6, 1], "the taps of a channel"
    # Pointers to the taps, all weights, a place of padding; two outputs a channel are gathered beside these.
    assert dsp == [4 * 6 + 8 * 6 + 8, 4 + 12 + 12 + 12]


def test_activations_beside_scratch() -> None:
    packed = footprint(resnet(), options=COptions(pack_activations=True))
    assert packed.activation_bytes == 16 * 32 * 32 * (1 + 1 + 0.5)
    assert packed.arena_bytes == packed.activation_bytes + 9 * 16 and packed.ram_bytes == packed.arena_bytes


def test_structures() -> None:
    assert struct_bytes("mixbit_requantize_layer") == 4 + 4 + 4 + 2 * 2 + 2 + 2  # 18, rounded up to words
    assert struct_bytes("mixbit_move_layer") == 16 + 8 + 32 + 4


@needs("arm")
@pytest.mark.parametrize("wide", [False, True])
def test_structures_are_those_of_the_compiler(wide: bool, tmp_path: Path) -> None:
    kernels = Path(__file__).parents[3] / "src" / "mixbit" / "export" / "c" / "kernels"
    names = re.findall(r"\} (mixbit_\w+);", (kernels / "mixbit_kernels.h").read_text())
    checks = "\n".join(f"typedef char c{at}[sizeof({name}) == {struct_bytes(name, wide=wide)} ? 1 : -1];"
                       for at, name in enumerate(names))  # fmt: skip
    (tmp_path / "a.c").write_text(f'#include "mixbit_kernels.h"\n{checks}\n')
    (tmp_path / "mixbit_config.h").write_text(config_text({WIDE} if wide else ()))
    includes = [f"-I{kernels}", f"-I{tmp_path}"]
    subprocess.run([ARM, "-mcpu=cortex-m4", "-mthumb", *includes, "-fsyntax-only", tmp_path / "a.c"], check=True)
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


def test_flash_is_the_sum_of_all_that_lies_in_it() -> None:
    parts = {"weight_bytes": 1, "factor_bytes": 2, "table_bytes": 4, "settings_bytes": 8, "code_bytes": 16}
    found = Footprint(**parts, policy_bytes=32, code_source="", arena_bytes=64, activation_bytes=128)
    assert (found.data_bytes, found.flash_bytes, found.ram_bytes) == (15, 31, 64)


def test_code_grows_by_the_scales_of_outputs_and_by_calls() -> None:
    def classes(count: int) -> int:
        b = Builder((3,), seed=0)
        return footprint(rounded(b.finish(b.linear(b.first, count, bits=None)), "single")).code_bytes

    assert classes(100) - classes(3) == 4 * 97, "one int32 a class, for the index of the largest"

    def tokens(places: int) -> int:
        b = Builder((places, 3), seed=0)
        return footprint(rounded(b.finish(b.linear(b.first, 7, bits=None)), "single")).code_bytes

    assert tokens(50) == tokens(2), "classes are the last dimension of what a linear layer gives, not the first"

    def parts(count: int) -> int:
        b = Builder((3, 2), seed=0)
        x = b.concat(*(b.first for _ in range(count)))
        return footprint(rounded(b.finish(b.linear(b.flatten(x), 2, bits=None)), "single")).code_bytes

    assert parts(4) - parts(3) == parts(3) - parts(2) > 4, "a call for each"


def test_a_result_in_place_counts_once_and_as_the_larger() -> None:
    """192 elements in 8 bits, and over them in 4."""
    b = Builder((3, 8, 8), seed=0)
    graph = rounded(b.finish(b.linear(b.flatten(b.requantize(b.first, bits=4)), 5, bits=None)), "single")
    assert footprint(graph, options=COptions(pack_activations=True)).activation_bytes == 192
