"""What the scripts of this folder share: the network, the data, the budget, the clock, and where results go."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import records
from common import shared_data, unpacked_data
from mixbit import data, models
from mixbit.cost import Budget, LayerBits, cost_table, costs
from mixbit.network import Network, capture
from mixbit.policy import Policy

HERE = Path(__file__).resolve().parent
POLICIES = HERE / "policies"
RESULTS = HERE / "results"
BUDGET = "10x"
"""Weight bytes of the float network, divided by ten: 3.2 bits a weight."""
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
        dataset = data.load(f"cifar10:{unpacked_data()}")
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
    models.load_weights(model, shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors")
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


def write(name: str, policy: Policy, payload: dict[str, Any], packages: tuple[str, ...]) -> Path:
    """Save a policy, and beside it a result file with command, commit, machine and versions; returns the latter.

    They are `policies/NAME.json` and `results/NAME.json`; the budget is part of the name unless it is the usual one.
    """
    budget = policy.budget["weight-bytes"]
    file = f"{name}.json" if budget == BUDGET else f"{name}_{budget}.json"
    for folder in (POLICIES, RESULTS):
        folder.mkdir(exist_ok=True)
    policy.save(POLICIES / file)
    found = {
        "budget": policy.budget,
        **payload,
        "costs": policy.costs,
        "weight_bits": {layer: bits.weight_bits for layer, bits in policy.layers.items()},
    }
    made = {"seed": policy.seed, "versions": records.versions(packages)}
    return records.save(file.removesuffix(".json"), found, folder=RESULTS, **made)
