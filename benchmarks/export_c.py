"""Networks as C: exactness on real images and on random graphs, and bytes predicted against compiled ones.

    python benchmarks/export_c.py [--parts exact boards random sizes] [--images 1000] [--graphs 200]
    python benchmarks/export_c.py --parts exact boards --runs NAME=DIR
    python benchmarks/export_c.py --parts code

`exact` takes trained run folders, or else the pretrained CIFAR-10 ResNet-20, calibrated under uniform policies and not
trained, and compares all logits and every layer's bytes of test images with the reference executor, on this machine.
`boards` does so on emulated cores, with the kernels that each of them has (needs `make setup-mcu`). `random` draws
integer graphs (odd channels and sizes, strides, dilation, groups, few and many bits, extreme zero points), and others
under sanitizers. `sizes` compiles for Cortex-M4. Parts that are not asked for keep what the result file has; rows of
networks that are made again replace those of the same name.

`code` measures the table of code bytes that `mixbit.export.c.predict` uses, and writes it into the package.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common import ROOT, result, shared_data, unpacked_data, write_result
from mixbit import runs
from mixbit.cost import costs
from mixbit.export import IntegerGraph, Rounding, lower
from mixbit.export.c import COptions, verify_c, write_c
from mixbit.export.c._emit import ALL_SWITCHES, config_text
from mixbit.export.c.host import compile_kernels
from mixbit.export.mcu import verify_board
from mixbit.export.verify import numpy_batches
from mixbit.policy import Policy
from mixbit.quantize import calibrate, quantize
from mixbit.runs._trained import open_run
from mixbit.runs.training import CALIBRATION_SAMPLES

NAME = "export_c"
PACKAGE = ROOT / "src" / "mixbit" / "export" / "c"
POLICIES = ("W8A8", "W4A8", "W4A4", "W2A4")
ROUNDINGS: tuple[Rounding, ...] = ("single", "double")
ARM = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"]
CHUNK = 250
CORES = ("cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55")


def calibrated(policies: tuple[str, ...]) -> Iterator[tuple[str, IntegerGraph, Any, int]]:
    """The pretrained network under uniform policies: name, graph, task, and the budget's activation bytes."""
    subject = runs.Subject(
        model="resnet20",
        data=f"cifar10:{unpacked_data().resolve()}",
        weights=shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors",
    )
    task, _ = subject.task()
    x, _ = next(task.train.batches(CALIBRATION_SAMPLES, seed=0, shuffle=True))
    for name, rounding in itertools.product(policies, ROUNDINGS):
        model = copy.deepcopy(task.model)
        policy = Policy.uniform(task.network, int(name[1]), int(name[3]))
        quantize(model, policy, task.network)
        calibrate(model, [x])
        graph = lower(model.eval(), task.network, [x], rounding=rounding)
        yield f"{name}-{rounding}", graph, task, costs(task.network, policy.layers).activation_bytes


def trained(folders: dict[str, Path]) -> Iterator[tuple[str, IntegerGraph, Any, int]]:
    """Run folders, with both roundings."""
    for (name, folder), rounding in itertools.product(folders.items(), ROUNDINGS):
        run = open_run(folder)
        x, _ = next(run.task.train.batches(CALIBRATION_SAMPLES, seed=run.subject.seed, shuffle=True))
        graph = lower(copy.deepcopy(run.task.model), run.task.network, [x], rounding=rounding)
        yield f"{name}-{rounding}", graph, run.task, costs(run.task.network, run.policy.layers).activation_bytes


def exact(networks: Iterator[tuple[str, IntegerGraph, Any, int]], images: int) -> Iterator[dict[str, Any]]:
    """All logits and every layer on test images, with activations in bytes and packed."""
    for name, graph, task, budget in networks:
        x = np.concatenate([x for x, _ in numpy_batches(task.test.batches(CHUNK), images)])
        for packed in (False, True):
            options = COptions(pack_activations=packed)
            found = verify_c(graph, x, options=options)
            with tempfile.TemporaryDirectory() as folder:
                footprint = write_c(graph, Path(folder) / "net", options=options, samples=x[:1]).footprint
            row = {"network": name, "packed_activations": packed, **asdict(found), "exact": found.exact}
            row |= {"footprint": asdict(footprint), "budget_activation_bytes": budget}
            print(name, packed, found.exact, f"{found.seconds:.1f} s", footprint.arena_bytes, budget, flush=True)
            yield row


def boards(networks: Iterator[tuple[str, IntegerGraph, Any, int]], images: int) -> Iterator[dict[str, Any]]:
    """All logits and every layer on emulated cores."""
    for name, graph, task, _ in networks:
        x = np.concatenate([x for x, _ in numpy_batches(task.test.batches(images), images)])
        for core in CORES:
            found = verify_board(graph, x, board=core, options=COptions(kernels="dsp"))
            row = {"network": name, "core": core, "board": found.board, "exact": found.exact}
            row |= {"samples": found.samples, "layers": found.layers, "identical_layers": found.identical_layers}
            row |= {"identical_outputs": found.identical_outputs, "first_difference": found.first_difference}
            print(name, core, found.exact, found.identical_layers, flush=True)
            yield row


def random_graphs(count: int, sanitized: int) -> dict[str, Any]:
    """`count` graphs, and `sanitized` others under sanitizers."""
    sys.path.insert(0, str(ROOT))
    from tests.export.graphs import random_graph, rounded

    found: dict[str, Any] = {}
    for name, seeds, sanitize in (("plain", range(count), False), ("sanitized", range(1000, 1000 + sanitized), True)):
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
        found[name] = {"graphs": len(seeds), "inputs_each": 4, "layers": layers, "operations": ops, "wrong": wrong}
        print(name, {key: value for key, value in found[name].items() if key != "operations"}, flush=True)
    return found


def sizes(networks: Iterator[tuple[str, IntegerGraph, Any, int]]) -> Iterator[dict[str, Any]]:
    """Flash and RAM as predicted and as compiled for Cortex-M4."""
    for name, graph, _, budget in networks:
        for packed in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                written = write_c(graph, Path(folder) / "net", options=COptions(pack_activations=packed))
                flash, data, ram = _compiled(written.path)
            predicted = written.footprint
            padding = sum(layer.padding_bytes for layer in written.layers)
            row = {"network": name, "packed_activations": packed, "flash_bytes": flash, "ram_bytes": ram + data}
            row |= {"predicted_flash_bytes": predicted.flash_bytes, "predicted_ram_bytes": predicted.ram_bytes}
            row |= {"weight_padding_bytes": padding, "footprint": asdict(predicted), "budget_activation_bytes": budget}
            print(name, packed, flash, predicted.flash_bytes, ram, predicted.ram_bytes, budget, flush=True)
            yield row


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
    names = sorted(path.stem for path in (PACKAGE / "kernels").glob("*.c") if not path.stem.endswith("_dsp"))
    rows = {bits: _kernel("mixbit_rows", {f"MIXBIT_WEIGHTS_{bits}"}) for bits in range(2, 9)}
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
    double = {"MIXBIT_ROUNDING_DOUBLE", "MIXBIT_WEIGHTS_8"}
    away = {name: _kernel(name, double | {"MIXBIT_ROUNDING_AWAY"}) - _kernel(name, double) for name in names}
    model, call = _network()
    path = PACKAGE / "code_bytes.json"
    old = json.loads(path.read_text())
    weights = {str(bits): found - bare for bits, found in rows.items()}
    extra = {name: found for name, found in away.items() if found}
    new = old | {"kernels": kernels, "away": extra, "weights": weights, "model": model, "call": call}
    path.write_text(json.dumps(new, indent=1) + "\n")
    print(path)


def _kernel(name: str, switches: set[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "mixbit_config.h").write_text(config_text(switches & set(ALL_SWITCHES)))
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


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Old rows of networks that were not made again, then the new ones."""
    names = {row["network"] for row in new}
    return [row for row in old if row["network"] not in names] + new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    legal = ["exact", "boards", "random", "sizes", "code"]
    parser.add_argument("--parts", nargs="+", choices=legal, default=legal[:4])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--board-images", type=int, default=20, help="on each emulated core")
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--sanitized", type=int, default=20, help="random graphs under sanitizers")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--runs", nargs="+", metavar="NAME=DIR", help="trained run folders, instead of calibration")
    given = parser.parse_args()
    if "code" in given.parts:
        code()
        if given.parts == ["code"]:
            return
    old = result(NAME)
    parts = {part: old.get(part, []) for part in ("exact", "boards", "random", "sizes")}
    folders = {name: Path(folder) for name, folder in (pair.split("=", 1) for pair in given.runs or ())}

    def networks() -> Iterator[tuple[str, IntegerGraph, Any, int]]:
        return trained(folders) if folders else calibrated(tuple(given.policies))

    if "exact" in given.parts:
        parts["exact"] = merged(parts["exact"], list(exact(networks(), given.images)))
    if "boards" in given.parts:
        parts["boards"] = merged(parts["boards"], list(boards(networks(), given.board_images)))
    if "random" in given.parts:
        parts["random"] = random_graphs(given.graphs, given.sanitized)
    if "sizes" in given.parts:
        parts["sizes"] = list(sizes(networks()))
    print(f"written to {write_result(NAME, parts, seed=0)}")


if __name__ == "__main__":
    main()
