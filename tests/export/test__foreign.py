"""Files that are given to `verify`: what is no file of ours is refused before anything runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.needs import why

pytest.importorskip("onnxruntime", reason=why("onnx"))

import onnx
from onnx import TensorProto, helper
from onnx import numpy_helper as nh

from mixbit.errors import ExportError, MixbitError
from mixbit.export._foreign import _OPERATORS, QONNX_DOMAIN, read_foreign
from mixbit.export._onnx_functions import _bodies, functions
from mixbit.export.onnx import Packing, render_onnx, write_onnx
from mixbit.export.qonnx import build_qonnx, trace_qonnx, write_qonnx
from mixbit.export.verify import is_qonnx, verify
from mixbit.integer import IntegerGraph
from tests.export.graphs import Builder, every_printer, random_graph

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
WEIGHT = nh.from_array(np.full((8, 3), 0.1, np.float32), "w")
LINEAR = helper.make_node("MatMul", ["input", "w"], ["output"])


@pytest.fixture(scope="module")
def graph() -> IntegerGraph:
    b = Builder((8,), seed=3)
    return b.finish(b.linear(b.first, 3, bits=None))


def x(graph: IntegerGraph, count: int = 5) -> np.ndarray:
    shape = graph.tensors[graph.input].shape
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def model(
    *nodes: onnx.NodeProto,
    inputs: Any = (FLOAT, ("N", 8)),
    output: Any = (FLOAT, ("N", 3)),
    tensors: tuple[TensorProto, ...] = (WEIGHT,),
    domains: tuple[str, ...] = (),
    functions: tuple[Any, ...] = (),
) -> bytes:
    domains = (*domains, *{node.domain for node in nodes if node.domain == QONNX_DOMAIN})
    ends = [[helper.make_tensor_value_info(name, *end)] for name, end in (("input", inputs), ("output", output))]
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", *ends, list(tensors)),
        opset_imports=[helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)],
        functions=list(functions),
        ir_version=8,
    )
    content: bytes = made.SerializeToString()
    return content


def quant(x: str = "input", y: str = "output", **settings: Any) -> onnx.NodeProto:
    of = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **settings}
    return helper.make_node("Quant", [x, "s", "z", "bits"], [y], domain=QONNX_DOMAIN, **of)


def scalars(bits: float = 4.0) -> tuple[TensorProto, ...]:
    values = {"s": 1.0, "z": 0.0, "bits": bits}
    return tuple(nh.from_array(np.array(value, np.float32), name) for name, value in values.items())


def loop() -> bytes:
    """Two to the power of 62 rounds."""
    names = [("i", INT64, []), ("c", TensorProto.BOOL, []), ("x", FLOAT, None)]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["x"], ["x2"])],
        "b",
        [helper.make_tensor_value_info(*name) for name in names],
        [helper.make_tensor_value_info(name + "2", *rest) for name, *rest in names[1:]],
    )
    count, on = nh.from_array(np.array(2**62), "m"), nh.from_array(np.array(True), "on")
    product = helper.make_node("MatMul", ["input", "w"], ["p"])
    return model(
        product, helper.make_node("Loop", ["m", "on", "p"], ["output"], body=body), tensors=(WEIGHT, count, on)
    )


def external(location: str, *, constant: bool = False) -> bytes:
    tensor = TensorProto()
    tensor.CopyFrom(WEIGHT)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "96")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    if not constant:
        return model(LINEAR, tensors=(tensor,))
    tensor.name = "held"
    return model(helper.make_node("Constant", [], ["held"], value=tensor), LINEAR)


def huge(kind: str) -> bytes:
    if kind == "a shape":
        size = nh.from_array(np.array([10**6, 10**6]), "size")
        return model(helper.make_node("ConstantOfShape", ["size"], ["output"]), tensors=(size,), output=(FLOAT, None))
    if kind == "the input":
        size = helper.make_node("Cast", ["input"], ["size"], to=INT64)
        flat = helper.make_node("Reshape", ["size", "all"], ["flat"])
        node = helper.make_node("ConstantOfShape", ["flat"], ["output"])
        every = nh.from_array(np.array([-1]), "all")
        return model(size, flat, node, tensors=(every,), output=(FLOAT, None))
    if kind == "a function":
        of = helper.make_node("Constant", [], ["size"])
        given = helper.make_attribute("value_ints", [1])
        del given.ints[:]
        given.ref_attr_name = "shape"
        of.attribute.append(given)
        made = helper.make_node("ConstantOfShape", ["size"], ["b"])
        inner = helper.make_function(
            "mixbit", "Ones", ["a"], ["b"], [of, made], [helper.make_opsetid("", 17)], attributes=["shape"]
        )
        node = helper.make_node("Ones", ["input"], ["output"], domain="mixbit", shape=[10**6, 10**6])
        return model(node, tensors=(), output=(FLOAT, None), domains=("mixbit",), functions=(inner,))
    pads = nh.from_array(np.array([0, 0, 0, 10**12]), "pads")
    return model(helper.make_node("Pad", ["input", "pads"], ["output"]), tensors=(pads,), output=(FLOAT, None))


def function(domain: str, kind: str = "Relu", *before: onnx.NodeProto, of: str = "", **settings: Any) -> bytes:
    """A function of one operator that is called, behind other nodes."""
    body = helper.make_node(kind, ["a"], ["b"], domain=of, **settings)
    inner = helper.make_function(domain, "Own", ["a"], ["b"], [body], [helper.make_opsetid("", 17)])
    node = helper.make_node("Own", ["q" if before else "input"], ["output"], domain=domain)
    tensors = scalars() if before else ()
    return model(*before, node, tensors=tensors, output=(FLOAT, ("N", 8)), domains=(domain,), functions=(inner,))


def own(kind: str, domain: str = "", output: Any = (FLOAT, ("N", 8)), **settings: Any) -> bytes:
    node = helper.make_node(kind, ["input"], ["output"], domain=domain, **settings)
    return model(node, tensors=(), output=output, domains=(domain,) if domain else ())


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "an endless loop": (loop, "has a loop or a branch"),
    "an unknown operator": (lambda: own("Evil"), "has the operator 'Evil'"),
    "an unknown domain": (lambda: own("Evil", "x.y"), "has an operator of the domain 'x.y'"),
    "a function of ours that is not there": (lambda: own("Evil", "mixbit"), "has the operator 'Evil' of mixbit"),
    "functions of another domain": (lambda: function("other"), "defines a function of the domain 'other'"),
    "a function in the place of an operator": (lambda: function(""), "defines a function of the domain ''"),
    "an unknown operator in a function": (lambda: function("mixbit", "Evil"), "has the operator 'Evil',"),
    "an unknown domain in a function": (
        lambda: function("mixbit", "Relu", of="x.y"),
        "has an operator of the domain 'x.y'",
    ),
    "a branch in a function": (
        lambda: function("mixbit", "If", then_branch=helper.make_graph([], "g", [], [])),
        r"has a loop or a branch \('If'\)",
    ),
    "a function beside operators of QONNX": (
        lambda: function("mixbit", "Relu", quant(y="q")),
        "defines a function of the domain 'mixbit'",
    ),
    "weights in the parent folder": (lambda: external("../../etc/passwd"), "keeps the tensor 'w' in another file"),
    "weights in a device": (lambda: external("/dev/zero"), "keeps the tensor 'w' in another file"),
    "a constant beside it": (
        lambda: external("w.bin", constant=True),
        "keeps the tensor 'held' in another file",
    ),
    "weights beside it": (lambda: external("w.bin"), "keeps the tensor 'w' in another file"),
    "a shape without end": (lambda: huge("a shape"), "of 1000000000000 elements"),
    "a shape without end in a function": (lambda: huge("a function"), "of 1000000000000 elements"),
    "a size that inputs decide": (lambda: huge("the input"), "of a size that cannot be told"),
    "padding without end": (lambda: huge("padding"), "elements"),
    "a size below zero": (
        lambda: model(LINEAR, inputs=(FLOAT, (-1, 8)), output=(FLOAT, (-1, 3))),
        "of -[0-9]+ elements",
    ),
    "no nodes": (lambda: model(), "is truncated or damaged"),
    "nothing": (lambda: b"", "is no ONNX model"),
    "text": (lambda: b"hello", "is no ONNX model"),
    "noise": (lambda: b"\x08" + np.random.default_rng(0).bytes(2000), "is truncated or damaged"),
    "a word of QONNX": (lambda: b"\x08junk " + QONNX_DOMAIN.encode(), "is truncated or damaged"),
    "a module's name as domain": (
        lambda: model(quant(y="q"), helper.make_node("Boom", ["q"], ["output"], domain="evil"), tensors=scalars()),
        "has an operator of the domain 'evil'",
    ),
    "a module of qonnx as domain": (
        lambda: model(
            quant(y="q"),
            helper.make_node("system", ["q"], ["output"], domain=f"{QONNX_DOMAIN}.os"),
            tensors=scalars(),
        ),
        "has an operator of the domain",
    ),
    "our own package as domain of QONNX": (
        lambda: model(quant(y="q"), helper.make_node("Own", ["q"], ["output"], domain="mixbit"), tensors=scalars()),
        "has an operator of the domain 'mixbit'",
    ),
    "another operator of QONNX": (
        lambda: model(
            quant(y="q"), helper.make_node("Im2Col", ["q"], ["output"], domain=QONNX_DOMAIN), tensors=scalars()
        ),
        "has the operator 'Im2Col' of qonnx",
    ),
    "zero classes": (
        lambda: model(
            helper.make_node("Slice", ["input", "zero", "zero", "one"], ["output"]),
            tensors=tuple(nh.from_array(np.array([n]), name) for name, n in (("zero", 0), ("one", 1))),
            output=(FLOAT, ("N", 0)),
        ),
        "gives float32 of shape",
    ),
    "other classes": (lambda: own("Identity"), "the network gives float32 of shape"),
    "one number": (lambda: own("ReduceSum", output=(FLOAT, ()), keepdims=0), "the network gives float32 of shape"),
    "integers out": (
        lambda: model(
            helper.make_node("MatMul", ["input", "w"], ["p"]),
            helper.make_node("Cast", ["p"], ["output"], to=INT64),
            output=(INT64, ("N", 3)),
        ),
        "gives int64 of shape",
    ),
    "integers in": (
        lambda: model(
            helper.make_node("Cast", ["input"], ["f"], to=FLOAT),
            helper.make_node("MatMul", ["f", "w"], ["output"]),
            inputs=(TensorProto.INT8, ("N", 8)),
        ),
        r"takes input .* tensor\(int8\)",
    ),
    "another input": (lambda: model(LINEAR, inputs=(FLOAT, ("N", 4, 8))), "the network takes"),
    "one image at a time": (lambda: model(LINEAR, inputs=(FLOAT, (1, 8)), output=(FLOAT, (1, 3))), "cannot run"),
    "not a number": (
        lambda: model(LINEAR, tensors=(nh.from_array(np.full((8, 3), np.nan, np.float32), "w"),)),
        "gives NaN or infinity for 5 of 5 images",
    ),
    "a foreign QONNX file": (
        lambda: model(quant(), tensors=scalars(), output=(FLOAT, ("N", 8))),
        "the network gives float32 of shape|qonnx cannot run",
    ),
    "bits that are no number": (
        lambda: model(quant(), tensors=scalars(np.nan), output=(FLOAT, ("N", 8))),
        "the network gives float32 of shape|qonnx cannot run|NaN",
    ),
    "a rounding that is code": (
        lambda: model(quant(rounding_mode="__import__('os').abort()"), tensors=scalars(), output=(FLOAT, ("N", 8))),
        "qonnx cannot run",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_file_of_ours_is_an_error(what: str, graph: IntegerGraph, tmp_path: Path) -> None:
    make, message = REFUSED[what]
    path = tmp_path / "net.onnx"
    path.write_bytes(make())
    with pytest.raises(ExportError, match=message):
        verify(path, graph, [(x(graph), None)], rounds=0)


def test_nothing_that_a_file_names_is_imported(
    graph: IntegerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By none of the three readers."""
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a file ran')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "net.onnx"
    path.write_bytes(REFUSED["a module's name as domain"][0]())
    readers: list[Callable[[], object]] = [
        lambda: verify(path, graph, [(x(graph), None)]),
        lambda: is_qonnx(path),
        lambda: trace_qonnx(path, x(graph)),
    ]
    for read in readers:
        with pytest.raises(ExportError, match="domain 'evil'"):
            read()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "missing"])
def test_what_is_no_file_at_all(kind: str, graph: IntegerGraph, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(MixbitError, match=r"pipe or a device|is a folder|No file at"):
        verify(path, graph, [(x(graph), None)])


def test_a_file_that_is_larger_than_any_model(graph: IntegerGraph, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 5)  # takes no space
    with pytest.raises(ExportError, match=r"has 2147483653 bytes. Legal: at most 2147483647"):
        read_foreign(path)


@pytest.mark.parametrize("pack", ["fields", "none"])
def test_every_operator_that_we_write_is_read(pack: Packing, tmp_path: Path) -> None:
    """Networks with every operation, packed weights of every width, and the functions that no small network calls."""
    for seed in range(3):
        for spatial in (1, 2):
            write_onnx(random_graph(seed, spatial=spatial), tmp_path / "net.onnx", pack=pack)
            assert not read_foreign(tmp_path / "net.onnx").qonnx
    write_onnx(every_printer(), tmp_path / "net.onnx", pack=pack)
    read_foreign(tmp_path / "net.onnx")
    for body in functions(_bodies()):
        for node in body.node:
            assert node.op_type in _OPERATORS


def test_files_of_ours_are_read(graph: IntegerGraph, tmp_path: Path) -> None:
    for name, write in (("a", write_onnx), ("b", write_qonnx)):
        write(graph, tmp_path / name)
        assert is_qonnx(tmp_path / name) is (write is write_qonnx)
    write_onnx(graph, tmp_path / "c", pack="none")
    assert not read_foreign(tmp_path / "c").model.functions


def test_a_qonnx_file_whose_output_has_another_name(graph: IntegerGraph, tmp_path: Path) -> None:
    made = build_qonnx(graph)
    made.graph.output[0].name = "other"
    for node in made.graph.node:
        node.output[:] = ["other" if name == graph.output else name for name in node.output]
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    assert verify(tmp_path / "net.onnx", graph, [(x(graph, 2), None)]).right


def test_a_runtime_file_is_no_qonnx_file(graph: IntegerGraph, tmp_path: Path) -> None:
    write_onnx(graph, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="has no operator of QONNX"):
        trace_qonnx(tmp_path / "net.onnx", x(graph))


@pytest.mark.parametrize("kind", ["onnx", "qonnx"])
def test_cuts_and_flipped_bytes_end_in_an_error_or_in_a_verdict(kind: str, graph: IntegerGraph, tmp_path: Path) -> None:
    """Never another exception."""
    content = render_onnx(graph, tmp_path)[0] if kind == "onnx" else build_qonnx(graph).SerializeToString()
    random, path, images = np.random.default_rng(1), tmp_path / "net.onnx", [(x(graph, 2), None)]
    for case in range(40 if kind == "onnx" else 20):
        changed = bytearray(content)
        if case % 2:
            del changed[int(random.integers(1, len(content))) :]
        else:
            for at in random.integers(0, len(content), 3):
                changed[at] = int(random.integers(256))
        path.write_bytes(bytes(changed))
        try:
            verify(path, graph, images, rounds=0)
        except MixbitError as error:
            assert str(error)
