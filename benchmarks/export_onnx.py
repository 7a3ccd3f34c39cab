"""Exported ONNX files: bytes against the policy, exactness and accuracy on all test images, speed against float32.

    python benchmarks/export_onnx.py [--parts sizes speed exact] [--rounds 15] [--epochs 1] [--images 10000]
        [--fresh | --smoke]

Sizes and speed need no data: networks of the zoo with random weights (uniform at 2, 4 and 8 bits, and a random
mix), calibrated on random inputs. Exactness and accuracy are of ResNet-20 on CIFAR-10: of trained run folders given as
`--runs NAME=DIR`, or else trained here for `--epochs` under the policies that LIMPQ's committed scores give at the
BitOps of W3A3 and W4A4, and under uniform W8A8. Each row is written when it is done; those that the result file has are
reused, of other processors and runs as well as of parts that are not asked for.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import records
from common import RESULTS, ROOT, cifar10, cifar10_folder, shared_data
from mixbit import models, runs
from mixbit.allocation import allocate
from mixbit.cost import Budget, LayerBits, costs
from mixbit.export._machine import machine_flags, machine_name
from mixbit.export.float_onnx import float_onnx
from mixbit.export.onnx import OnnxFile, load_session, write_onnx
from mixbit.export.verify import numpy_batches, time_sessions, verify
from mixbit.integer import executor, lower
from mixbit.network import Network, capture
from mixbit.policy import Policy, Scores
from mixbit.quantization import CALIBRATION_SAMPLES, calibrate, quantize
from mixbit.runs import _folder
from mixbit.runs._trained import open_run

NAME = "export_onnx"
FILES = ROOT / "runs" / NAME
NETWORKS = ("resnet20", "mobilenetv2", "resnet18")
POLICIES = ("W2A8", "W4A4", "W4A8", "W8A8", "mixed")
CHUNK = 250
TRAINED = ("limpq-4x4", "limpq-3x3", "W8A8")
WEIGHTS = "cifar10_resnet20_akamaster.safetensors"
SCORES = "cifar10_resnet20_scores_limpq.json"


def policy_of(text: str, network: Network) -> Policy:
    """`W4A8`, or `mixed`: random bits, 2 to 8 for weights and 3 to 8 for activations."""
    if text != "mixed":
        return Policy.uniform(network, int(text[1]), int(text[3]))
    draw = random.Random(0)
    policy = Policy.uniform(network, 4, 4)
    tied = {layer.input_tensor: draw.randint(3, 8) for layer in network.layers}
    for layer in network.layers[1:-1]:
        policy.layers[layer.name] = LayerBits(draw.randint(2, 8), tied[layer.input_tensor])
    return policy


@lru_cache(maxsize=1)
def lowered(name: str, policy: str) -> tuple[Any, nn.Module, torch.Tensor]:
    """Integer graph, model and example of a network with random weights."""
    torch.manual_seed(0)
    model, x = models.build(name).eval(), torch.randn(4, *models.info(name).input_shape)
    network = capture(model, x[:1])
    quantize(model, policy_of(policy, network), network)
    calibrate(model, [x])
    model.eval()
    return lower(model, network, [x], rounding="float32"), model, x[:1]


def described(file: OnnxFile) -> dict[str, Any]:
    """Bytes, as the result file has them."""
    return {
        "size_bytes": file.size_bytes,
        "policy_bytes": file.policy_bytes,
        "weight_bytes": file.weight_bytes,
        "items": file.items,
        "unsigned": [one.name for one in file.layers if one.unsigned],
    }


def size(name: str, policy: str, pack: Any) -> dict[str, Any]:
    """Of a packed or a plain file."""
    graph, _, _ = lowered(name, policy)
    return described(write_onnx(graph, FILES / f"{name}-{policy}-{pack}.onnx", pack=pack))


def processor() -> dict[str, Any]:
    """What speed depends on; rows of other processors stay."""
    return {"cpu": machine_name(), "flags": list(machine_flags())}


def speed(name: str, policy: str, rounds: int) -> dict[str, Any]:
    """CPU time of one inference, float32 beside the packed and the plain file, interleaved."""
    graph, model, x = lowered(name, policy)
    sessions, created = {}, {}
    for kind, source in (
        ("float32", float_onnx(model, x)),
        *((p, _written(graph, name, policy, p)) for p in ("fields", "none")),
    ):
        begin = time.perf_counter()
        sessions[kind] = load_session(source)
        created[kind] = 1e3 * (time.perf_counter() - begin)
    found = time_sessions(sessions, x.numpy(), rounds=rounds)
    row: dict[str, Any] = {"session_ms": created}
    row |= {kind: {"median_ms": one.median_ms, "spread_ms": one.spread_ms} for kind, one in found.items()}
    row["speedup"] = found["float32"].median_ms / found["fields"].median_ms
    row["against_plain"] = found["fields"].median_ms / found["none"].median_ms
    print(name, policy, {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}, flush=True)
    return row


def _written(graph: Any, name: str, policy: str, pack: Any) -> Path:
    path = FILES / f"{name}-{policy}-{pack}.onnx"
    write_onnx(graph, path, pack=pack)
    return path


def trained(policy: str, epochs: int) -> Path:
    """Run folder of ResNet-20 under a policy."""
    subject = runs.Subject(
        model="resnet20",
        data=cifar10(),
        weights=shared_data() / "weights" / WEIGHTS,
    )
    task, _ = subject.task()
    if policy.startswith("limpq"):
        scores = Scores.load(RESULTS / SCORES)
        chosen = allocate(task.network, scores, Budget.parse([f"bitops={policy[-3:]}"]))[0]
    else:
        chosen = policy_of(policy, task.network)
    run = FILES / f"{policy}-{epochs}"
    runs.train(subject, chosen, {"epochs": epochs, "precision": "float32", "validate_every": 0}, run, task=task)
    return run


def exact(policy: str, run: Path, images: int) -> dict[str, Any]:
    """A trained network as fake-quantized model, reference executor and file: accuracy and agreement."""
    done = runs.export(run, out=FILES / f"{policy}.onnx", images=0)
    assert isinstance(done.file, OnnxFile)
    opened = open_run(run)
    batches = list(numpy_batches(opened.task.test.batches(min(CHUNK, images)), images))
    begin = time.process_time()
    found = verify(done.file.path, done.graph, batches, rounds=0)
    seconds = time.process_time() - begin
    row = {
        "settings": json.loads((run / "config.json").read_text())["settings"],
        "fake_quantized_accuracy": fake_quantized_accuracy(opened.task.model, batches),
        "reference_accuracy": found.reference_accuracy,
        "file_accuracy": found.accuracy,
        "top1_agreement": found.top1_agreement,
        "identical": found.identical,
        "largest_difference": found.largest_difference,
        "largest_steps": found.largest_steps,
        "verification_cpu_seconds": seconds,
        "fixed_point": _other_rounding(opened, batches),
        "calibrated": [note.name for note in done.graph.notes],
        **described(done.file),
        "bitops": costs(opened.task.network, opened.policy.layers).bitops,
    }
    print({k: v for k, v in row.items() if not isinstance(v, dict | list)}, flush=True)
    return row


@torch.inference_mode()
def fake_quantized_accuracy(model: nn.Module, batches: list[Any]) -> float:
    """On the images that file and reference see."""
    model.eval()
    right = sum(int((model(torch.from_numpy(x)).argmax(1).numpy() == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


def _other_rounding(opened: Any, batches: list[Any]) -> dict[str, float]:
    """The same network with fixed-point rounding: what the choice of rounding alone changes."""
    x, _ = next(opened.task.train.batches(CALIBRATION_SAMPLES, seed=opened.subject.seed, shuffle=True))
    graphs = {
        rounding: lower(copy.deepcopy(opened.task.model), opened.task.network, [x], rounding=rounding)
        for rounding in ("float32", "single", "double")
    }
    same = {"single": 0, "double": 0}
    taken = batches[: max(1, 1000 // CHUNK)]
    for x, _ in taken:
        wanted = executor.run(graphs["float32"], x).argmax(1)
        for rounding in same:
            same[rounding] += int((executor.run(graphs[rounding], x).argmax(1) == wanted).sum())
    total = sum(len(x) for x, _ in taken)
    return {"images": total, **{f"{rounding}_agreement": count / total for rounding, count in same.items()}}


def opened(part: str, given: argparse.Namespace, **depends: Any) -> records.Results:
    """The rows of one part."""
    libraries = ("torch", "onnx", "onnxruntime")
    return records.Results(NAME, table=part, libraries=libraries, fresh=given.fresh, smoke=given.smoke, **depends)


def all_sizes(given: argparse.Namespace) -> None:
    """Packed and plain files of every network and policy."""
    results = opened("sizes", given)
    names = [
        {"network": name, "policy": policy, "pack": pack}
        for name in given.networks
        for policy in given.policies
        for pack in ("fields", "none")
    ]
    results.plan(names)
    for of in names:
        results.row(of, lambda of=of: size(*of.values()))  # type: ignore[misc]


def all_speeds(given: argparse.Namespace) -> None:
    """Every network and policy on this processor."""
    results = opened("speed", given, settings={"rounds": given.rounds})
    pairs = [(name, policy) for name in given.networks for policy in given.policies]
    names = [{"network": name, "policy": policy, "processor": processor()} for name, policy in pairs]
    results.plan(names)
    for of in names:
        results.row(of, lambda of=of: speed(of["network"], of["policy"], given.rounds))  # type: ignore[misc]


def all_exact(given: argparse.Namespace) -> None:
    """Of run folders, or of runs that are trained here."""
    data = {"data": cifar10_folder()}
    folders = {name: Path(folder) for name, folder in (pair.split("=", 1) for pair in given.runs or ())}
    sources = {name: data | {"run": folder / _folder.WEIGHTS} for name, folder in folders.items()}
    begun = data | {"weights": shared_data() / "weights" / WEIGHTS, "scores": RESULTS / SCORES}
    sources = sources or dict.fromkeys(TRAINED, begun)
    settings = {} if folders else {"epochs": given.epochs}
    rows = {name: opened("exact", given, inputs=inputs, settings=settings) for name, inputs in sources.items()}
    for name, results in rows.items():
        results.plan([{"policy": name, "images": given.images}])
    for name, results in rows.items():

        def make(name: str = name) -> Mapping[str, Any]:
            return exact(name, folders[name] if folders else trained(name, given.epochs), given.images)

        results.row({"policy": name, "images": given.images}, make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=["sizes", "speed", "exact"], default=["sizes", "speed", "exact"])
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), help="of sizes and speed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=1, help="of training before exactness is measured")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", nargs="+", metavar="NAME=DIR", help="trained run folders, instead of training here")
    records.arguments(parser)
    given = parser.parse_args()
    if given.smoke:  # a training takes longer than a smoke run may: exactness is not in it
        given.parts, given.networks, given.policies, given.rounds = ["sizes", "speed"], ["resnet8"], ["W4A4"], 1
    FILES.mkdir(parents=True, exist_ok=True)
    todo = {"sizes": all_sizes, "speed": all_speeds, "exact": all_exact}
    for part in given.parts:
        todo[part](given)


if __name__ == "__main__":
    main()
