"""What an infeasible budget is answered with: an enumeration of all policies is the oracle."""

from __future__ import annotations

import math
import re
from itertools import product

import numpy as np
import pytest

from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LatencyTable, LayerBits, Limit, MemoryTable, Pins, costs
from mixbit.errors import InfeasibleBudget
from mixbit.network import Network
from mixbit.policy import Scores
from tests.support import random_latency, random_memory, random_network, random_scores

KINDS = ("bitops", "weight-bytes", "activation-bytes", "latency", "flash", "ram")
BITS = (2, 5)
UNIT = {"bitops": "", "latency": "ns"}


def every_cost(
    net: Network, scores: Scores, pins: Pins, *, ties: bool, latency: LatencyTable, memory: MemoryTable
) -> list[dict[str, int]]:
    """Costs of all policies, by attribute of `Costs`."""
    free = [one.name for one in net.layers if one.name not in pins]
    choices = [[LayerBits(w, a) for w in scores.layers[n].weight for a in scores.layers[n].activation] for n in free]
    tied = [[name for name in group if name in free] for group in net.ties()] if ties else []
    keys = [Limit.parse(kind, "1%" if kind in ("flash", "ram") else "1x").key for kind in KINDS]
    found = []
    for picked in product(*choices):
        layers = {**pins, **dict(zip(free, picked, strict=True))}
        if all(len({layers[name].activation_bits for name in group}) < 2 for group in tied):
            used = costs(net, layers, latency=latency, memory=memory)
            found.append({key: getattr(used, key) for key in keys})
    return found


def nearest(table: list[dict[str, int]], limits: dict[str, int]) -> dict[str, int | None]:
    """Of each limit alone where one is out of reach; else beside the others, None where that does not help."""
    alone = {key: min(row[key] for row in table) for key in limits}
    if any(alone[key] > limit for key, limit in limits.items()):
        return dict(alone)
    found: dict[str, int | None] = {}
    for key in limits:
        fits = [row[key] for row in table if all(row[k] <= v for k, v in limits.items() if k != key)]
        found[key] = min(fits, default=None)
    return found


def check(seed: int) -> bool:
    """One random problem; whether its budget was out of reach."""
    rng = np.random.default_rng(seed)
    net = random_network(seed, layers=3)
    scores = random_scores(net, BITS, seed)
    latency, memory = random_latency(net, (*BITS, 8), seed), random_memory(net, (*BITS, 8), seed)
    pins: Pins = {"l1": LayerBits(8, 8)} if seed % 3 == 0 else {}
    tables = {"latency": latency, "memory": memory}
    table = every_cost(net, scores, pins, ties=bool(seed % 2), **tables)  # type: ignore[arg-type]
    chosen = rng.choice(KINDS, size=int(rng.integers(1, 5)), replace=False).tolist()
    keys = {kind: Limit.parse(kind, "1x").key for kind in chosen}
    limits, texts = {}, []
    for kind, key in keys.items():
        values = sorted({row[key] for row in table})
        value = int(rng.choice(values[: 1 + len(values) // 3])) - int(rng.integers(0, 2))
        scale = 8 if kind == "weight-bytes" else 1
        limits[key] = max(1, value // scale) * scale
        texts.append(f"{kind}={limits[key] // scale}{UNIT.get(kind, 'B')}")
    best = min((1 for row in table if all(row[key] <= limit for key, limit in limits.items())), default=math.inf)
    budget = Budget.parse(texts)
    if best == 1:
        allocate(net, scores, budget, AllocationSettings(pins=pins, ties=bool(seed % 2), **tables))  # type: ignore[arg-type]
        return False
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, scores, budget, AllocationSettings(pins=pins, ties=bool(seed % 2), **tables))  # type: ignore[arg-type]
    for (kind, key), wanted in zip(keys.items(), nearest(table, limits).values(), strict=True):
        if wanted is not None:
            assert caught.value.nearest[kind] * (8 if kind == "weight-bytes" else 1) == wanted, (seed, kind, texts)
            assert key in limits
    for way in re.findall(r"(\S+=\S+)(?= or | can\.)", str(caught.value).partition("as they are, ")[2]):
        raised = [text for text in texts if text.partition("=")[0] != way.partition("=")[0]] + [way]
        allocate(net, scores, Budget.parse(raised), AllocationSettings(pins=pins, ties=bool(seed % 2), **tables))  # type: ignore[arg-type]
    return True


def test_the_nearest_values_are_those_of_an_enumeration() -> None:
    assert sum(check(seed) for seed in range(60)) > 20


@pytest.mark.bench
def test_the_nearest_values_are_those_of_an_enumeration_ten_thousand_times() -> None:
    assert sum(check(seed) for seed in range(1000, 11_000)) > 4000
