"""KURE on CIFAR-10: a network fine-tuned with it beside the same fine-tuning without.

    python benchmarks/kure.py train [--network resnet20 mobilenet] [--term kure plain] [--quick] [--threads 1]

resnet20 starts from published weights. mobilenet is MobileNetV1 0.25 with the published weights of the visual wake
words task and a new classifier, trained here on CIFAR-10 images enlarged to 64 x 64. Every training is a run folder; a
run that is done is not done again, and a killed one goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from common import ROOT, shared_data, unpacked_data
from mixbit import _io, runs
from mixbit.cost import LayerBits
from mixbit.policy import Policy
from mixbit.runs import Subject
from mixbit.task import Task

ENLARGED = 64
PLAIN, KURE = "plain", "kure"
PER_TENSOR = {"per_channel": False}  # the paper's quantizers have one step a tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained; KURE and plain differ in the term alone."""

    base: dict[str, Any] | None
    """Of the training that comes first, where published weights are of another task."""
    tune: dict[str, Any]
    qat: dict[str, Any]


RECIPES = {
    "resnet20": Recipe(base=None, tune={"epochs": 4, "lr": 0.05}, qat={"epochs": 1, "lr": 0.01}),
    "mobilenet": Recipe(
        base={"epochs": 6, "lr": 0.05, "warmup_epochs": 0.5},
        tune={"epochs": 3, "lr": 0.02},
        qat={"epochs": 1, "lr": 0.01},
    ),
}


class Bench:
    """Subjects, tasks and folders of one network."""

    def __init__(self, network: str, *, quick: bool = False) -> None:
        self.network, self.quick, self.recipe = network, quick, RECIPES[network]
        self.runs = ROOT / "runs" / ("kure-quick" if quick else "kure") / network
        self.start, self.task = self._resnet20() if network == "resnet20" else self._mobilenet()

    def settings(self, values: dict[str, Any], term: str) -> dict[str, Any]:
        """Those of a recipe, with the term or without."""
        quick = {"epochs": 1, "fraction": 0.02} if self.quick else {}
        return {"validate_every": 0, **values, **quick, **({"kurtosis": 1.0} if term == KURE else {})}

    def _resnet20(self) -> tuple[Subject, Task]:
        weights = shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors"
        subject = Subject(model="resnet20", data=f"cifar10:{unpacked_data()}", weights=weights)
        return subject, subject.task()[0]

    def _mobilenet(self) -> tuple[Subject, Task]:
        """The classifier is new: ten classes instead of two; everything else starts from the published weights."""
        subject = Subject(model="mobilenetv1-0.25", data=f"cifar10:{unpacked_data()}?size={ENLARGED}")
        start = self.runs / "start.safetensors"
        if not start.exists():
            start.parent.mkdir(parents=True, exist_ok=True)
            body = shared_data() / "weights" / "mlperf_vww_mobilenetv1_025_96.safetensors"
            with_body(subject.build(subject.load_data()), body, start)
        subject = replace(subject, weights=start)
        task, data = subject.task()
        settings = self.settings(self.recipe.base or {}, PLAIN)
        base = runs.train(subject, None, settings, self.runs / "base", task=task).trained
        return base, replace(task, model=base.build(data))

    # -- trainings

    def tuned(self, term: str) -> tuple[Subject, Task]:
        """The float network after its fine-tuning."""
        done = runs.train(self.start, None, self.settings(self.recipe.tune, term), self.runs / term, task=self.task)
        return done.trained, replace(self.task, model=done.trained.build(self.start.load_data()))

    def qat(self, term: str) -> Path:
        """The run folder of the W4A4 training that starts from it."""
        subject, task = self.tuned(term)
        folder = self.runs / f"{term}-W4A4"
        settings = self.settings(self.recipe.qat, term) | {"quantize": PER_TENSOR}
        runs.train(subject, uniform(task, 4, 4), settings, folder, task=task)
        return folder


def uniform(task: Task, weight: int | None, activation: int | None) -> Policy:
    """All layers at these bits but the first and the last, which are at 8 where the others are quantized."""
    edge = LayerBits(8 if weight else None, 8 if activation else None)
    names = [layer.name for layer in task.network.layers]
    bits = {name: edge if name in (names[0], names[-1]) else LayerBits(weight, activation) for name in names}
    return Policy(fingerprint=task.network.fingerprint, layers=bits, method=f"W{weight or 32}A{activation or 32}")


def with_body(model: torch.nn.Module, path: Path, start: Path) -> None:
    """Write the model's weights with all published ones but the classifier's."""
    own, found = model.state_dict(), load_file(path)
    fit = {name: tensor for name, tensor in found.items() if own[name].shape == tensor.shape}
    left = sorted(name for name in set(own) - set(fit) if not name.endswith("num_batches_tracked"))
    if not left or any(not name.startswith("classifier") for name in left):
        raise SystemExit(f"{path} does not fit: {left} would keep their random start.")
    with _io.new_file(start) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in (own | fit).items()}, temporary)


def train(networks: Sequence[str], terms: Sequence[str], *, quick: bool) -> None:
    """All trainings."""
    for name in networks:
        bench = Bench(name, quick=quick)
        for term in terms:
            bench.qat(term)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("train",))
    parser.add_argument("--network", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES))
    parser.add_argument("--term", nargs="+", choices=(KURE, PLAIN), default=(KURE, PLAIN), help="for two processes")
    parser.add_argument("--quick", action="store_true", help="few images: does everything run?")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    train(arguments.network, arguments.term, quick=arguments.quick)


if __name__ == "__main__":
    main()
