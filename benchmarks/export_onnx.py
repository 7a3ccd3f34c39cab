"""Exported ONNX files: bytes against the policy, exactness and accuracy on all test images, speed against float32.

    python benchmarks/export_onnx.py [--parts sizes speed exact] [--rounds 30] [--epochs 1] [--images 10000]

Sizes and speed need no data: networks of the zoo with random weights (uniform at 2, 4 and 8 bits, and a random
mix), calibrated on random inputs. Exactness and accuracy are of ResNet-20 on CIFAR-10: of trained run folders given as
`--runs NAME=DIR`, or else trained here for `--epochs` under the policies that LIMPQ's committed scores give at the
BitOps of W3A3 and W4A4, and under uniform W8A8. Parts that are not asked for keep what the result file has.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import RESULTS, ROOT, result, shared_data, unpacked_data, write_result
from mixbit import models, runs
from mixbit.allocation import allocate
from mixbit.cost import Budget, LayerBits, costs
from mixbit.export import executor, lower
from mixbit.export._float_onnx import float_onnx
from mixbit.export._machine import machine_flags, machine_name
from mixbit.export.onnx import OnnxFile, load_session, write_onnx
from mixbit.export.verify import numpy_batches, time_sessions, verify
from mixbit.network import Network, capture
from mixbit.policy import Policy, Scores
from mixbit.quantize import calibrate, quantize
from mixbit.runs._trained import open_run
from mixbit.runs.training import CALIBRATION_SAMPLES

NAME = "export_onnx"
FILES = ROOT / "runs" / NAME
NETWORKS = {"resnet20": (3, 32, 32), "mobilenetv2": (3, 224, 224), "resnet18": (3, 224, 224)}
POLICIES = ("W2A8", "W4A4", "W4A8", "W8A8", "mixed")
CHUNK = 250


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


def lowered(name: str, policy: str) -> tuple[Any, nn.Module, torch.Tensor]:
    """Integer graph, model and example of a network with random weights."""
    torch.manual_seed(0)
    model, x = models.build(name).eval(), torch.randn(4, *NETWORKS[name])
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


def sizes() -> Iterator[dict[str, Any]]:
    """Packed and plain files of every network and policy."""
    for name in NETWORKS:
        for policy in POLICIES:
            graph, _, _ = lowered(name, policy)
            for pack in ("fields", "none"):
                file = write_onnx(graph, FILES / f"{name}-{policy}-{pack}.onnx", pack=pack)
                row = {"network": name, "policy": policy, "pack": pack, **described(file)}
                print(name, policy, pack, file.size_bytes, f"{file.overhead:.4f}", flush=True)
                yield row


def processor() -> dict[str, Any]:
    """What speed depends on; rows of other processors stay."""
    return {"cpu": machine_name(), "flags": list(machine_flags())}


def speed(rounds: int) -> Iterator[dict[str, Any]]:
    """CPU time of one inference, float32 beside the packed and the plain file, interleaved."""
    for name in NETWORKS:
        plain = None
        for policy in POLICIES:
            graph, model, x = lowered(name, policy)
            plain = plain or float_onnx(model, x)
            sessions, created = {}, {}
            for kind, source in (
                ("float32", plain),
                *((p, _written(graph, name, policy, p)) for p in ("fields", "none")),
            ):
                begin = time.perf_counter()
                sessions[kind] = load_session(source)
                created[kind] = 1e3 * (time.perf_counter() - begin)
            found = time_sessions(sessions, x.numpy(), rounds=rounds)
            row = {"network": name, "policy": policy, "processor": processor(), "session_ms": created}
            row |= {kind: {"median_ms": one.median_ms, "spread_ms": one.spread_ms} for kind, one in found.items()}
            row["speedup"] = found["float32"].median_ms / found["fields"].median_ms
            row["against_plain"] = found["fields"].median_ms / found["none"].median_ms
            print(name, policy, {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}, flush=True)
            yield row


def _written(graph: Any, name: str, policy: str, pack: Any) -> Path:
    path = FILES / f"{name}-{policy}-{pack}.onnx"
    write_onnx(graph, path, pack=pack)
    return path


def trained(policy: str, epochs: int) -> Path:
    """Run folder of ResNet-20 under a policy."""
    subject = runs.Subject(
        model="resnet20",
        data=f"cifar10:{unpacked_data().resolve()}",
        weights=shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors",
    )
    task, _ = subject.task()
    if policy.startswith("limpq"):
        scores = Scores.load(RESULTS / "cifar10_resnet20_scores_limpq.json")
        chosen = allocate(task.network, scores, Budget.parse([f"bitops={policy[-3:]}"]))[0]
    else:
        chosen = policy_of(policy, task.network)
    run = FILES / f"{policy}-{epochs}"
    runs.train(subject, chosen, {"epochs": epochs, "precision": "float32", "validate_every": 0}, run, task=task)
    return run


def exact(folders: dict[str, Path], images: int) -> Iterator[dict[str, Any]]:
    """A trained network as fake-quantized model, reference executor and file: accuracy and agreement."""
    for policy, run in folders.items():
        done = runs.export(run, out=FILES / f"{policy}.onnx", images=0)
        assert isinstance(done.file, OnnxFile)
        opened = open_run(run)
        batches = list(numpy_batches(opened.task.test.batches(CHUNK), images))
        begin = time.process_time()
        found = verify(done.file.path, done.graph, batches, rounds=0)
        seconds = time.process_time() - begin
        fixed = _other_rounding(opened, batches)
        row = {
            "policy": policy,
            "settings": json.loads((run / "config.json").read_text())["settings"],
            "images": found.images,
            "fake_quantized_accuracy": runs.evaluate(str(run)).outcome.accuracy,
            "reference_accuracy": found.reference_accuracy,
            "file_accuracy": found.accuracy,
            "top1_agreement": found.top1_agreement,
            "identical": found.identical,
            "largest_difference": found.largest_difference,
            "largest_steps": found.largest_steps,
            "verification_cpu_seconds": seconds,
            "fixed_point": fixed,
            "calibrated": [note.name for note in done.graph.notes],
            **described(done.file),
            "bitops": costs(opened.task.network, opened.policy.layers).bitops,
        }
        print({k: v for k, v in row.items() if not isinstance(v, dict | list)}, flush=True)
        yield row


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=["sizes", "speed", "exact"], default=["sizes", "speed", "exact"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=1, help="of training before exactness is measured")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", nargs="+", metavar="NAME=DIR", help="trained run folders, instead of training here")
    given = parser.parse_args()
    FILES.mkdir(parents=True, exist_ok=True)
    old = result(NAME)
    parts = {part: old.get(part, []) for part in ("sizes", "speed", "exact")}
    if "sizes" in given.parts:
        parts["sizes"] = list(sizes())
    if "speed" in given.parts:
        others = [row for row in parts["speed"] if row["processor"] != processor()]
        parts["speed"] = [*others, *speed(given.rounds)]
    if "exact" in given.parts:
        folders = {name: Path(folder) for name, folder in (pair.split("=", 1) for pair in given.runs or ())}
        folders = folders or {name: trained(name, given.epochs) for name in ("limpq-4x4", "limpq-3x3", "W8A8")}
        parts["exact"] = list(exact(folders, given.images))
    print(f"written to {write_result(NAME, parts, seed=0)}")


if __name__ == "__main__":
    main()
