"""What a network of many bit-widths costs: a training step, memory, a switch, and the judgment of a sub-network.

    python benchmarks/supernet_cost.py [--rounds 8] [--parts steps memory switching judging] [--fresh | --smoke]

One thread, with the memory settings of the command line; CPU time is compared.

Steps: one sandwich step of k passes, and k steps of quantization-aware training of the same network at W4A4, in turns,
batch 128, both without a teacher (with one, the sandwich asks it once a batch, and k steps ask it k times) and with the
same optimizer. Memory: bytes of all parameters and buffers. Switching: one `select` of bits of each layer. Judging:
switch, statistics from 1,280 training images, evaluation on 2,000 held-out ones, by `mixbit.supernet.SubnetJudge`.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

import records
from common import cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit._heap import keep_freed_memory
from mixbit.cost import LayerBits
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig, calibrate, quantize
from mixbit.quantizers._native import library
from mixbit.supernet import NormRows, SandwichStep, SubnetJudge, SupernetConfig, build_supernet, elastic_layers, select
from mixbit.task import Task, cross_entropy
from mixbit.training import StepContext, supervised_step
from mixbit.training._optim import make_optimizer
from qat_step import BATCH, bf16

PARTS = ("steps", "memory", "switching", "judging")
WEIGHTS = {
    "resnet20": "cifar10_resnet20_clean.safetensors",
    "mobilenetv1-cifar": "cifar10_mobilenetv1_050.safetensors",
}
KINDS = ("lsq", "batchquant")
NORMS: tuple[NormRows, ...] = ("shared", "bits")
PASSES = (2, 4)
STATISTICS, HELD_OUT = 1280, 2000


@cache
def subject(name: str, size: int, batch: int) -> Task:
    """A network of the zoo with random weights, and one batch of random images; nobody changes it."""
    torch.manual_seed(0)
    model = models.build(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    batches = [(x, torch.randint(0, 10, (batch,)))]
    return Task(model=model, train=batches, test=batches, network=capture(model, x[:2]))


@cache
def supernet(name: str, size: int, norms: NormRows) -> nn.Module:
    """All bit-widths that are asked of it by default."""
    return build_supernet(subject(name, size, 4), SupernetConfig(norms=norms, calibration_images=64))


# ---------------------------------------------------------------------------------------------------------------- steps


def sandwich(task: Task, kind: Any, passes: int) -> Callable[[], None]:
    """One step of as many passes."""
    config = SupernetConfig(activations=kind, passes=passes, calibration_images=64)
    model = build_supernet(task, config)
    return _trained(task, model, SandwichStep(model, task.network, config))


def plain(task: Task, kind: Any) -> Callable[[], None]:
    """One step of quantization-aware training at one bit-width."""
    model, x = copy.deepcopy(task.model), task.train.batches(BATCH)
    quantize(model, Policy.uniform(task.network, 4, 4), task.network, QuantizeConfig(activations=kind))
    calibrate(model, [next(iter(x))[0][:64]])
    return _trained(task, model, supervised_step)


def _trained(task: Task, model: nn.Module, step: Callable[[StepContext, Tensor, Tensor], Tensor]) -> Callable[[], None]:
    x, y = next(iter(task.train.batches(BATCH)))
    x = x.to(memory_format=torch.channels_last)
    model.train()
    rates = {"lr": 1e-4, "step_lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
    optimizer = make_optimizer(model, name="sgd", **rates)  # type: ignore[arg-type]
    context = StepContext(model=model, loss=lambda _x, out, t: cross_entropy(out, t), forward=model)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        step(context, x, y)
        optimizer.step()
        context.number += 1

    return run


def steps(name: str, kind: str, batch: int, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of all, in turns, and of each sandwich the ratio to as many plain steps of its round."""
    task = subject(name, 32, batch)
    ours, theirs = {k: sandwich(task, kind, k) for k in PASSES}, plain(task, kind)
    found: dict[str, list[float]] = {"plain": [], **{f"sandwich of {k}": [] for k in PASSES}}
    for at in range(rounds + 1):
        once = [_milliseconds(theirs) for _ in range(max(PASSES) // 2)]
        times = {f"sandwich of {k}": _milliseconds(step) for k, step in ours.items()}
        once += [_milliseconds(theirs) for _ in range(max(PASSES) // 2)]
        if at:  # the first round warms up
            found["plain"].append(statistics.fmean(once))
            for what, took in times.items():
                found[what].append(took)
    ratios = {
        f"ratio of {k}": [a / (k * b) for a, b in zip(found[f"sandwich of {k}"], found["plain"], strict=True)]
        for k in PASSES
    }
    print(name, kind, {what: round(statistics.median(values), 3) for what, values in ratios.items()})
    return {**{f"{what}, cpu_ms": values for what, values in found.items()}, **ratios}


def _milliseconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return (time.process_time() - begin) * 1e3


# ----------------------------------------------------------------------------------------------------- memory, switches


def memory(name: str) -> dict[str, Any]:
    """Bytes of the float network, and of the network of all bit-widths with norms shared and a row a bit-width."""
    sizes = {"float": subject(name, 32, 4).model, **{norms: supernet(name, 32, norms) for norms in NORMS}}
    found = {what: tensor_bytes(model) for what, model in sizes.items()}
    return {**found, "ratio": {norms: found[norms] / found["float"] for norms in NORMS}}


def tensor_bytes(model: nn.Module) -> int:
    """Of the distinct memory behind all parameters and buffers."""
    storages = [one.untyped_storage() for one in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}.values())


def switching(name: str, size: int, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of switches to sub-networks at random, with norms shared and a row a bit-width."""
    found = {}
    for norms in NORMS:
        model, rng = supernet(name, size, norms), random.Random(0)
        layers, bits = elastic_layers(model), SupernetConfig().bits
        choices = [{one: LayerBits(rng.choice(bits), rng.choice(bits)) for one in layers} for _ in range(rounds)]
        select(model, choices[0])  # where the layers are is found once a model
        times = [_milliseconds(lambda at=at, model=model: select(model, at)) for at in choices]  # type: ignore[misc]
        found[norms] = {"ms": statistics.median(times), "most_ms": max(times), "layers": len(layers)}
    return found


# -------------------------------------------------------------------------------------------------------------- judging


def judging(name: str, kind: str, precision: Any, rounds: int, *, smoke: bool) -> dict[str, Any]:
    """CPU seconds of sub-networks that were never judged before, and of their parts."""
    dataset, model = data.load(cifar10()), models.build(name)
    models.load_weights(model, shared_data() / "weights" / WEIGHTS[name])
    held, statistics_images = (64, 64) if smoke else (HELD_OUT, STATISTICS)
    rest, judges = data.hold_out(dataset.train, held / len(dataset.train), seed=0)
    task = Task(model=model, train=rest, test=judges, network=subject(name, 32, 4).network)
    ours = build_supernet(task, SupernetConfig(activations=kind, calibration_images=64))
    batch = min(BATCH, statistics_images)
    batches = rest.batches(batch, seed=0, shuffle=True, augment=True, drop_last=True)
    inputs = (x for x, _ in islice(batches, statistics_images // batch))
    judge = SubnetJudge(ours, inputs, judges, task.objective, precision=precision)
    rng, bits = random.Random(0), SupernetConfig().bits
    times: dict[str, list[float]] = {"statistics": [], "all": []}
    for at in range(rounds + 1):
        choice = {one: LayerBits(rng.choice(bits), rng.choice(bits)) for one in elastic_layers(ours)}
        begin = time.process_time()
        judge.recalibrate(choice)
        between = time.process_time()
        measured = judge(choice)
        if at:
            times["statistics"].append(between - begin)
            times["all"].append(time.process_time() - begin)
    found = {what: {"cpu_s": statistics.median(values), "most_cpu_s": max(values)} for what, values in times.items()}
    print(name, kind, precision, found)
    return {**found, "images": [statistics_images, measured.samples], "rounds": rounds}


# ----------------------------------------------------------------------------------------------------------------- main


def todo(parts: list[str], rounds: int, *, smoke: bool) -> dict[str, Callable[[], Any]]:
    """Path of a part -> what measures it; a smoke run has one of each, of the smaller network."""
    batch, found = 4 if smoke else BATCH, dict[str, Callable[[], Any]]()
    for name in ["mobilenetv1-cifar"] if smoke else WEIGHTS:
        found[f"memory.{name}"] = lambda n=name: memory(n)
        for kind in KINDS[:1] if smoke else KINDS:
            found[f"steps.{name}, {kind}"] = lambda n=name, k=kind: steps(n, k, batch, rounds)
            for precision in ("float32", *(["bf16"] if bf16() and not smoke else [])):
                at = f"judging.{name}, {kind}, {precision}"
                found[at] = lambda n=name, k=kind, p=precision: judging(n, k, p, min(rounds, 3), smoke=smoke)
    for name, size in [("mobilenetv1-cifar", 32)] if smoke else [("resnet20", 32), ("resnet50", 64)]:
        found[f"switching.{name}"] = lambda n=name, s=size: switching(n, s, 20 * rounds)
    chosen = {path: make for path, make in found.items() if path.partition(".")[0] in parts}
    return dict(sorted(chosen.items(), key=lambda item: PARTS.index(item[0].partition(".")[0])))


def main() -> None:
    """Measure, and write part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="of steps; judgments are three at most")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rounds = 1 if given.smoke else given.rounds
    facts = {"batch": BATCH, "bits": list(SupernetConfig().bits), "compiled_kernels": library() is not None}
    results = records.Results(
        "supernet_cost",
        settings={**facts, "rounds": rounds},
        inputs={
            **{name: shared_data() / "weights" / file for name, file in WEIGHTS.items()},
            "data": cifar10_folder(),
        },
        fresh=given.fresh,
        smoke=given.smoke,
    )
    work = todo(given.parts, rounds, smoke=given.smoke)
    results.plan(work)
    for path, make in work.items():
        results.part(path, make)


if __name__ == "__main__":
    main()
