"""What the scripts of this folder share: the network, the data, the budget, the clock, and where results go."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import records
from common import cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit.cost import Budget, LayerBits, cost_table, costs
from mixbit.network import Network, capture
from mixbit.policy import Policy

HERE = Path(__file__).resolve().parent
POLICIES = HERE / "policies"
RESULTS = HERE / "results"
BUDGET = "10x"
"""Weight bytes of the float network, divided by ten: 3.2 bits a weight."""
WEIGHTS = "cifar10_resnet20_akamaster.safetensors"
BITS = (8, 4, 2)
"""Weight widths that every search of this folder may choose from; activations are at 8 bits."""


@dataclass(frozen=True, slots=True)
class Subject:
    """ResNet-20 with its pretrained weights, CIFAR-10, and the budget."""

    network: Network
    dataset: data.DataSet
    budget: Budget

    @classmethod
    def load(cls, budget: str = BUDGET) -> Subject:
        """Read weights and data; nothing of this is timed."""
        dataset = data.load(cifar10())
        network = capture(float_model(), next(dataset.test.batches(2))[0])
        return cls(network, dataset, Budget.parse([f"weight-bytes={budget}"]))

    @property
    def limit_bits(self) -> int:
        """The budget in bits."""
        return self.budget.resolve(self.network, {})["weight_bits"]

    def images(self, count: int, batch_size: int, *, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The first batches of a shuffled pass over the training images, without augmentation."""
        batches = self.dataset.train.batches(batch_size, seed=seed, shuffle=True)
        return [next(batches) for _ in range(count // batch_size)]

    def policy(self, bits: dict[str, LayerBits], **rest: Any) -> Policy:
        """A policy of these bits; an error if it exceeds the budget, or leaves a layer out or in float."""
        ordered = {layer.name: bits[layer.name] for layer in self.network.layers}
        if len(ordered) != len(bits) or any(None in (b.weight_bits, b.activation_bits) for b in ordered.values()):
            sys.exit(f"The policy is not one of this network, or has float layers: {bits}.")
        self.budget.check(costs(self.network, ordered), {"weight_bits": self.limit_bits})
        return Policy(
            fingerprint=self.network.fingerprint,
            layers=ordered,
            budget=self.budget.texts,
            costs=cost_table(self.network, ordered),
            **rest,
        )


def float_model() -> Any:
    """ResNet-20 with the pretrained weights, in evaluation mode."""
    model = models.build("resnet20")
    models.load_weights(model, shared_data() / "weights" / WEIGHTS)
    return model.eval()


@dataclass(slots=True)
class Clock:
    """Seconds of one or more spans."""

    cpu: float = 0.0
    """Of this process and of the solvers that it started."""
    wall: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the seconds of the block."""
        cpu, wall = _cpu(), time.perf_counter()
        yield
        self.cpu += _cpu() - cpu
        self.wall += time.perf_counter() - wall


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextmanager
def silent_solvers() -> Iterator[None]:
    """Send what child processes print to nowhere; CBC prints a page a solution."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


FOUND = ("budget", "costs", "weight_bits")
"""Parts of every result file of a search, beside its own."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy in `policies/NAME.json`, and how it was found in `results/NAME.json`.

    The budget is part of the name unless it is the usual one.
    """

    name: str
    budget: str
    parts: tuple[str, ...]
    """Of the result file, beside `FOUND`."""
    packages: tuple[str, ...]
    settings: dict[str, Any]
    given: argparse.Namespace
    """With `fresh` and `smoke`."""

    @property
    def file(self) -> str:
        """Without `.json`."""
        return self.name if self.budget == BUDGET else f"{self.name}_{self.budget}"

    @property
    def policy(self) -> Path:
        """The policy's file."""
        return (records.SMOKE / "policies" if self.given.smoke else POLICIES) / f"{self.file}.json"

    @property
    def paths(self) -> list[str]:
        """All parts."""
        return [*self.parts, *FOUND]

    def results(self, *, fresh: bool = False) -> records.Results:
        """The result file; a policy that is not there has to be found anew."""
        return records.Results(
            self.file,
            settings={"budget": self.budget, **self.settings},
            inputs=sources(),
            libraries=self.packages,
            fresh=fresh or self.given.fresh or not self.policy.exists(),
            smoke=self.given.smoke,
            folder=RESULTS,
        )

    def missing(self) -> bool:
        """Say what will be reused and what made; whether anything is made."""
        return bool(self.results().plan(self.paths))

    def write(self, make: Callable[[], tuple[Policy, dict[str, Any]]], *, fresh: bool = False) -> dict[str, Any]:
        """All parts: from the file, or made now, with the policy."""

        def made() -> dict[str, Any]:
            policy, payload = make()
            self.policy.parent.mkdir(parents=True, exist_ok=True)
            policy.save(self.policy)
            bits = {layer: one.weight_bits for layer, one in policy.layers.items()}
            return {**payload, "budget": policy.budget, "costs": policy.costs, "weight_bits": bits}

        results = self.results(fresh=fresh)
        results.facts(versions=records.versions(self.packages))
        return results.parts(self.paths, made)


def sources() -> dict[str, Path]:
    """What goes into every search: weights and data."""
    return {"weights": shared_data() / "weights" / WEIGHTS, "data": cifar10_folder()}
