"""What quantization does to adversarial points: thresholds, distances, transfer, gradients.

    python benchmarks/attack_findings.py [--images 300] [--networks resnet8 resnet20] [--fresh | --smoke]

Pretrained networks in float, as W8A16 ("int16": weights of 8 bits, activations of 16) and as W8A8 ("int8"), calibrated
on training images by post-training quantization, and run as the integers that ship: in ONNX Runtime, which equals the
reference executor. Images are the first of a seeded shuffle of the test set that all three have right, so that every
error is the attack's. The findings are those of the study of attacks at the deep edge; its tables were not read, so
nothing here is compared with its figures.

threshold: PGD of the float network at a grid of radii (all steps, no early end), tried on the integers; L2 of the
perturbation before and behind the grid of the int8 input. ray: how far along each image's own DeepFool ray the class of
each variant changes. near: mean L2 of the nearest point that each variant's own DeepFool finds: on float, straight
through the rounding on the fake-quantized ones, and on the integers with the gradients of these (twin). gradients:
central differences of k steps of the int8 input, zeros and size, and their angle to the float network's gradient.
layers: quantization shift at each layer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

import records
from common import cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit._heap import keep_freed_memory
from mixbit.attacks import (
    DeepFool,
    InputGrid,
    Pgd,
    alignment,
    classes_of,
    density,
    estimated_gradients,
    exact_gradients,
    interval_of_mean,
    norm_of,
    quantization_shift,
)
from mixbit.cost import LayerBits
from mixbit.export import find_exporter
from mixbit.inference import Predictor, TorchPredictor, TwinPredictor
from mixbit.integer import lower
from mixbit.policy import Policy
from mixbit.ptq import PTQConfig, ptq
from mixbit.task import Task

PARTS = ("threshold", "ray", "near", "gradients", "layers")
WEIGHTS = {
    "resnet8": "mlperf_resnet8_cifar10.safetensors",
    "resnet20": "cifar10_resnet20_clean.safetensors",
}
VARIANTS = {"int16": 16, "int8": 8}
RADII = (0.0006, 0.001, 0.002, 0.004, 0.008, 0.016)
STEPS_OF_LSB = (1, 8, 32)
RAY = tuple(round(1 + 0.05 * at, 2) for at in range(31))
SEED, TRIED, COORDINATES = 0, 1000, 64


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network in all variants, and images that all have right."""

    float: TorchPredictor
    fake: dict[str, TorchPredictor]
    integers: dict[str, Predictor]
    grid: InputGrid
    x: Tensor
    y: Tensor
    accuracy: dict[str, float]
    points: dict[float, Tensor] = field(default_factory=dict)
    """PGD's, by radius, which two parts use."""

    @property
    def all(self) -> dict[str, Predictor]:
        """Float, then the integers."""
        return {"float": self.float, **self.integers}


@cache
def subject(name: str, images: int, variants: tuple[str, ...] = tuple(VARIANTS)) -> Subject:
    """See the head of this file."""
    zoo = models.info(name)
    found = data.load(cifar10(), mean=zoo.mean, std=zoo.std)
    model = models.load_weights(models.build(name), shared_data() / "weights" / WEIGHTS[name]).eval()
    task = Task(model=model, train=found.train, test=found.test, space=found.space)
    fake, integers, grids = {}, {}, {}
    for variant in variants:
        bits = VARIANTS[variant]
        policy = Policy.uniform(task.network, 8, bits, dict.fromkeys(_edges(task), LayerBits(8, bits)))
        quantized = ptq(task, policy, PTQConfig(method="mse"), quiet=True).model
        exporter = find_exporter("onnx")
        batches = [next(found.train.batches(256, seed=SEED, shuffle=True))[0]]
        graph = lower(quantized, task.network, batches, rounding=exporter.rounding)
        fake[variant] = TorchPredictor(quantized, task.space, name=f"{variant}, fake-quantized")
        integers[variant] = exporter.predictor(graph, task.space)
        grids[variant] = InputGrid.of(graph, task.space)
    whole = TorchPredictor(model, task.space)
    x, y = _test(task)
    right = {key: ~is_fooled(one, x, y) for key, one in {"float": whole, **integers}.items()}
    kept = torch.stack(list(right.values())).all(0).nonzero().squeeze(1)[:images]
    accuracy = {key: float(one.double().mean()) for key, one in right.items()}
    return Subject(
        float=whole, fake=fake, integers=integers, grid=grids["int8"], x=x[kept], y=y[kept], accuracy=accuracy
    )


def _edges(task: Task) -> list[str]:
    """First and last layer, which otherwise keep activations of 8 bits."""
    names = [layer.name for layer in task.network.layers]
    return [names[0], names[-1]]


def _test(task: Task) -> tuple[Tensor, Tensor]:
    """The first images of a seeded shuffle, in the unit of the input space."""
    z, y = next(task.test.batches(TRIED, seed=SEED, shuffle=True))
    return task.space.clip(task.space.leave(z)), y


def is_fooled(network: Predictor, points: Tensor, y: Tensor) -> Tensor:
    """Whether the network has each point wrong `(N,)`."""
    return classes_of(network, points) != y


def share(flags: Tensor) -> list[float]:
    """A share with the ends of its 95 % interval."""
    found = interval_of_mean(flags.double().numpy())
    return [found.value, found.low, found.high]


def mean(values: Tensor) -> list[float]:
    """A mean with the ends of its 95 % interval."""
    found = interval_of_mean(values.double().numpy())
    return [found.value, found.low, found.high]


# ---------------------------------------------------------------------------------------------------------------- parts


def pgd(one: Subject, radius: float) -> Tensor:
    """Points of the float network: all steps of one start, far behind the boundary rather than on it."""
    if radius not in one.points:
        attack = Pgd(eps=radius, steps=20, restarts=1, early=False)
        one.points[radius] = attack.run(one.float, one.x, one.y, seed=SEED).points
    return one.points[radius]


def threshold(one: Subject, radii: Sequence[float] = RADII) -> dict[str, Any]:
    """Errors of every variant on the float network's PGD points, radius by radius."""
    rows = []
    for radius in radii:
        points = pgd(one, radius)
        moved = norm_of(points - one.x, "L2")
        snapped = norm_of(one.grid.snap(points) - one.grid.snap(one.x), "L2")
        errors = {name: share(is_fooled(network, points, one.y)) for name, network in one.all.items()}
        rows.append(
            {"radius": radius, "errors": errors, "l2": float(moved.mean()), "l2_snapped": float(snapped.mean())}
        )
    return {"rows": rows}


def ray(one: Subject) -> dict[str, Any]:
    """The first of a grid of stretches of DeepFool's perturbation at which each variant's class changes."""
    found = DeepFool(overshoot=0.0, steps=100, rivals=None).run(one.float, one.x, one.y, seed=SEED)
    delta = (found.points - one.x)[found.success]
    x, y = one.x[found.success], one.y[found.success]
    first = {name: torch.full((len(x),), torch.nan) for name in one.all}
    for t in reversed(RAY):
        points = (x + t * delta).clamp(0, 1)
        for name, network in one.all.items():
            first[name] = torch.where(is_fooled(network, points, y), torch.tensor(t), first[name])
    length = norm_of(delta, "L2")
    flipped = ~torch.stack(list(first.values())).isnan().any(0)
    return {
        "images": len(x),
        "all_flipped": int(flipped.sum()),
        "distance": {name: mean((t * length)[flipped]) for name, t in first.items()},
        "stretch": {name: mean((t / first["float"])[flipped]) for name, t in first.items()},
        "flipped": {name: share(~t.isnan()) for name, t in first.items()},
    }


def near(one: Subject) -> dict[str, Any]:
    """The nearest point by each variant's own DeepFool, and what the integers say of it."""
    rows = []
    twins = {f"{name}, twin": TwinPredictor(it, one.fake[name]) for name, it in one.integers.items()}
    for name, network in {"float": one.float, **one.fake, **twins}.items():
        begun = time.process_time()
        found = DeepFool(overshoot=0.02, steps=100, rivals=None).run(network, one.x, one.y, seed=SEED)
        spent = time.process_time() - begun
        length = norm_of(found.points - one.x, "L2")
        rows.append(
            {
                "variant": name,
                "success": share(found.success),
                "l2": mean(length[found.success]),
                "on_integers": {key: share(is_fooled(it, found.points, one.y)) for key, it in one.integers.items()},
                "cpu_s_per_image": spent / len(one.x),
            }
        )
    return {"rows": rows}


def gradients(one: Subject, images: int, steps: Sequence[int] = STEPS_OF_LSB) -> dict[str, Any]:
    """Central differences of k steps of the int8 input: of logits and of probabilities, on every variant."""
    x, y = one.x[:images], one.y[:images]
    chosen = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(SEED))[:COORDINATES]
    lsb = max(one.grid.step)
    rows = []
    for value in ("logit", "probability"):
        exact = exact_gradients(one.float, x, y, value).flatten(1)[:, chosen]  # type: ignore[arg-type]
        for k in steps:
            for name, network in one.all.items():
                found = estimated_gradients(network, x, y, step=k * lsb, coordinates=chosen, value=value)  # type: ignore[arg-type]
                angle, amount = alignment(found, exact), density(found)
                rows.append(
                    {
                        "value": value,
                        "k": k,
                        "variant": name,
                        "zeros": amount.zeros,
                        "all_zero": amount.all_zero,
                        "mean": amount.mean,
                        "largest": amount.largest,
                        "cosine": mean(angle.cosine),
                        "sign": angle.mean_sign,
                        "exact_mean": density(exact).mean,
                        "exact_largest": density(exact).largest,
                    }
                )
    return {"rows": rows}


def layers(one: Subject, radii: Sequence[float] = RADII) -> dict[str, Any]:
    """Quantization shift at each layer of the int8 network, for PGD points of the float network."""
    rows = []
    for radius in radii:
        for found in quantization_shift(one.fake["int8"], one.x, pgd(one, radius)):
            values = {"l2": found.l2, "linf": found.linf, "erased": found.erased, "images": found.images}
            rows.append({"radius": radius, "layer": found.layer, **values})
    return {"rows": rows}


def main() -> None:
    """Measure, and write part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--networks", nargs="+", choices=sorted(WEIGHTS), default=sorted(WEIGHTS, reverse=True))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    images = 6 if given.smoke else given.images
    results = records.Results(
        "attack_findings",
        settings={"images": images, "tried": TRIED, "seed": SEED, "coordinates": COORDINATES},
        inputs={
            **{name: shared_data() / "weights" / file for name, file in WEIGHTS.items()},
            "data": cifar10_folder(),
        },
        libraries=("torch", "onnxruntime"),
        fresh=given.fresh,
        smoke=given.smoke,
    )
    for network in given.networks[: 1 if given.smoke else None]:
        one = subject(network, images, ("int8",)) if given.smoke else subject(network, images)
        radii, steps = (RADII[2:3], STEPS_OF_LSB[:1]) if given.smoke else (RADII, STEPS_OF_LSB)
        facts = {"accuracy": one.accuracy, "lsb": one.grid.step, "images": len(one.x), "tried": TRIED}
        work: dict[str, Callable[[], Any]] = {
            "threshold": lambda one=one, r=radii: threshold(one, r),  # type: ignore[misc]
            "ray": lambda one=one: ray(one),  # type: ignore[misc]
            "near": lambda one=one: near(one),  # type: ignore[misc]
            "gradients": lambda one=one, s=steps: gradients(one, min(40, len(one.x)), s),  # type: ignore[misc]
            "layers": lambda one=one, r=radii: layers(one, r),  # type: ignore[misc]
        }
        results.part(f"subject.{network}", lambda facts=facts: facts)  # type: ignore[misc]
        for part in ("threshold", "ray", "near") if given.smoke else given.parts:
            results.part(f"{part}.{network}", work[part])


if __name__ == "__main__":
    main()
