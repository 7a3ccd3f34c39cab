"""Files for any processor and for those with VNNI: speed beside float32, and accuracy on CIFAR-10's test images.

    python benchmarks/export_cpu.py [--parts resnet20 mobilenetv2 resnet18 accuracy] [--rounds 30] [--images 10000]
        [--fresh | --smoke]

Speed: networks of the zoo with random weights, batch 1, one thread, CPU time, all files of a network in turn in one
run. `doubled` is a way that `mixbit export` does not take: a convolution over the input and a copy of it, with the
weights in two parts that cannot saturate. Accuracy: ResNet-20 of 8 bits after calibration, without training. Each part
is a row of this processor; those that the result file has are reused, and rows of other processors stay.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import records
from common import RESULTS, cifar10, cifar10_folder, shared_data
from export_onnx import NETWORKS, WEIGHTS, lowered, policy_of
from mixbit import runs
from mixbit.export._machine import machine_flags, machine_name
from mixbit.export._probe import runtime_saturates
from mixbit.export.float_onnx import float_onnx
from mixbit.export.onnx import build_onnx, load_session, render_onnx, written_graph
from mixbit.export.verify import numpy_batches, time_sessions
from mixbit.integer import IntegerGraph, executor, lower
from mixbit.quantization import CALIBRATION_SAMPLES, calibrate, quantize

NAME = "export_cpu"
FILES: dict[str, dict[str, Any]] = {"any": {}, "vnni": {"cpu": "vnni"}, "strict": {"strict": True}}
CHECKED = 200


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every convolution that is not grouped over its input and a copy, with weights from -64 to 64 and what is left."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        grouped = any(one.name == "group" and one.i > 1 for one in node.attribute)
        if node.op_type == "Conv" and not grouped:
            source, weights = (makers[node.input[at]] for at in (0, 1))
            name, tensor = f"{node.output[0]}.double", stored[weights.input[0]]
            whole = numpy_helper.to_array(tensor)
            part = np.clip(whole, -64, 64)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([part, whole - part], axis=1), tensor.name))
            nodes.append(helper.make_node("Concat", [source.input[0]] * 2, [name], axis=1))
            nodes.append(helper.make_node("DequantizeLinear", [name, *source.input[1:]], [f"{name}.d"]))
            node.input[0] = f"{name}.d"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def speed(name: str, rounds: int) -> dict[str, Any]:
    """CPU time of one inference of every file of a network."""
    graph, model, x = lowered(name, "W8A8")
    narrow, _, _ = lowered(name, "W4A8")
    contents = {"float32": float_onnx(model, x)}
    contents |= {f"W8A8 {kind}": _content(graph, **options) for kind, options in FILES.items()}
    contents |= {f"W4A8 {kind}": _content(narrow, **FILES[kind]) for kind in ("any", "vnni")}
    plain = build_onnx(graph, pack="none", cpu="vnni")
    contents["W8A8 doubled"] = doubled(plain).SerializeToString()
    sessions = {kind: load_session(content) for kind, content in contents.items()}
    same = [sessions[f"W8A8 {kind}"].run(None, {"input": x.numpy()})[0] for kind in ("strict", "doubled")]
    found = time_sessions(sessions, x.numpy(), rounds=rounds)
    base = found["float32"].median_ms
    row = {
        "rounds": rounds,
        "times": {kind: {"median_ms": one.median_ms, "spread_ms": one.spread_ms} for kind, one in found.items()},
        "speedup": {kind: base / one.median_ms for kind, one in found.items()},
        "bytes": {kind: len(content) for kind, content in contents.items()},
        "doubled_is_exact": bool(np.array_equal(*same)),
    }
    print(name, {kind: round(value, 2) for kind, value in row["speedup"].items()}, flush=True)
    return row


def _content(graph: IntegerGraph, **options: Any) -> bytes:
    found: bytes = build_onnx(graph, **options).SerializeToString()
    return found


def accuracy(images: int) -> dict[str, Any]:
    """ResNet-20 of 8 bits, each file on real images; the first of them in the reference executor as well."""
    subject = runs.Subject(
        model="resnet20",
        data=cifar10(),
        weights=shared_data() / "weights" / WEIGHTS,
    )
    task, _ = subject.task()
    x, _ = next(task.train.batches(CALIBRATION_SAMPLES, seed=0, shuffle=True))
    model = task.model.cpu()
    quantize(model, policy_of("W8A8", task.network), task.network)
    calibrate(model, [x])
    graph = lower(model.eval(), task.network, [x], rounding="float32")
    sessions = {kind: load_session(_content(graph, **options)) for kind, options in FILES.items()}
    right, same, exact, total = dict.fromkeys(FILES, 0), dict.fromkeys(FILES, 0), dict.fromkeys(FILES, True), 0
    for batch, labels in numpy_batches(task.test.batches(min(100, images)), images):
        outputs = {kind: session.run(None, {"input": batch})[0] for kind, session in sessions.items()}
        for kind, found in outputs.items():
            right[kind] += int((found.argmax(1) == labels).sum())
            same[kind] += int((found.argmax(1) == outputs["strict"].argmax(1)).sum())
            if total < CHECKED:
                wanted = executor.run(written_graph(graph, **FILES[kind]), batch)
                exact[kind] = exact[kind] and bool(np.array_equal(found, wanted))
        total += len(labels)
    layers = render_onnx(graph, RESULTS / "net.onnx")[1].layers
    row = {
        "images": total,
        "accuracy": {kind: count / total for kind, count in right.items()},
        "same_class_as_strict": {kind: count / total for kind, count in same.items()},
        "equals_reference": {"images": min(CHECKED, total), **exact},
        "narrowed": {one.name: one.narrowed for one in layers if one.narrowed},
        "unsigned": [one.name for one in layers if one.unsigned],
    }
    print({key: row[key] for key in ("images", "accuracy", "same_class_as_strict", "equals_reference")}, flush=True)
    return row


def opened(part: str, given: argparse.Namespace) -> records.Results:
    """Rows of speed, or those of accuracy, which depend on weights and images."""
    common: dict[str, Any] = {"libraries": ("torch", "onnx", "onnxruntime"), "fresh": given.fresh, "smoke": given.smoke}
    if part != "accuracy":
        return records.Results(NAME, settings={"rounds": given.rounds}, **common)
    inputs = {"weights": shared_data() / "weights" / WEIGHTS, "data": cifar10_folder()}
    return records.Results(NAME, inputs=inputs, settings={"images": given.images}, **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=[*NETWORKS, "accuracy"], default=[*NETWORKS, "accuracy"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--images", type=int, default=10_000)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.smoke:
        given.parts, given.rounds = ["resnet8"], 1  # calibration takes longer than a smoke run may: no accuracy in it
    processor = {"cpu": machine_name(), "flags": list(machine_flags())}
    names = {part: {"part": part, "processor": processor} for part in given.parts}
    results = {part: opened(part, given) for part in given.parts}
    for part, of in names.items():
        results[part].plan([of])
    for part, of in names.items():

        def make(part: str = part) -> dict[str, Any]:
            found = accuracy(given.images) if part == "accuracy" else speed(part, given.rounds)
            return {"saturates": runtime_saturates(), **found}

        results[part].row(of, make)


if __name__ == "__main__":
    main()
