"""Layers that call a user's CMSIS-NN: which, to which bytes, and what is said of the others."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mixbit.errors import ExportError
from mixbit.export.c import COptions, footprint, plan_memory, render_c, sizes, verify_c, write_c
from mixbit.export.c._program import build_program
from mixbit.export.c.host import compile_host
from mixbit.export.mcu import count, verify_board
from mixbit.integer.graph import IntegerGraph
from tests.export.graphs import Builder, random_graph, rounded
from tests.needs import needs

DIR = os.environ.get("MIXBIT_CMSIS_NN", "")
LINEAR = "arm_fully_connected_per_channel_s8"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like CMSIS-NN: files with names, and no code in them."""
    root = tmp_path / "CMSIS-NN"
    texts = {
        "Include/arm_nnfunctions.h": "",
        "Source/ConvolutionFunctions/arm_convolve_wrapper_s8.c": "int arm_convolve_wrapper_s8(\n int a)\n{\n"
        " return arm_convolve_s8(a);\n}\n",
        "Source/ConvolutionFunctions/arm_convolve_s8.c": "int arm_convolve_s8(int a) { return arm_nn_inner(a); }\n",
        "Source/ConvolutionFunctions/sizes.c": "int arm_convolve_wrapper_s8_get_buffer_size(int a)\n{ return a; }\n",
        "Source/ConvolutionFunctions/arm_depthwise_conv_wrapper_s8.c": "int arm_depthwise_conv_wrapper_s8(int a)\n"
        "{ return a; }\n",
        "Source/ConvolutionFunctions/arm_convolve_f32.c": "int arm_nn_inner(int a) { return a; }\n",
        "Source/NNSupportFunctions/arm_nn_inner.c": "int arm_nn_inner(int a)\n{ return a; }\n",
        f"Source/FullyConnectedFunctions/{LINEAR}.c": f"int {LINEAR}(int a)\n{{ return a; }}\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def eight_bits(rounding: str = "single", *, zero_point: int = 3) -> IntegerGraph:
    """Convolutions with and without padding and steps, one tap, depthwise, an addition, linear layers."""
    b = Builder((3, 9, 7), seed=2, signed=True, zero_point=zero_point)
    b.rounding = rounding  # type: ignore[assignment]
    of = {"weight_bits": 8, "signed": True, "zero_point": zero_point}
    x = b.conv(b.first, 7, 3, **of)
    x = b.conv(x, 12, 3, stride=2, **of)
    y = b.conv(x, 12, 3, groups=12, **of)
    y = b.conv(y, 12, 5, groups=12, **of)
    y = b.conv(y, 24, 3, groups=12, **of)
    y = b.conv(y, 12, 1, **of)
    x = b.add(x, y, signed=True)
    x = b.conv(x, 9, 3, dilation=2, padding=2, **of)
    x = b.conv(x, 5, 1, stride=2, padding=0, **of)
    x = b.linear(b.flatten(x), 11, **of)
    return b.finish(b.linear(x, 4, weight_bits=8, bits=None))


def mixed(rounding: str = "single") -> IntegerGraph:
    """Layers of 8 bits between others."""
    b = Builder((3, 8, 8), seed=5)
    b.rounding = rounding  # type: ignore[assignment]
    x = b.conv(b.first, 8, 3, weight_bits=8)
    x = b.conv(x, 8, 3, weight_bits=4)
    x = b.conv(x, 8, 3, weight_bits=8, groups=8)
    x = b.conv(x, 8, 3, weight_bits=8, groups=2)
    x = b.conv(x, 8, 3, weight_bits=8, shift=1)
    x = b.linear(b.flatten(x), 6, weight_bits=8)
    return b.finish(b.linear(x, 4, weight_bits=2, bits=None))


def samples_of(graph: IntegerGraph, samples: int = 3) -> np.ndarray:
    shape = graph.tensors[graph.input].shape
    return (2 * np.random.default_rng(0).standard_normal((samples, *shape))).astype(np.float32)


# ---------------------------------------------------------------------------------------------- without CMSIS-NN


def test_layers_of_8_bits_are_handed_over_and_the_others_say_why(checkout: Path) -> None:
    found = build_program(mixed(), COptions(cmsis_nn=str(checkout))).cmsis_nn
    assert found is not None
    assert (found.rounding, found.layers) == ("single", ("op1", "op3", "op7"))
    assert found.kept == {
        "op2": "weights of 4 bits",
        "op4": "a grouped convolution",
        "op5": "its accumulators are shifted",
        "op8": "weights of 2 bits",
    }


def test_the_sources_are_those_that_the_functions_need(checkout: Path) -> None:
    found = build_program(mixed(), COptions(cmsis_nn=str(checkout))).cmsis_nn
    assert found is not None
    assert found.sources == (
        "ConvolutionFunctions/arm_convolve_s8.c",
        "ConvolutionFunctions/arm_convolve_wrapper_s8.c",
        "ConvolutionFunctions/arm_depthwise_conv_wrapper_s8.c",
        "ConvolutionFunctions/sizes.c",
        f"FullyConnectedFunctions/{LINEAR}.c",
        "NNSupportFunctions/arm_nn_inner.c",  # not the file for float32, which has a function of that name
    )


def test_the_folder_names_the_checkout_and_holds_none_of_it(checkout: Path) -> None:
    files = render_c(mixed(), options=COptions(cmsis_nn=str(checkout)))
    assert f"CMSIS_NN ?= {checkout}" in files["cmsis_nn.mk"] and "SINGLE_ROUNDING" in files["cmsis_nn.mk"]
    assert not any("arm_" in Path(name).name for name in files)
    manifest = json.loads(files["manifest.json"])
    assert manifest["cmsis_nn"]["kept"]["op2"] == "weights of 4 bits"
    assert "by CMSIS-NN" in files["model.c"]
    assert "SINGLE_ROUNDING" not in render_c(mixed("double"), options=COptions(cmsis_nn=str(checkout)))["cmsis_nn.mk"]


def test_without_it_the_folder_has_nothing_of_it() -> None:
    files = render_c(mixed())
    assert not any("cmsis" in name for name in files)
    assert "cmsis" not in files["model.c"] and "cmsis_nn" not in json.loads(files["manifest.json"])


def test_flash_has_the_code_that_calls_cmsis_nn(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = COptions(cmsis_nn=str(checkout))
    found, table = footprint(mixed(), options=options).code_bytes, sizes._code_table()
    calling = [name for name in table["cmsis_nn"] if f"kernels/{name}.c" in render_c(mixed(), options=options)]
    assert "mixbit_cmsis_conv" in calling and "mixbit_cmsis_linear" in calling
    monkeypatch.setattr(sizes, "_code_table", lambda: table | {"cmsis_nn": dict.fromkeys(table["cmsis_nn"], 0)})
    assert found - footprint(mixed(), options=options).code_bytes == sum(table["cmsis_nn"][name] for name in calling)


def test_ram_has_the_scratch_of_cmsis_nn(checkout: Path) -> None:
    """Two columns of int16; 27 taps are rounded up to 28."""
    plan = plan_memory(mixed(), options=COptions(cmsis_nn=str(checkout)))
    held = {name: one.size_bytes for one in plan.buffers for name in one.names if name.startswith("scratch")}
    assert held["scratch 0"] == 2 * 2 * 28 and "scratch 2" not in held


@pytest.mark.parametrize(
    ("absent", "reason"),
    [
        ("Include/arm_nnfunctions.h", "arm_nnfunctions.h is missing"),
        ("Source/ConvolutionFunctions/arm_convolve_wrapper_s8.c", "no file of Source defines arm_convolve_wrapper_s8"),
    ],
)
def test_another_folder_is_refused_with_what_is_missing(checkout: Path, absent: str, reason: str) -> None:
    (checkout / absent).unlink()
    with pytest.raises(ExportError, match=rf"{reason}.*git clone https://github.com/ARM-software/CMSIS-NN"):
        footprint(mixed(), options=COptions(cmsis_nn=str(checkout)))


def test_a_path_that_make_cannot_read_is_refused(checkout: Path, tmp_path: Path) -> None:
    checkout.rename(tmp_path / "my code")
    with pytest.raises(ExportError, match="white space"):
        footprint(mixed(), options=COptions(cmsis_nn=str(tmp_path / "my code")))


def test_an_older_version_without_the_linear_function_keeps_those(checkout: Path) -> None:
    (checkout / "Source" / "FullyConnectedFunctions" / f"{LINEAR}.c").unlink()
    found = build_program(mixed(), COptions(cmsis_nn=str(checkout))).cmsis_nn
    assert found is not None
    assert "op7" not in found.layers and LINEAR in found.kept["op7"]


def test_windows_that_its_depthwise_kernels_cannot_do_are_kept(checkout: Path) -> None:
    b = Builder((4, 6, 6), seed=1)
    b.rounding = "single"
    x = b.conv(b.first, 4, 3, weight_bits=8, groups=4, padding=((1, 1), (1, 2)))
    x = b.conv(x, 4, 3, weight_bits=8, groups=4, padding=3)
    graph = b.finish(b.linear(b.flatten(x), 2, bits=None))
    found = build_program(graph, COptions(cmsis_nn=str(checkout))).cmsis_nn
    assert found is not None and not found.layers
    assert found.kept["op1"] == "more than one column of padding on the right"
    assert found.kept["op2"] == "a window that is padding alone"


def test_a_checkout_that_is_gone_is_an_error(checkout: Path, tmp_path: Path) -> None:
    graph, options = mixed(), COptions(cmsis_nn=str(checkout))
    written = write_c(graph, tmp_path / "model", options=options).path
    (checkout / "Source" / "NNSupportFunctions" / "arm_nn_inner.c").unlink()
    with pytest.raises(ExportError, match="is not there any more"):
        compile_host(written)


# ------------------------------------------------------------------------------------------------- with CMSIS-NN


@needs("cmsis-nn")
@pytest.mark.parametrize("rounding", ["single", "double"])
@pytest.mark.parametrize("zero_point", [-128, 3, 127])
def test_a_network_of_8_bits_has_the_reference_s_bytes(rounding: str, zero_point: int) -> None:
    graph, options = eight_bits(rounding, zero_point=zero_point), COptions(cmsis_nn=DIR)
    found = build_program(graph, options).cmsis_nn
    assert found is not None and len(found.layers) == 9 and list(found.kept) == ["op12"]
    checked = verify_c(graph, samples_of(graph), options=options)
    assert checked.first_difference is None


@needs("cmsis-nn", "board")
@pytest.mark.parametrize("rounding", ["single", "double"])
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m7"])
def test_it_has_them_on_every_core(rounding: str, core: str) -> None:
    graph = eight_bits(rounding)
    found = verify_board(graph, samples_of(graph), board=core, options=COptions(cmsis_nn=DIR))
    assert found.first_difference is None


@needs("cmsis-nn", "board")
def test_a_mixed_network_has_them_too(tmp_path: Path) -> None:
    graph, options = mixed(), COptions(kernels="dsp", cmsis_nn=DIR)
    assert verify_c(graph, samples_of(graph), options=options).first_difference is None
    found = verify_board(graph, samples_of(graph), options=options)
    assert found.first_difference is None
    assert found.sizes.ram == footprint(graph, options=options).ram_bytes
    assert {layer.kernel for layer in count(graph, options=options).layers} >= {"mixbit_cmsis_conv", "mixbit_conv"}


@needs("cmsis-nn")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_have_them_too(seed: int) -> None:
    graph = rounded(random_graph(seed + 700, spatial=1 + seed % 2), "double" if seed % 3 else "single")
    assert verify_c(graph, samples_of(graph), options=COptions(cmsis_nn=DIR)).first_difference is None


@needs("cmsis-nn")
def test_the_makefile_compiles_it_and_its_selftest_passes(tmp_path: Path) -> None:
    written = write_c(mixed(), tmp_path / "model", options=COptions(cmsis_nn=DIR)).path
    done = subprocess.run(["make", "-s", "test"], cwd=written, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


@needs("cmsis-nn", "board")
def test_a_core_with_vectors_is_refused_when_it_is_compiled() -> None:
    graph = mixed()
    with pytest.raises(ExportError, match="without --cmsis-nn"):
        verify_board(graph, samples_of(graph), board="cortex-m55", options=COptions(cmsis_nn=DIR))
