"""Networks as C: exactness on real images and on random graphs, and bytes predicted against compiled ones.

    python benchmarks/export_c.py [--parts exact boards random sizes] [--images 1000] [--graphs 200] [--fresh | --smoke]
    python benchmarks/export_c.py --parts exact boards --runs NAME=DIR
    python benchmarks/export_c.py --parts code

`exact` takes trained run folders, or else the pretrained CIFAR-10 ResNet-20, calibrated under uniform policies
(`W8A8`) or trained under one for an epoch (`trained-W4A4`), and compares all logits and every layer's bytes of test
images with the reference executor, on this machine.
`boards` does so on emulated cores, with the kernels that each of them has (needs `make setup-mcu`). `random` draws
integer graphs (odd channels and sizes, strides, dilation, groups, few and many bits, extreme zero points), and others
under sanitizers. `sizes` compiles for Cortex-M4. Each row is written when it is done; those that the result file has
are reused, and what is not asked for stays.

`code` measures the table of code bytes that `mixbit.export.c.footprint` uses, and writes it into the package.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import export_onnx
import records
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import runs
from mixbit._bits import WEIGHT_BITS
from mixbit.cost import costs
from mixbit.export.c import COptions, verify_c, write_c
from mixbit.export.c._emit import ALL_SWITCHES, WIDE, config_text
from mixbit.export.c.host import compile_kernels
from mixbit.export.mcu import verify_board
from mixbit.export.mcu._tools import COMPILER, EMULATOR, version_of
from mixbit.export.verify import numpy_batches
from mixbit.integer import IntegerGraph, Rounding, lower
from mixbit.policy import Policy
from mixbit.quantization import CALIBRATION_SAMPLES, calibrate, quantize
from mixbit.runs import _folder
from mixbit.runs._trained import open_run
from mixbit.task import Task

NAME = "export_c"
PACKAGE = ROOT / "src" / "mixbit" / "export" / "c"
POLICIES = ("W8A8", "W4A8", "W4A4", "W2A4")
ROUNDINGS: tuple[Rounding, ...] = ("single", "double")
ARM = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"]
CHUNK = 250
CORES = ("cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55")
WEIGHTS = "cifar10_resnet20_akamaster.safetensors"
TRAINED, EPOCHS = "trained-", 1
"""Prefix of a policy under which the network is trained first, and for how long."""


@dataclass(frozen=True)
class Made:
    """A network as integers."""

    graph: IntegerGraph
    task: Task
    budget: int
    """Activation bytes of its policy."""

    def images(self, count: int) -> Any:
        """The first test images."""
        return np.concatenate([x for x, _ in numpy_batches(self.task.test.batches(min(CHUNK, count)), count)])


@dataclass
class Source:
    """Where networks come from: pretrained and calibrated under uniform policies, or run folders, in both roundings."""

    policies: tuple[str, ...]
    folders: dict[str, Path]
    roundings: tuple[Rounding, ...] = ROUNDINGS
    _last: tuple[str, Made] | None = field(default=None, init=False)

    def names(self) -> dict[str, tuple[str, Rounding]]:
        """Name of a network -> policy or run, and rounding."""
        pairs = itertools.product(self.folders or self.policies, self.roundings)
        return {f"{name}-{rounding}": (name, rounding) for name, rounding in pairs}

    def inputs(self, name: str) -> dict[str, Path]:
        """What goes into a network of that name."""
        policy, _ = self.names()[name]
        weights = self.folders[policy] / _folder.WEIGHTS if self.folders else shared_data() / "weights" / WEIGHTS
        return {"weights": weights, "data": cifar10_folder()}

    def made(self, name: str) -> Made:
        """The network of that name; the last one is kept, since several rows ask for it."""
        if self._last is None or self._last[0] != name:
            policy, rounding = self.names()[name]
            folder = self.folders.get(policy)
            if policy.startswith(TRAINED):
                folder = export_onnx.trained(policy.removeprefix(TRAINED), EPOCHS)
            made = self._calibrated(policy, rounding) if folder is None else self._trained(folder, rounding)
            self._last = name, made
        return self._last[1]

    @cached_property
    def _task(self) -> Task:
        subject = runs.Subject(
            model="resnet20",
            data=cifar10(),
            weights=shared_data() / "weights" / WEIGHTS,
        )
        return subject.task()[0]

    def _calibrated(self, name: str, rounding: Rounding) -> Made:
        task = self._task
        x, _ = next(task.train.batches(CALIBRATION_SAMPLES, seed=0, shuffle=True))
        model, policy = copy.deepcopy(task.model), Policy.uniform(task.network, int(name[1]), int(name[3]))
        quantize(model, policy, task.network)
        calibrate(model, [x])
        graph = lower(model.eval(), task.network, [x], rounding=rounding)
        return Made(graph, task, costs(task.network, policy.layers).activation_bytes)

    def _trained(self, folder: Path, rounding: Rounding) -> Made:
        run = open_run(folder)
        assert run.policy is not None, f"{folder} was trained in float"
        x, _ = next(run.task.train.batches(CALIBRATION_SAMPLES, seed=run.subject.seed, shuffle=True))
        graph = lower(copy.deepcopy(run.task.model), run.task.network, [x], rounding=rounding)
        return Made(graph, run.task, costs(run.task.network, run.policy.layers).activation_bytes)


def exact(made: Made, packed: bool, images: int) -> dict[str, Any]:
    """All logits and every layer on test images, with activations in bytes or packed."""
    options, x = COptions(pack_activations=packed), made.images(images)
    found = verify_c(made.graph, x, options=options)
    with tempfile.TemporaryDirectory() as folder:
        footprint = write_c(made.graph, Path(folder) / "net", options=options, samples=x[:1]).footprint
    row = {**asdict(found), "exact": found.exact, "footprint": asdict(footprint)}
    print(packed, found.exact, f"{found.seconds:.1f} s", footprint.arena_bytes, made.budget, flush=True)
    return row | {"budget_activation_bytes": made.budget}


def board(made: Made, core: str, images: int) -> dict[str, Any]:
    """All logits and every layer on an emulated core."""
    found = verify_board(made.graph, made.images(images), board=core, options=COptions(kernels="dsp"))
    row = {"board": found.board, "exact": found.exact, "samples": found.samples, "layers": found.layers}
    row |= {"identical_layers": found.identical_layers, "identical_outputs": found.identical_outputs}
    print(core, found.exact, found.identical_layers, flush=True)
    return row | {"first_difference": found.first_difference}


def size(made: Made, packed: bool) -> dict[str, Any]:
    """Flash and RAM as predicted and as compiled for Cortex-M4."""
    with tempfile.TemporaryDirectory() as folder:
        written = write_c(made.graph, Path(folder) / "net", options=COptions(pack_activations=packed))
        flash, data, ram = _compiled(written.path)
    predicted = written.footprint
    row = {"flash_bytes": flash, "ram_bytes": ram + data}
    row |= {"predicted_flash_bytes": predicted.flash_bytes, "predicted_ram_bytes": predicted.ram_bytes}
    row |= {"weight_padding_bytes": sum(layer.padding_bytes for layer in written.layers)}
    print(packed, flash, predicted.flash_bytes, ram, predicted.ram_bytes, made.budget, flush=True)
    return row | {"footprint": asdict(predicted), "budget_activation_bytes": made.budget}


def random_graphs(seeds: range, *, sanitize: bool) -> dict[str, Any]:
    """Integer graphs that no network has, in turn with both roundings."""
    sys.path.insert(0, str(ROOT))
    from tests.export.graphs import random_graph, rounded

    wrong, layers, ops = [], 0, dict[str, int]()
    with tempfile.TemporaryDirectory() as folder:
        objects = compile_kernels(Path(folder), sanitize=sanitize, flags=("-O1",))
        for seed in seeds:
            graph = random_graph(seed, steps=4 + seed % 5, spatial=1 + int(seed % 3 > 0))
            graph = rounded(graph, ROUNDINGS[seed % 2])
            shape = graph.tensors[graph.input].shape
            x = 2 * np.random.default_rng(seed).standard_normal((4, *shape)).astype(np.float32)
            options = COptions(pack_activations=bool(seed // 2 % 2), row_alignment=(1, 4)[seed // 4 % 2])
            one = verify_c(graph, x, options=options, sanitize=sanitize, objects=objects, flags=("-O1",))
            layers += one.layers
            wrong += [] if one.exact else [{"seed": seed, "first": one.first_difference}]
            for op in graph.ops:
                ops[op.kind] = ops.get(op.kind, 0) + 1
    print(len(seeds), "graphs, wrong:", wrong, flush=True)
    return {"graphs": len(seeds), "inputs_each": 4, "layers": layers, "operations": ops, "wrong": wrong}


def _compiled(folder: Path) -> tuple[int, int, int]:
    target = ["CROSS=arm-none-eabi-", f"CPU={' '.join(ARM[1:])}"]
    subprocess.run(["make", "-s", "library", *target], cwd=folder, check=True)
    text, data, bss = _size(folder / "build" / "libmodel.a")
    return text, data, bss


def _size(path: Path) -> tuple[int, int, int]:
    """Bytes of text (with constants), data and zeroed data, summed over objects."""
    command = ["arm-none-eabi-size", "-t", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text, data, bss = map(int, listing.splitlines()[-1].split()[:3])
    return text, data, bss


# ------------------------------------------------------------------------------------------------ table of code bytes


def code() -> None:
    """Measure `code_bytes.json`; what other kernels have there stays."""
    names = sorted(path.stem for path in (PACKAGE / "kernels").glob("*.c") if not path.stem.endswith(("_dsp", "_wide")))
    rows = {bits: _kernel("mixbit_rows", {f"MIXBIT_WEIGHTS_{bits}"}) for bits in WEIGHT_BITS}
    bare = _kernel("mixbit_rows", set())
    kernels = {}
    for double, packed in itertools.product((0, 1), (0, 1)):
        chosen = {"MIXBIT_ROUNDING_DOUBLE"} if double else set()
        chosen |= {"MIXBIT_PACKED_ACTIVATIONS"} if packed else set()
        kernels[f"double={double} packed={packed}"] = {
            name: _kernel(name, chosen | ({"MIXBIT_WEIGHTS_8"} if name == "mixbit_rows" else set())) for name in names
        }
    for table in kernels.values():
        table["mixbit_rows"] -= rows[8] - bare
    wide = {f"packed={packed}": _wide(packed, names, rows[8] - bare) for packed in (0, 1)}
    double = {"MIXBIT_ROUNDING_DOUBLE", "MIXBIT_WEIGHTS_8"}
    away = {name: _kernel(name, double | {"MIXBIT_ROUNDING_AWAY"}) - _kernel(name, double) for name in names}
    model, call = _network()
    path = PACKAGE / "code_bytes.json"
    old = json.loads(path.read_text())
    weights = {str(bits): found - bare for bits, found in rows.items()}
    extra = {name: found for name, found in away.items() if found}
    unpack = _kernel("mixbit_rows", {"MIXBIT_UNPACK_1"}) - bare
    new = old | {"kernels": kernels, "away": extra, "weights": weights, "model": model, "call": call, "wide": wide}
    new |= {"unpack_1": unpack}
    path.write_text(json.dumps(new, indent=1) + "\n")
    print(path)


def _wide(packed: int, names: Iterable[str], row: int) -> dict[str, int]:
    """Kernels of a network with tensors of 16 bits, which LiteRT's rounding does not have."""
    chosen = {WIDE} | ({"MIXBIT_PACKED_ACTIVATIONS"} if packed else set())
    found = {name: _kernel(name, chosen | {"MIXBIT_WEIGHTS_8"}) for name in (*names, "mixbit_wide")}
    return found | {"mixbit_rows": found["mixbit_rows"] - row}


def _kernel(name: str, switches: set[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "mixbit_config.h").write_text(config_text(switches & {*ALL_SWITCHES, WIDE}))
        source, target = PACKAGE / "kernels" / f"{name}.c", Path(folder, "kernel.o")
        command = [*ARM, "-std=c99", "-O2", f"-I{folder}", f"-I{source.parent}", "-c", str(source), "-o", str(target)]
        subprocess.run([*command, "-ffunction-sections", "-fdata-sections"], check=True)
        return _size(target)[0]


def _network() -> tuple[int, int]:
    """Code of model.c: what is always there, and what each call adds, from networks of two depths."""
    sys.path.insert(0, str(ROOT))
    from tests.export.graphs import resnet_cifar, rounded

    found = []
    for blocks in (1, 3):
        graph = rounded(resnet_cifar(blocks=blocks, weight_bits=8, bits=8), "single")
        with tempfile.TemporaryDirectory() as folder:
            written = write_c(graph, Path(folder) / "net")
            _compiled(written.path)
            command = ["arm-none-eabi-size", "-A", str(written.path / "build" / "model.o")]
            listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = [line.split() for line in listing.splitlines() if line.startswith(".text.")]
        found.append((len(written.layers), sum(int(line[1]) for line in lines)))
    (few, small), (many, large) = found
    call = (large - small) / (many - few)
    return round(small - few * call), round(call)


def host_compiler() -> str:
    """Name and version of what compiles for this machine; empty where there is none."""
    path = shutil.which("gcc") or shutil.which("cc")
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout if path else ""
    return told.partition("\n")[0]


def opened(part: str, given: argparse.Namespace, **depends: Any) -> records.Results:
    """The rows of one part."""
    return records.Results(
        NAME, table=part, libraries=("torch", "numpy"), fresh=given.fresh, smoke=given.smoke, **depends
    )


def rows_of(
    part: str,
    given: argparse.Namespace,
    settings: dict[str, Any],
    more: list[dict[str, Any]],
    make: Callable[[Made, dict[str, Any]], dict[str, Any]],
) -> None:
    """Every network of the command line with every one of `more`, which stands in its rows' names."""
    source = Source(tuple(given.policies), given.folders, ROUNDINGS[: 1 if given.smoke else None])
    results = {}
    for name in source.names():
        own = {**settings, **({"epochs": EPOCHS} if name.startswith(TRAINED) and not given.folders else {})}
        results[name] = opened(part, given, settings=own, inputs=source.inputs(name))
        results[name].plan([{"network": name, **one} for one in more])
    for name, one in itertools.product(results, more):
        results[name].row({"network": name, **one}, lambda name=name, one=one: make(source.made(name), one))  # type: ignore[misc]


def all_random(given: argparse.Namespace) -> None:
    """`--graphs` graphs, and `--sanitized` others under sanitizers."""
    parts = {"random.plain": (range(given.graphs), False)}
    parts |= {} if given.smoke else {"random.sanitized": (range(1000, 1000 + given.sanitized), True)}
    settings = {path: {"compiler": host_compiler(), "graphs": len(seeds)} for path, (seeds, _) in parts.items()}
    results = {path: opened("", given, settings=settings[path]) for path in parts}
    for path, one in results.items():
        one.plan([path])
    for path, (seeds, sanitize) in parts.items():
        results[path].part(path, lambda seeds=seeds, sanitize=sanitize: random_graphs(seeds, sanitize=sanitize))  # type: ignore[misc]


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    legal = ["exact", "boards", "random", "sizes", "code"]
    parser.add_argument("--parts", nargs="+", choices=legal, default=legal[:4])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--board-images", type=int, default=20, help="on each emulated core")
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--sanitized", type=int, default=20, help="random graphs under sanitizers")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--runs", nargs="+", metavar="NAME=DIR", help="trained run folders, instead of calibration")
    records.arguments(parser)
    given = parser.parse_args()
    given.folders = {name: Path(folder) for name, folder in (pair.split("=", 1) for pair in given.runs or ())}
    given.cores = CORES
    if given.smoke:
        given.images, given.board_images, given.graphs, given.sanitized = 1, 1, 2, 1
        given.policies, given.folders, given.cores = ["W8A8"], {}, CORES[1:2]
        given.parts = [
            "exact",
            "random",
        ]  # compiling and emulation take most: mcu_kernels.py and mlperf_tiny.py do them
    return given


def main() -> None:
    given = arguments()
    both = [{"packed_activations": packed} for packed in (False, True)][: 1 if given.smoke else None]
    if "code" in given.parts:
        code()
    if "exact" in given.parts:
        settings = {"images": given.images, "compiler": host_compiler()}
        rows_of("exact", given, settings, both, lambda made, one: exact(made, one["packed_activations"], given.images))
    if "boards" in given.parts:
        settings = {"images": given.board_images, "gcc": version_of(COMPILER), "qemu": version_of(EMULATOR)}
        cores = [{"core": core} for core in given.cores]
        rows_of("boards", given, settings, cores, lambda made, one: board(made, one["core"], given.board_images))
    if "random" in given.parts:
        all_random(given)
    if "sizes" in given.parts:
        settings = {"gcc": version_of(COMPILER), "flags": "-O2"}
        rows_of("sizes", given, settings, both, lambda made, one: size(made, one["packed_activations"]))


if __name__ == "__main__":
    main()
