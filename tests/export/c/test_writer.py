"""The folder: whole or not at all, readable, and refused before anything is written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mixbit.errors import ExportError
from mixbit.export.c import COptions, plan_memory, render_c, write_c
from mixbit.export.c._cmsis_checkout import SINGLE_ROUNDING
from mixbit.export.c._cmsis_nn import HandedOver
from mixbit.export.c._manifest import read_manifest
from mixbit.export.c._options import KERNELS
from mixbit.export.c._program import build_program
from mixbit.export.c.writer import MANIFEST, _makefile
from mixbit.integer import IntegerGraph, executor
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Grid, Rounding, dequantize
from tests.export.graphs import Builder, random_graph, resnet_cifar, rounded
from tests.needs import needs


def small() -> IntegerGraph:
    b = Builder((3, 5, 5), seed=0)
    x = b.conv(b.first, 4, weight_bits=3, bits=8)
    return rounded(b.finish(b.linear(b.flatten(x), 3, weight_bits=2, bits=None)), "single")


def changed(graph: IntegerGraph, at: int, **settings: object) -> IntegerGraph:
    ops = list(graph.ops)
    ops[at] = replace(ops[at], **settings)  # type: ignore[arg-type]
    return replace(graph, ops=tuple(ops))


def test_what_is_written(tmp_path: Path) -> None:
    graph = small()
    written = write_c(graph, tmp_path / "net")
    on_disk = {str(path.relative_to(tmp_path / "net")) for path in (tmp_path / "net").rglob("*") if path.is_file()}
    assert on_disk == set(written.files) == set(render_c(graph))
    assert {"model.h", "model.c", "weights.c", "Makefile", "README.txt", "kernels/mixbit_conv.c"} <= on_disk
    assert "kernels/mixbit_add.c" not in on_disk, "only kernels that the network calls"
    manifest = json.loads((tmp_path / "net" / MANIFEST).read_text())
    assert [layer["name"] for layer in manifest["layers"]] == ["op1", "op3"]
    assert manifest["fingerprint"] == graph.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["net"], "no temporary folder is left"


@pytest.mark.parametrize("rounding", ["single", "double"])
def test_the_manifest_tells_how_it_was_written(tmp_path: Path, rounding: Rounding) -> None:
    options = COptions(kernels="dsp", pack_activations=True)
    written = write_c(rounded(small(), rounding), tmp_path / "net", options=options)
    manifest = json.loads((tmp_path / "net" / MANIFEST).read_text())
    assert manifest["options"] == asdict(options) and read_manifest(tmp_path / "net").c_options() == options
    assert manifest["roundings"] == {"Conv": rounding, "Linear": rounding}
    assert manifest["footprint"] == asdict(written.footprint)
    assert manifest["arena"] == json.loads(json.dumps([asdict(one) for one in written.plan.buffers])) != []


@pytest.mark.parametrize(("rounding", "once"), [("single", True), ("double", False)])
def test_cmsis_nn_is_compiled_for_the_rounding_that_the_network_has(rounding: Rounding, once: bool) -> None:
    text = _makefile(HandedOver(path="/cmsis", rounding=rounding, layers=("a",), kept={}, sources=("arm_x.c",)))
    assert (f"-D{SINGLE_ROUNDING}" in text) is once and ("It rounds once." in text) is once


def test_the_same_graph_gives_the_same_text() -> None:
    assert render_c(small()) == render_c(small())


def test_the_header_says_all_that_a_caller_needs() -> None:
    graph = small()
    header = render_c(graph)["model.h"]
    macros = dict(re.findall(r"#define (MODEL_\w+) \(?(-?[\w.+-]+)", header))
    grid = graph.grid("xq")
    assert float.fromhex(macros["MODEL_INPUT_SCALE"].rstrip("f")) == grid.scale
    assert (int(macros["MODEL_INPUT_LOW"]), int(macros["MODEL_INPUT_HIGH"])) == (-128, 127)
    assert (macros["MODEL_INPUT_SIZE"], macros["MODEL_OUTPUT_SIZE"], macros["MODEL_LAYERS"]) == ("75", "3", "2")
    assert "in memory 5x5x3" in header
    assert (macros["MODEL_INPUT_BYTES"], macros["MODEL_INPUT_BITS"], macros["MODEL_INPUT_ZERO"]) == ("75", "8", "0")
    assert (macros["MODEL_OUTPUT_CHANNELS"], macros["MODEL_OUTPUT_INNER"]) == ("3", "1")
    assert int(macros["MODEL_WEIGHT_BYTES"]) == 4 * 11 + 3 * 25, "27 weights of 3 bits a row, 100 of 2 bits"
    assert int(macros["MODEL_ARENA_BYTES"]) == plan_memory(graph).arena_bytes


def test_the_readme_tells_the_bytes_of_the_network(tmp_path: Path) -> None:
    b = Builder((3, 5, 5), seed=0)
    x = b.lookup(b.conv(b.first, 4, weight_bits=3, bits=8))
    graph = rounded(b.finish(b.linear(b.flatten(x), 3, weight_bits=2, bits=None)), "single")
    found = write_c(graph, tmp_path / "net").footprint
    text = (tmp_path / "net" / "README.txt").read_text()
    for line in (
        rf"RAM +{found.ram_bytes} bytes: the arena. Beside it: the outputs \({4 * 3} bytes, yours\)",  # of int32
        rf"flash +{found.flash_bytes} bytes, of which",
        rf"{found.weight_bytes} packed weights \(the policy says {-(-(4 * 27 * 3 + 3 * 100 * 2) // 8)}\)",
        rf"{found.factor_bytes} biases and factors",
        rf"{found.table_bytes} tables",
        rf"{found.settings_bytes} settings of layers",
        rf"{found.code_bytes} code \({found.code_source}\)",
    ):
        assert re.search(rf"^ +{line}", text, re.MULTILINE), line
    assert re.findall(r"^    \d: (\w+),", text, re.MULTILINE) == ["op1", "op2", "op4"]


def test_every_array_of_weights_begins_at_a_word() -> None:
    """Kernels may read words; the other arrays are of numbers that the compiler aligns."""
    text = render_c(small())["weights.c"]
    assert re.findall(r"^(.*)const uint8_t model_\d_weights", text, re.MULTILINE) == ["MODEL_ALIGNED "] * 2


def test_kernels_with_two_products_are_written_where_they_are_asked_for() -> None:
    plain, dsp = (set(render_c(small(), options=COptions(kernels=kernels))) for kernels in KERNELS)
    assert dsp - plain == {f"kernels/mixbit_{name}" for name in ("conv_dsp.c", "dsp.h", "linear_dsp.c", "rows_dsp.c")}
    assert plain < dsp


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_selftest_records_the_first_inputs(vectors: int) -> None:
    graph, options = small(), COptions(vectors=vectors)
    samples = np.random.default_rng(0).standard_normal((5, 3, 5, 5)).astype(np.float32)
    text = render_c(graph, options=options, samples=samples)["selftest_vectors.h"]
    assert f"#define SELFTEST_VECTORS {vectors}\n" in text
    body = text[text.index("selftest_inputs") : text.index("selftest_outputs")]
    found = np.array(re.findall(r"(-?\d+),", body), int).reshape(vectors, 5, 5, 3)
    assert np.array_equal(found.transpose(0, 3, 1, 2), executor.trace(graph, samples[:vectors])["xq"])
    outputs = text[text.index("selftest_outputs") : text.index("FNV-1a")]
    last = np.array(re.findall(r"(-?\d+),", outputs), int).reshape(vectors, 3)
    linear = graph.ops[-1]
    assert isinstance(linear, g.Linear)
    wanted = executor.accumulate(graph, linear, executor.trace(graph, samples[:vectors])[linear.x])
    assert np.array_equal(last, wanted)


def test_without_samples_the_selftest_has_inputs_of_the_whole_range() -> None:
    text = render_c(small(), options=COptions(vectors=20))["selftest_vectors.h"]
    body = text[text.index("selftest_inputs") : text.index("selftest_outputs")]
    found = np.array(re.findall(r"(-?\d+),", body), int)
    assert (found.min(), found.max(), found.size) == (-128, 127, 20 * 75)


def test_only_widths_and_roundings_that_are_used_are_compiled() -> None:
    config = render_c(small())["mixbit_config.h"]
    on = set(re.findall(r"#define (\w+) 1", config))
    assert on == {"MIXBIT_WEIGHTS_2", "MIXBIT_WEIGHTS_3"}
    assert "#define MIXBIT_ROUNDING_DOUBLE 1" in render_c(rounded(small(), "double"))["mixbit_config.h"]


def test_names_of_modules_cannot_break_the_text(tmp_path: Path) -> None:
    graph = changed(small(), 1, name='a*/ "b\\"\n??/ é')
    files = render_c(graph)
    assert '*/ "b' not in files["model.c"]
    if shutil.which("gcc") is not None:
        from mixbit.export.c.host import compile_host

        compile_host(write_c(graph, tmp_path / "net").path, target="selftest", flags=("-O0",))


def test_another_folder_of_mixbit_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    write_c(rounded(resnet_cifar(blocks=1, width=4, size=8), "single"), tmp_path / "net")
    assert (tmp_path / "net" / "kernels" / "mixbit_add.c").exists()
    write_c(small(), tmp_path / "net")
    assert not (tmp_path / "net" / "kernels" / "mixbit_add.c").exists()
    (tmp_path / "mine").mkdir()
    write_c(small(), tmp_path / "mine")  # an empty folder is fine
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("other", "file"):
        with pytest.raises(ExportError, match="holds other things"):
            write_c(small(), tmp_path / name)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "net", "other"]


def wrong_graphs() -> dict[str, tuple[IntegerGraph, str]]:
    good = small()
    tensors = dict(good.tensors)
    tensors["op1_out"] = replace(tensors["op1_out"], grid=replace(good.grid("op1_out"), scale=1e-12))
    wide = dict(good.tensors)
    wide["op1_out"] = replace(wide["op1_out"], grid=Grid(scale=0.1, zero_point=0, qmin=-40000, qmax=100))
    far = dict(good.tensors)
    far["xq"] = replace(far["xq"], grid=Grid(scale=0.1, zero_point=300, qmin=0, qmax=255))
    return {
        "float rounding": (rounded(good, "float32"), "op1: rounding='float32'.*Lower with rounding='single'"),
        "result": (replace(good, tensors=tensors), "op1: (its result can reach|factors)"),
        "weights": (changed(good, 1, weight_bits=2), "op1: integers from -4 to 3 do not fit 2 bits"),
        "grid": (replace(good, tensors=wide), "op1_out: integers from -40000 to 100 do not fit 16 bits"),
        "padding": (replace(good, tensors=far), "op1: the padded zero .300."),
    }


@pytest.mark.parametrize("name", ["float rounding", "result", "weights", "grid", "padding"])
def test_what_has_no_form_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    graph, message = wrong_graphs()[name]
    with pytest.raises(ExportError, match=message):
        write_c(graph, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_an_accumulator_that_leaves_int32_is_refused(tmp_path: Path) -> None:
    b = Builder((2100, 1, 1), seed=0)
    x = b.conv(b.first, 1, 1, weight_bits=8, weight=np.full((1, 2100, 1, 1), 127), shift=0, bits=8)
    graph = rounded(b.finish(b.linear(b.flatten(x), 1, bits=None)), "single")
    write_c(graph, tmp_path / "fits")
    conv = graph.ops[1]
    assert isinstance(conv, g.Conv)
    with pytest.raises(ExportError, match=r"op1: its accumulator can reach \d+, legal is below 2\^31"):
        write_c(changed(graph, 1, bias=conv.bias * 0 + 2**30, shift=5), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_outputs_in_the_middle_are_refused() -> None:
    b = Builder((3, 5, 5), seed=0)
    quantized = rounded(b.finish(b.conv(b.first, 4, bits=8)), "single")
    with pytest.raises(ExportError, match="Legal: one linear layer or convolution at the end"):
        render_c(quantized)


def test_samples_of_another_shape_are_refused() -> None:
    with pytest.raises(ExportError, match=r"samples of shape \(2, 3, 4, 4\), legal is \(N, 3, 5, 5\)"):
        render_c(small(), samples=np.zeros((2, 3, 4, 4), np.float32))


@pytest.mark.parametrize(("name", "value"), [("row_alignment", 3), ("kernels", "fast"), ("vectors", 0)])
def test_options(name: str, value: object) -> None:
    with pytest.raises(ExportError, match=f"{name}=.*egal"):
        COptions(**{name: value})  # type: ignore[arg-type]


@needs("g++")
def test_a_firmware_in_cpp_can_call_it(tmp_path: Path) -> None:
    folder = write_c(small(), tmp_path / "net").path
    source = folder / "main.cpp"
    source.write_text('#include "model.h"\nint main() { int32_t y[3]; return model_invoke(model_input(), y); }\n')
    kernels = [str(path) for path in folder.glob("kernels/*.c")]
    objects = ["gcc", "-O0", "-c", "-std=c99", "-I.", "-Ikernels", "model.c", "weights.c", *kernels]
    subprocess.run(objects, cwd=folder, check=True)
    subprocess.run(["g++", "-O0", "-I.", "main.cpp", *(p.name for p in folder.glob("*.o"))], cwd=folder, check=True)


@needs("gcc")
def test_make_test(tmp_path: Path) -> None:
    write_c(rounded(random_graph(3, steps=3), "double"), tmp_path / "net")
    found = subprocess.run(["make", "-s", "test", "OPT=-O0"], cwd=tmp_path / "net", capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "as recorded" in found.stdout


@needs("gcc")
def test_make_library_and_an_object_without_a_prefix(tmp_path: Path) -> None:
    folder = write_c(small(), tmp_path / "net").path
    subprocess.run(["make", "-s", "library", "OPT=-O0"], cwd=folder, check=True)
    listed = subprocess.run(["ar", "t", "build/libmodel.a"], cwd=folder, capture_output=True, text=True, check=True)
    assert {"model.o", "weights.o"} < set(listed.stdout.split())
    for prefix in ("", "model", "weights"):
        found = subprocess.run(["make", "-s", "object", f"PREFIX={prefix}"], cwd=folder, capture_output=True, text=True)
        assert found.returncode != 0 and "make object PREFIX=kws" in found.stderr


TWO = """\
#include <stdio.h>
#include "kws.h"
#include "vad.h"
int main(void)
{
    static int32_t a[KWS_OUTPUT_SIZE], b[VAD_OUTPUT_SIZE];
    uint32_t i;
    for (i = 0; i < KWS_INPUT_BYTES; i++) kws_input()[i] = (int8_t)(i * 7u);
    for (i = 0; i < VAD_INPUT_BYTES; i++) vad_input()[i] = (int8_t)(i * 5u);
    if (kws_invoke(kws_input(), a) || vad_invoke(vad_input(), b)) return 1;
    for (i = 0; i < KWS_OUTPUT_SIZE; i++) printf("%d ", (int)a[i]);
    for (i = 0; i < VAD_OUTPUT_SIZE; i++) printf("%d ", (int)b[i]);
    return 0;
}
"""


@needs("gcc")
def test_two_networks_in_one_program(tmp_path: Path) -> None:
    """Of one kernel in two variants: both have all symbols but those of their interface to themselves."""
    b = Builder((6,), seed=2)
    graphs = {"kws": small(), "vad": rounded(b.finish(b.linear(b.first, 4, weight_bits=8, bits=None)), "double")}
    wanted = []
    for (name, graph), factor in zip(graphs.items(), (7, 5), strict=True):
        folder = write_c(graph, tmp_path / name).path
        subprocess.run(["make", "-s", "object", f"PREFIX={name}", "OPT=-O0"], cwd=folder, check=True)
        program = build_program(graph, COptions())
        x = program.tensors[program.input]
        raw = (np.arange(x.size_bytes) * factor).astype(np.int8).tobytes()
        values = executor.trace(graph, dequantize(x.from_bytes(raw), x.grid)[None])
        last = executor.accumulate(graph, program.last, values[program.last.x]).ravel()
        wanted += last[program.output_order()].tolist()
    (tmp_path / "main.c").write_text(TWO)
    ends = [str(tmp_path / name / "build") for name in graphs]
    objects = [f"{end}/{name}.o" for end, name in zip(ends, graphs, strict=True)]
    command = ["gcc", "-Wall", "-Werror", *(f"-I{end}" for end in ends), "-o", "two", "main.c", *objects]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = subprocess.run([tmp_path / "two"], capture_output=True, text=True, check=True).stdout
    assert [int(text) for text in found.split()] == wanted
