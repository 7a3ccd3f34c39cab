"""Integer graphs with the rounding `litert` against LiteRT's reference kernels, on published int8 files.

    pip install -c constraints.txt -e '.[oracles]'
    python benchmarks/litert.py [--networks resnet8 ds-cnn ...] [--inputs N] [--fresh] [--smoke]

Every tensor of the MLPerf Tiny int8 files and of an int8 MobileNetV2 is compared, of the reference executor with
LiteRT's, and of the C on this machine with the executor's. Beside it, the same with one rounding for all operations:
from the input to the end, and one operation at a time on LiteRT's own integers. Inputs are real where there are some.

For linear layers it is also counted how many accumulators, of all that any input could give, round otherwise: LiteRT
multiplies by a float64 there, and the graph by 31 bits.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

import records
from common import ROOT, shared_data
from mixbit.export.c import verify_c
from mixbit.integer import GraphRounding, IntegerGraph
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, change_scale
from mixbit.integer.executor import accumulator_bound, apply, trace

sys.path.insert(0, str(ROOT))
from tests.reference.tflite import Imported, interpret, read

NAME = "litert"
ROUNDINGS: tuple[GraphRounding, ...] = ("litert", "double", "single")
CHUNK = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A file and what it is run on."""

    file: str
    inputs: int
    c_inputs: int
    what: str
    load: Callable[[Imported, int], Array]
    data: str | None
    """Where the inputs are from, in the folder of real data; None for random ones."""


def _loader() -> Any:
    spec = importlib.util.spec_from_file_location("load", shared_data() / "load.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cifar(imported: Imported, count: int) -> Array:
    x, _ = _loader().sheets(str(shared_data() / "cifar10"), "test")
    return x[:: len(x) // count][:count].transpose(0, 3, 1, 2).astype(np.int64) - 128


def _keywords(imported: Imported, count: int) -> Array:
    return np.load(shared_data() / "kws" / "speech_commands_mfcc_int8.npz")["x"][:count, None].astype(np.int64)


def _photographs(imported: Imported, count: int) -> Array:
    (file,) = (shared_data() / "imagenet_ccby").glob("*.npz")
    pictures, _ = _loader().blobs(str(file))
    chosen = [one.convert("RGB").resize((224, 224)) for one in pictures[:: len(pictures) // count][:count]]
    return np.stack([np.asarray(one).transpose(2, 0, 1) for one in chosen]).astype(np.int64)


def _random(imported: Imported, count: int) -> Array:
    return imported.random(count)


CASES = {
    "resnet8": Case(
        file="pretrainedResnet_quant",
        inputs=100,
        c_inputs=100,
        what="CIFAR-10 test images",
        load=_cifar,
        data="cifar10",
    ),
    "ds-cnn": Case(file="kws_ref_model", inputs=500, c_inputs=500, what="keyword features", load=_keywords, data="kws"),
    "mobilenetv1-0.25": Case(file="vww_96_int8", inputs=50, c_inputs=50, what="random", load=_random, data=None),
    "ad-autoencoder": Case(file="ad01_int8", inputs=500, c_inputs=500, what="random", load=_random, data=None),
    "mobilenetv2": Case(
        file="tf2_mobilenet_v2_1.0_224_ptq",
        inputs=10,
        c_inputs=2,
        what="photographs",
        load=_photographs,
        data="imagenet_ccby",
    ),
}


def compared(case: Case, inputs: int) -> dict[str, Any]:
    """Values of one row."""
    path = shared_data() / "tflite" / f"{case.file}.tflite"
    graphs = {rounding: read(path, rounding) for rounding in ROUNDINGS}
    imported = graphs["litert"]
    integers = case.load(imported, inputs)
    tally = {rounding: Counter[str]() for rounding in ROUNDINGS}
    integers_compared = 0
    for at in range(0, len(integers), CHUNK):
        wanted = interpret(path, integers[at : at + CHUNK], imported)
        integers_compared += sum(values.size for values in wanted.values())
        for rounding, other in graphs.items():
            found = trace(other.graph, other.real(integers[at : at + CHUNK]))
            tally[rounding].update(_end_to_end(other, found, wanted))
            tally[rounding].update(_one_by_one(other, wanted))
    checked = verify_c(imported.graph, imported.real(integers[: case.c_inputs]))
    row = {
        "file": f"{case.file}.tflite",
        "of": case.what,
        "layers": len(imported.indices) - 1,
        "integers": integers_compared,
        "differences": {rounding: dict(count) for rounding, count in tally.items()},
        "linear_accumulators_that_round_otherwise": sum(_otherwise(imported.graph)),
        "c": {**asdict(checked), "exact": checked.exact},
    }
    print({key: value for key, value in row.items() if key != "c"}, checked.exact, flush=True)
    return row


def _end_to_end(imported: Imported, found: dict[str, Array], wanted: dict[str, Array]) -> dict[str, int]:
    """From the input on: integers of all tensors, inputs with any, and inputs with a different last tensor."""
    differs = {name: found[name] != wanted[name] for name in imported.indices}
    last = differs[list(imported.indices)[-1]]
    samples = np.stack([values.reshape(len(values), -1).any(axis=1) for values in differs.values()])
    return {
        "integers": sum(int(values.sum()) for values in differs.values()),
        "inputs": int(samples.any(axis=0).sum()),
        "inputs_with_other_output": int(last.reshape(len(last), -1).any(axis=1).sum()),
    }


def _one_by_one(imported: Imported, wanted: dict[str, Array]) -> dict[str, int]:
    """Each operation on LiteRT's integers: how many of its results differ, by kind."""
    found: Counter[str] = Counter()
    for op in imported.graph.ops:
        if op.output in wanted and all(name in wanted for name in op.inputs) and not isinstance(op, g.QuantizeInput):
            result = apply(imported.graph, op, *(wanted[name] for name in op.inputs))
            depthwise = isinstance(op, g.Conv) and op.is_depthwise
            found[f"{'Depthwise' if depthwise else op.kind} alone"] += int((result != wanted[op.output]).sum())
    return dict(found)


def _otherwise(graph: IntegerGraph) -> list[int]:
    """By linear layer: accumulators within its bound that a float64 factor, ties away from zero, rounds otherwise.

    Both are monotone, so they can only part beside a tie; all accumulators beside all ties of 8 bits are tried.
    """
    counts = []
    for op in graph.weighted():
        result = graph.tensors[op.output].grid
        if not isinstance(op, g.Linear) or result is None:
            continue
        factors = np.unique(graph.unit(op) / result.scale)[:, None, None]
        ties = np.arange(-256, 256)[:, None] + 0.5
        acc = np.floor(ties / factors).astype(np.int64) + np.arange(-3, 5)
        exact = np.sign(acc) * np.floor(np.abs(acc * factors) + 0.5)
        wrong = change_scale(acc, np.broadcast_to(factors, acc.shape), "away") != exact
        counts.append(int((wrong & (np.abs(acc) <= accumulator_bound(graph, op))).sum()))
    return counts


def results_of(case: Case, given: argparse.Namespace) -> records.Results:
    """Rows that depend on the file of this network and on its inputs."""
    inputs = {"file": shared_data() / "tflite" / f"{case.file}.tflite"}
    inputs |= {"data": shared_data() / case.data} if case.data else {}
    return records.Results(
        NAME,
        table="networks",
        inputs=inputs,
        libraries=("ai-edge-litert", "numpy"),
        fresh=given.fresh,
        smoke=given.smoke,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--inputs", type=int, help="instead of each network's own number")
    records.arguments(parser)
    given = parser.parse_args()
    if given.smoke:
        given.networks, given.inputs = ["ad-autoencoder"], 2
    rows = []
    for name in given.networks:
        case, results = CASES[name], results_of(CASES[name], given)
        of = {"network": name, "inputs": given.inputs or case.inputs}
        results.plan([of])
        rows.append((results, case, of))
    for results, case, of in rows:
        results.row(of, lambda case=case, of=of: compared(case, of["inputs"]))  # type: ignore[misc]
    results.facts(runtime=f"ai-edge-litert {version('ai-edge-litert')}, BUILTIN_REF")


if __name__ == "__main__":
    main()
