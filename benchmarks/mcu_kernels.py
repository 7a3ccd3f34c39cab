"""Instructions of one product on emulated Cortex-M cores, by kernel and bits of the weights.

Each row is one layer of a small network, between the quantizer of the input and a linear layer, run under QEMU and
counted by SysTick. The first convolution is that of the goals: 3x3, 32 to 32 channels, at 16x16.

    python benchmarks/mcu_kernels.py [--code] [--cmsis-nn DIR] [--fresh | --smoke]

`--code` measures the bytes of code by which flash is predicted, for the kernels of cores with the DSP extension.
`--cmsis-nn` adds the first convolution as CMSIS-NN computes it, compiled from that folder with the same flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import records
from mixbit._bits import WEIGHT_BITS
from mixbit.export import c
from mixbit.export.c import COptions
from mixbit.export.c._emit import WIDE, config_text
from mixbit.export.c._program import build_program
from mixbit.export.mcu import count, find_board, verify_board
from mixbit.export.mcu._tools import COMPILER, EMULATOR, version_of
from mixbit.export.mcu.image import compile_sources, section_sizes
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Grid
from mixbit.integer.graph import IntegerGraph, Tensor

SEED = 0
KERNELS = Path(c.__file__).parent / "kernels"
PLAIN = ("mixbit_conv", "mixbit_depthwise", "mixbit_linear")
GOALS = {8: 2.0, 4: 2.3, 2: 2.6}
PEERS = {"CMSIS-NN": {8: 1.93, 4: 3.68}, "our first sketch": {8: 2.68, 4: 2.84, 2: 5.45}}
"""Of the same convolution on the same emulated core, measured when the project was planned."""
CMSIS_NN = "cmsis-nn"

CONV = {"channels": 32, "outputs": 32, "kernel": 3, "size": 16}
SHAPES: dict[str, dict[str, int]] = {
    "3x3, 32 to 32, 16x16": CONV,
    "3x3, 16 to 16, 32x32": {"channels": 16, "outputs": 16, "kernel": 3, "size": 32},
    "1x1, 64 to 64, 16x16": {"channels": 64, "outputs": 64, "kernel": 1, "size": 16},
    "3x3 depthwise, 64, 16x16": {"channels": 64, "outputs": 64, "kernel": 3, "size": 16, "groups": 64},
    "linear, 640 to 128": {"channels": 640, "outputs": 128, "kernel": 1, "size": 1},
}


def single_layer(
    *, bits: int, channels: int, outputs: int, kernel: int, size: int, groups: int = 1, rounding: Any = "single"
) -> IntegerGraph:
    """Quantizer, one layer with random weights, and a linear layer of one output at the end."""
    random = np.random.default_rng(SEED)
    grid = Grid(scale=1 / 32, zero_point=0, qmin=-128, qmax=127)
    half, linear = 1 << (bits - 1), size == 1
    weight_shape = (outputs, channels) if linear else (outputs, channels // groups, kernel, kernel)
    shape, result = ((channels,), (outputs,)) if linear else ((channels, size, size), (outputs, size, size))
    features = math.prod(result)
    # The result fills its grid: a sum of n products of uniform numbers spreads as sqrt(n).
    spread = math.sqrt(math.prod(weight_shape[1:])) * half * 74 / math.sqrt(3)
    common: dict[str, Any] = {
        "weight": random.integers(-half, half, weight_shape).astype(np.int8),
        "weight_bits": bits,
        "weight_scale": np.full(outputs, 40 / spread, np.float32),
        "bias": random.integers(-half * 50, half * 50, outputs).astype(np.int32),
        "shift": 0,
        "clamp": None,
        "rounding": rounding,
        "name": "layer",
        "inputs": ("xq",),
        "output": "y",
    }
    layer: g.Op = g.Linear(**common)
    if not linear:
        pad = kernel // 2
        layer = g.Conv(**common, stride=(1, 1), padding=((pad, pad),) * 2, dilation=(1, 1), groups=groups)
    last = common | {
        "weight": np.ones((1, features), np.int8),
        "weight_bits": 2,
        "weight_scale": np.ones(1, np.float32),
        "bias": np.zeros(1, np.int32),
        "name": "last",
        "inputs": ("flat",),
        "output": "logits",
    }
    tensors = {
        "x": Tensor(name="x", shape=shape, grid=None, source="float"),
        "xq": Tensor(name="xq", shape=shape, grid=grid, source="trained"),
        "y": Tensor(name="y", shape=result, grid=grid, source="trained"),
        "flat": Tensor(name="flat", shape=(features,), grid=grid, source="trained"),
        "logits": Tensor(name="logits", shape=(1,), grid=None, source="float"),
    }
    ops: tuple[g.Op, ...] = (
        g.QuantizeInput(name="quantize", inputs=("x",), output="xq"),
        layer,
        g.Reshape(name="flatten", inputs=("y",), output="flat"),
        g.Linear(**last),
    )
    return IntegerGraph(input="x", output="logits", tensors=tensors, ops=ops, fingerprint="sha256:0123456789abcdef")


def measure(core: str, kernels: Any, shape: dict[str, int], bits: int, checkout: str | None) -> dict[str, Any]:
    """One row: counted, and compared with the reference executor."""
    graph, options = single_layer(bits=bits, **shape), COptions(kernels=kernels if kernels != CMSIS_NN else "dsp")
    if kernels == CMSIS_NN:
        options = dataclasses.replace(options, cmsis_nn=checkout)
    found = count(graph, board=core, options=options)
    samples = np.random.default_rng(SEED).standard_normal((2, *graph.tensors["x"].shape)).astype(np.float32)
    layer = next(one for one in found.layers if one.name == "layer")
    assert (layer.kernel == "mixbit_cmsis_conv") == (kernels == CMSIS_NN)
    return {
        "macs": layer.macs,
        "instructions": layer.instructions,
        "per_mac": round(layer.instructions / layer.macs, 3),
        "exact": verify_board(graph, samples, board=core, options=options).exact,
    }


def plan() -> list[tuple[str, Any, str, int]]:
    """Core, kernels, shape and bits of every row."""
    first = next(iter(SHAPES))
    rows = [("cortex-m4", kernels, first, bits) for kernels in ("dsp", "plain") for bits in (8, 7, 6, 5, 4, 3, 2)]
    rows += [("cortex-m4", "dsp", shape, bits) for shape in list(SHAPES)[1:] for bits in (8, 4, 2)]
    return rows + [
        (core, kernels, first, bits)
        for core, kernels in (("cortex-m3", "plain"), ("cortex-m7", "dsp"), ("cortex-m55", "dsp"))
        for bits in (8, 4, 2)
    ]


def code() -> None:
    """Measure the part `dsp` of `code_bytes.json`; what is there of other kernels stays."""
    files = ("mixbit_conv_dsp", "mixbit_depthwise_dsp", "mixbit_linear_dsp", "mixbit_rows_dsp")

    def row(*switches: str) -> dict[str, int]:
        """Of the plain files, what the others use: the plain kernels themselves are not compiled."""
        rest = _code_bytes("mixbit_rows", set(switches), functions=("unpack", "trim"))
        own = {name: _code_bytes(name, set(switches)) for name in files}
        return dict.fromkeys(PLAIN, 0) | own | {"mixbit_rows": rest}

    packing, twice = ((), ("MIXBIT_PACKED_ACTIVATIONS",)), ((), ("MIXBIT_ROUNDING_DOUBLE",))
    kernels = {
        f"double={double} packed={packed}": row(*twice[double], *packing[packed])
        for double, packed in itertools.product((0, 1), (0, 1))
    }
    wide = {f"packed={packed}": row(WIDE, *packing[packed]) for packed in (0, 1)}
    bare = _code_bytes("mixbit_rows_dsp", set())
    widths = {str(bits): _code_bytes("mixbit_rows_dsp", {f"MIXBIT_WEIGHTS_{bits}"}) - bare for bits in WEIGHT_BITS}
    path = KERNELS.parent / "code_bytes.json"
    found = {"kernels": kernels, "weights": widths, "wide": wide}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dsp": found}, indent=1) + "\n")
    print(path)


def _code_bytes(name: str, switches: set[str], functions: tuple[str, ...] = ("",)) -> int:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "mixbit_config.h").write_text(config_text(switches, dsp=True))
        board, into = find_board("cortex-m4"), Path(folder, "objects")
        (target,) = compile_sources([KERNELS / f"{name}.c"], board, into=into, include=[Path(folder), KERNELS])
        sizes = section_sizes(target)
    return sum(
        size
        for section, size in sizes.items()
        if section.startswith((".text", ".rodata")) and any(one in section for one in functions)
    )


def main() -> None:
    """Measure what is missing, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", action="store_true", help="bytes of code instead")
    parser.add_argument("--cmsis-nn", type=Path, metavar="DIR", help="a checkout of CMSIS-NN, to count beside ours")
    records.arguments(parser)
    given = parser.parse_args()
    if given.code:
        return code()
    checkout = None if given.cmsis_nn is None else str(given.cmsis_nn.resolve())
    # The path of a checkout is that of one machine.
    sys.argv = ["DIR" if one == str(given.cmsis_nn) else one for one in sys.argv]
    tools = {"gcc": version_of(COMPILER), "qemu": version_of(EMULATOR), "flags": "-O2, -icount shift=0"}

    def opened(**more: Any) -> records.Results:
        """Rows of CMSIS-NN depend on its sources as well."""
        settings = {"tools": tools, "seed": SEED, **more}
        return records.Results(
            "mcu_kernels", settings=settings, libraries=("numpy",), fresh=given.fresh, smoke=given.smoke
        )

    extra = [("cortex-m4", CMSIS_NN, next(iter(SHAPES)), 8)] if checkout else []
    rows = plan()[-1:] if given.smoke else [*plan(), *extra]
    names = [dict(zip(("core", "kernels", "layer", "bits"), row, strict=True)) for row in rows]
    theirs = {"cmsis_nn": _sources(checkout)} if checkout else {}
    ours, other = opened(), opened(**theirs)
    ours.plan(names)
    ours.facts(tools=tools, goals=GOALS, peers=PEERS, **theirs)
    for of in names:
        results = other if of["kernels"] == CMSIS_NN else ours

        def make(of: dict[str, Any] = of) -> dict[str, Any]:
            return measure(of["core"], of["kernels"], SHAPES[of["layer"]], of["bits"], checkout)

        row = results.row(of, make)
        name = f"{of['core']:11} {of['kernels']:8} {of['layer']:26} {of['bits']} bits"
        print(f"{name}: {row['per_mac']:6.3f} instructions/MAC, exact: {row['exact']}")


def _sources(checkout: str) -> dict[str, str]:
    """File of CMSIS-NN that was compiled -> the start of its SHA-256."""
    found = build_program(single_layer(bits=8, **CONV), COptions(cmsis_nn=checkout)).cmsis_nn
    assert found is not None
    folder = Path(checkout, "Source")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in found.sources}


if __name__ == "__main__":
    main()
