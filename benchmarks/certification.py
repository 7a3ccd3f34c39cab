"""Certificates for real: ResNet-20 on CIFAR-10 trained under noise, in float and as the integers that ship.

    python benchmarks/certification.py [--sigmas 0.5 0.25 1.0] [--parts trained] [--threads 1] [--fresh | --smoke]

Parts:

    trained  accuracies of the networks: in float from the pretrained weights, and quantized from these under noise

Rows that the result file has are reused. A killed training goes on where it was, and several processes share the work:
each takes what no other one holds. The 5,000 training images that are held out with seed 0 train nothing here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import records
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit._heap import keep_freed_memory
from mixbit.data import NoisySplit, Part, Split, hold_out
from mixbit.evaluation import evaluate
from mixbit.models import write_weights
from mixbit.runs._lock import Busy, hold
from mixbit.task import Task
from mixbit.training import TrainConfig, train

NETWORK, WEIGHTS = "resnet20", "cifar10_resnet20_clean.safetensors"
SIGMAS = (0.5, 0.25, 1.0)
EPOCHS = {"float": 10, "quantized": 3}
PRECISION = "bf16"
PARTS = ("trained",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row to be made by one process."""

    results: records.Results
    of: dict[str, Any]
    make: Callable[[], dict[str, Any]]
    folder: Path


def float_training(epochs: int) -> TrainConfig:
    """On noisy images, from weights that have seen none."""
    return TrainConfig(
        epochs=epochs, lr=0.05, warmup_epochs=0.2, weight_decay=5e-4, precision=PRECISION, validate_every=0,
        bn_samples=0,
    )  # fmt: skip


class Study:
    """The networks of one sigma."""

    def __init__(self, sigma: float, *, fresh: bool = False, smoke: bool = False) -> None:
        self.sigma, self.fresh, self.smoke = sigma, fresh, smoke
        self.folder = (records.SMOKE if smoke else ROOT / "runs") / "certification" / f"sigma-{sigma:g}"

    @cached_property
    def task(self) -> Task:
        """Clean weights and noisy training images."""
        zoo = models.info(NETWORK)
        found = data.load(cifar10(), mean=zoo.mean, std=zoo.std)
        model = models.load_weights(models.build(NETWORK), shared_data() / "weights" / WEIGHTS).eval()
        rest, _ = hold_out(found.train, 0.1, seed=0)
        test: Split = found.test
        if self.smoke:
            rest, test = Part(rest, torch.arange(32)), Part(test, torch.arange(32))
        return Task(model=model, train=NoisySplit(rest, self.sigma, found.std), test=test, space=found.space)

    @cached_property
    def noisy_test(self) -> Split:
        """Test images with one draw of noise each."""
        return NoisySplit(self.task.test, self.sigma, data.load(cifar10()).std, seed=1)

    def results(self, part: str, **settings: Any) -> records.Results:
        """Rows of a part; what they depend on beside the files."""
        return records.Results(
            "certification",
            table=part,
            settings={"network": NETWORK, **settings},
            inputs={"weights": shared_data() / "weights" / WEIGHTS, "data": cifar10_folder()},
            libraries=("torch", "onnxruntime"),
            fresh=self.fresh,
            smoke=self.smoke,
        )

    # --------------------------------------------------------------------------------------------------- training

    @cached_property
    def float_model(self) -> nn.Module:
        """Trained under noise; from its folder if it is there, and a killed training goes on."""
        epochs = 1 if self.smoke else EPOCHS["float"]
        folder = self.folder / f"float-e{epochs}"
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.safetensors"
        model = models.build(NETWORK)
        if weights.exists():
            model.load_state_dict(load_file(weights))
            return model.eval()
        model.load_state_dict(self.task.model.state_dict())
        config = replace(float_training(epochs), batch_size=16 if self.smoke else 128)
        train(model, self.task.train, None, config, run=folder, loss=self.task.objective, label=f"sigma {self.sigma}")
        write_weights(weights, model.state_dict())
        return model.eval()

    def trained(self) -> Iterator[Job]:
        """Accuracies of the networks themselves, which see one image once."""
        epochs = EPOCHS["float"]
        results = self.results("trained", epochs=EPOCHS, precision=PRECISION)

        def make() -> dict[str, Any]:
            model = self.float_model
            return {
                "clean": evaluate(model, self.task.test).accuracy,
                "noisy": evaluate(model, self.noisy_test).accuracy,
            }

        yield Job(
            results=results,
            of={"sigma": self.sigma, "bits": "float"},
            make=make,
            folder=self.folder / f"float-e{epochs}",
        )


def run(job: Job) -> bool:
    """Make a row unless another process is at it; whether it is there now."""
    if job.results.find(job.of) is None:
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            with hold(job.folder, wait=False):
                job.results.row(job.of, job.make)
        except Busy:
            return False
    return True


def main() -> None:
    """All parts of all sigmas, one sigma after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    for sigma in given.sigmas[: 1 if given.smoke else None]:
        study = Study(sigma, fresh=given.fresh, smoke=given.smoke)
        for part in given.parts:
            for job in getattr(study, part)():
                run(job)


if __name__ == "__main__":
    main()
