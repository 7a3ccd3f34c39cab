"""Whether a policy that was searched for clean accuracy keeps robustness at equal flash.

    python benchmarks/attack_policies.py [--seeds 0 1 2] [--epochs 2] [--images 300] [--fresh | --smoke]

The pretrained ResNet-8 at the weight bytes of uniform 3 bits (first and last layer at 8, activations at 8 throughout):
uniform, FIT, and a random policy that uses the same bytes up, each trained for as many epochs from the same weights;
W8A8 beside them. Each is lowered, and the integers are attacked as they run in ONNX Runtime: PGD and DeepFool with the
gradients of the fake-quantized network (`TwinPredictor`), Square by scores alone. The same images for all, those that
float has right; intervals by bootstrap over images, and the seeds one by one.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import records
from attack_findings import SEED, TRIED, WEIGHTS, is_fooled, mean, share
from common import ROOT, cifar10, cifar10_folder, shared_data, smoking
from mixbit import data, methods, models
from mixbit._heap import keep_freed_memory
from mixbit.allocation import allocate
from mixbit.allocation.random_policy import random_policy
from mixbit.attacks import Attack, make, norm_of
from mixbit.cost import Budget, LayerBits
from mixbit.data import Part
from mixbit.evaluation import evaluate
from mixbit.export import find_exporter
from mixbit.inference import TorchPredictor, TwinPredictor
from mixbit.integer import lower
from mixbit.policy import Policy
from mixbit.quantization import put_policy_on
from mixbit.task import Task
from mixbit.training import TrainConfig, train

NETWORK = "resnet8"
NAMES = ("uniform", "fit", "random", "W8A8")
BITS = (2, 3, 4, 5, 6, 8)
EIGHT = LayerBits(8, 8)
RADII = (0.002, 0.004)
NEAR, SQUARE_RADIUS, SQUARE_QUERIES = 100, 0.008, 300


@cache
def task() -> Task:
    """Float weights and real images."""
    zoo = models.info(NETWORK)
    found = data.load(cifar10(), mean=zoo.mean, std=zoo.std)
    model = models.load_weights(models.build(NETWORK), shared_data() / "weights" / WEIGHTS[NETWORK]).eval()
    training = Part(found.train, torch.arange(64)) if smoking() else found.train
    return Task(model=model, train=training, test=found.test, space=found.space)


def policies(seed: int) -> dict[str, Policy]:
    """One for each name, within the weight bytes of the uniform one."""
    network = task().network
    names = [layer.name for layer in network.layers]
    pins = {names[0]: EIGHT, names[-1]: EIGHT}
    budget = Budget.parse("weight-bytes=3x3")
    scores = methods.make("fit", {"bits": list(BITS), "seed": seed}, kind="score").search(task(), quiet=True)
    return {
        "uniform": Policy.uniform(network, 3, 8, pins),
        "fit": allocate(network, scores, budget)[0],
        "random": random_policy(network, budget, bits=BITS, seed=seed),
        "W8A8": Policy.uniform(network, 8, 8),
    }


@dataclass(frozen=True, kw_only=True)
class Images:
    """What is attacked."""

    x: Tensor
    y: Tensor


@cache
def images(count: int) -> Images:
    """The first of a seeded shuffle of the test set that float has right."""
    z, y = next(task().test.batches(TRIED, seed=SEED, shuffle=True))
    x = task().space.clip(task().space.leave(z))
    right = (~is_fooled(TorchPredictor(task().model, task().space), x, y)).nonzero().squeeze(1)[:count]
    return Images(x=x[right], y=y[right])


def trained(policy: Policy, epochs: int, seed: int, folder: Path) -> nn.Module:
    """The policy from the float weights; a killed training goes on."""
    model = copy.deepcopy(task().model)
    put_policy_on(model, policy, task(), seed=seed)
    config = TrainConfig(
        epochs=epochs, lr=0.01, step_lr=0.001, weight_decay=3e-5, distill=0.5, seed=seed, validate_every=0,
        batch_size=64 if smoking() else 128,
    )  # fmt: skip
    train(model, task().train, None, config, run=folder, teacher=task().model, loss=task().objective)
    return model.eval()


def attacked(model: nn.Module, count: int) -> dict[str, Any]:
    """Accuracy on the test set, and what the attacks leave of it."""
    exporter = find_exporter("onnx")
    batches = [next(task().train.batches(256, seed=SEED, shuffle=True))[0]]
    graph = lower(model, task().network, batches, rounding=exporter.rounding)
    integers = exporter.predictor(graph, task().space)
    twin = TwinPredictor(integers, TorchPredictor(model, task().space))
    one = images(count)
    found: dict[str, Any] = {"accuracy": evaluate(integers, task().test).accuracy}
    for radius in RADII:
        attack = make("pgd", {"eps": radius, "restarts": 1})
        found[f"pgd {radius}"] = robust(attack, twin, one)
    square = make("square", {"eps": SQUARE_RADIUS, "queries": SQUARE_QUERIES})
    found[f"square {SQUARE_RADIUS}"] = robust(square, integers, one)
    few = Images(x=one.x[:NEAR], y=one.y[:NEAR])
    near = make("deepfool", {"overshoot": 0.02}).run(twin, few.x, few.y, seed=SEED)
    found["deepfool"] = {
        "success": share(near.success[near.right]),
        "l2": mean(norm_of(near.points - few.x, "L2")[near.success]),
    }
    return found


def robust(attack: Attack, predictor: Any, one: Images) -> list[float]:
    """Share of the images that are right before and after, with its interval."""
    found = attack.run(predictor, one.x, one.y, seed=SEED)
    return share(found.right & ~found.success)


def main() -> None:
    """Train and attack, a row for each policy and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=300)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    count, epochs = (8, 1) if given.smoke else (given.images, given.epochs)
    results = records.Results(
        "attack_policies",
        settings={"network": NETWORK, "images": count, "epochs": epochs, "bits": BITS},
        inputs={"weights": shared_data() / "weights" / WEIGHTS[NETWORK], "data": cifar10_folder()},
        libraries=("torch", "onnxruntime"),
        fresh=given.fresh,
        smoke=given.smoke,
    )
    for seed in given.seeds[: 1 if given.smoke else None]:
        made = policies(seed)
        for name in NAMES[:1] if given.smoke else NAMES:
            policy = made[name]
            words = " ".join(f"W{bits.weight_bits}A{bits.activation_bits}" for bits in policy.layers.values())
            folder = (records.SMOKE if given.smoke else ROOT / "runs" / "attacks") / f"{name}-s{seed}-e{epochs}"
            of = {"name": name, "seed": seed, "bits": words}
            results.row(of, lambda p=policy, s=seed, f=folder: attacked(trained(p, epochs, s, f), count))  # type: ignore[misc]


if __name__ == "__main__":
    main()
