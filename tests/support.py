"""Networks built by hand, so that tests of costs, policies and allocation need no model and no capture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mixbit.cost import (
    Budget,
    Device,
    LatencyTable,
    LatencyUnit,
    LayerBits,
    LayerLatency,
    MemoryTable,
    Part,
    RamStep,
    Timing,
    _costs,
    costs,
)
from mixbit.network import Layer, Network, Tensor
from mixbit.policy import LayerScores, Scores
from tests.needs import shared_folder, why

ROOT = Path(__file__).resolve().parent.parent


def shared(*parts: str) -> Path:
    """A file of the shared reference material beside the repository, or a skip that says what is missing."""
    path = shared_folder().joinpath(*parts)
    if not path.exists():
        pytest.skip(why("shared"))
    return path


EPSILON = 2.0**-23  # of float32


def summation_error(terms: float, count: int) -> float:
    """How far two sums of the same float32 numbers may lie apart when they are added in another order.

    Processors add in another order: eight numbers at once, sixteen, or one. The bound is `2 sqrt(count) eps terms`:
    errors of `count` roundings of random sign, each at most eps of the sum of magnitudes (Higham and Mary, SIAM J.
    Sci. Comput. 41(5), 2019; the worst case has `count` for its root). It is relative to the terms and not to their
    sum, which may be near zero.

    Args:
        terms: sum of the magnitudes of what is added.
        count: how many they are.

    >>> 1e-4 < summation_error(60.0, 128) < 2e-4
    True
    """
    return 2 * math.sqrt(count) * EPSILON * terms


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Budget], list[dict[str, LayerBits]]]:
    """The budgets that are resolved from now on, and the bits that are costed, each as often as it happens."""
    resolved: list[Budget] = []
    costed: list[dict[str, LayerBits]] = []
    resolve, peak = Budget.resolve, _costs._peak
    monkeypatch.setattr(Budget, "resolve", lambda one, *given: (resolved.append(one), resolve(one, *given))[1])
    monkeypatch.setattr(_costs, "_peak", lambda net, layers: (costed.append(dict(layers)), peak(net, layers))[1])
    return resolved, costed


def layer(
    name: str, reads: str, writes: str, *, weights: int = 100, macs: int = 1000, limpq: int | None = None
) -> Layer:
    """A linear layer of the given counts; `limpq` is its MACs in LIMPQ's counting."""
    return Layer(
        name=name,
        kind="linear",
        parameter=f"{name}.weight",
        weight_shape=(weights, 1),
        groups=1,
        macs=macs,
        macs_limpq=macs if limpq is None else limpq,
        input_shape=(1,),
        output_shape=(weights,),
        input_tensor=reads,
        output_tensor=writes,
        input_signed=True,
    )


def network(
    layers: Sequence[Layer],
    *,
    sizes: Mapping[str, int] | None = None,
    elsewhere: Sequence[str] = (),
    until: Mapping[str, str] | None = None,
    other_macs: int = 0,
) -> Network:
    """One step a layer; a tensor lives from the layer that writes it to the last layer that reads it.

    Args:
        layers: in execution order.
        sizes: tensor -> elements, default 64.
        elsewhere: tensors that something beside layers reads as well; tensors that no layer reads are always such.
        until: tensor -> name of the layer at which it is read last, where that is later.
        other_macs: MACs without weights.
    """
    names = [one.name for one in layers]
    written = {one.output_tensor: step for step, one in reversed(list(enumerate(layers)))}
    tensors = []
    for name in dict.fromkeys([*(one.input_tensor for one in layers), *(one.output_tensor for one in layers)]):
        readers = tuple(one.name for one in layers if one.input_tensor == name)
        last = names.index((until or {}).get(name, readers[-1] if readers else names[-1]))
        tensors.append(
            Tensor(
                name=name,
                shape=((sizes or {}).get(name, 64),),
                first_step=written.get(name, 0),
                last_step=last,
                readers=readers,
                read_elsewhere=name in elsewhere or not readers,
            )
        )
    return Network(
        layers=tuple(layers), tensors=tuple(tensors), steps=tuple(names), joins=(), skipped=(), other_macs=other_macs
    )


def chain(*counts: tuple[int, int]) -> Network:
    """Layers `l0`, `l1`, ... one after the other, with the given (weights, MACs)."""
    return network([layer(f"l{i}", f"t{i}", f"t{i + 1}", weights=w, macs=m) for i, (w, m) in enumerate(counts)])


def random_network(seed: int, layers: int = 5) -> Network:
    """Every layer reads one of the tensors so far, so that some share it; random sizes, some tensors read elsewhere."""
    rng = np.random.default_rng(seed)
    built = [
        layer(
            f"l{i}",
            f"t{rng.integers(max(0, i - 1), i + 1)}",
            f"t{i + 1}",
            weights=int(rng.integers(10, 500)),
            macs=int(rng.integers(100, 5000)),
        )
        for i in range(layers)
    ]
    sizes = {f"t{i}": int(rng.integers(8, 300)) for i in range(layers + 1)}
    elsewhere = [f"t{i}" for i in range(layers) if rng.random() < 0.3]
    return network(built, sizes=sizes, elsewhere=elsewhere)


def random_scores(found: Network, bits: Sequence[int] = (2, 3, 4), seed: int = 0, *, monotone: bool = True) -> Scores:
    """A harm for every layer and bit-width; falling with more bits if `monotone`."""
    rng = np.random.default_rng(seed)

    def curve() -> dict[int, float]:
        harms = rng.random(len(bits))
        ordered = np.sort(harms)[::-1] if monotone else harms
        return {b: float(h) for b, h in zip(sorted(bits), ordered, strict=True)}

    layers = {one.name: LayerScores(weight=curve(), activation=curve()) for one in found.layers}
    return Scores(fingerprint=found.fingerprint, method="random", seed=seed, alpha=1.5, layers=layers)


def latency_table(
    found: Network,
    times: Mapping[str, Mapping[str, int]],
    *,
    rest: int = 0,
    unit: LatencyUnit = "ns",
    float32: int | None = None,
    notes: Sequence[str] = (),
) -> LatencyTable:
    """Numbers by hand: layer -> `W3A4` -> what it takes, and `rest` for all that is no layer."""
    layers = {
        one.name: LayerLatency(
            kind=one.kind,
            weight_shape=one.weight_shape,
            groups=one.groups,
            input_shape=one.input_shape,
            output_shape=one.output_shape,
            options={text: Timing(median=value, spread=1) for text, value in times[one.name].items()},
        )
        for one in found.layers
    }
    return LatencyTable(
        fingerprint=found.fingerprint,
        target="by hand",
        unit=unit,
        device=Device(cpu="a CPU", cores=2),
        runtime="paper",
        runtime_version="1.0",
        threads=1,
        batch=1,
        repeats=3,
        layers=layers,
        other=(Part(name="run", kind="overhead", shape=(), median=rest, spread=0),),
        float32=None if float32 is None else Timing(median=float32, spread=0),
        notes=tuple(notes),
    )


def random_latency(
    found: Network, bits: Sequence[int] = (2, 3, 4, 8), seed: int = 0, *, rest: int = 500
) -> LatencyTable:
    """Any numbers: fewer bits may take longer, as on real devices."""
    rng = np.random.default_rng(seed)
    options = [str(LayerBits(w, a)) for w in bits for a in bits]
    times = {one.name: {text: int(rng.integers(100, 5000)) for text in options} for one in found.layers}
    return latency_table(found, times, rest=rest)


def random_memory(found: Network, bits: Sequence[int] = (2, 3, 4, 5, 8), seed: int = 0) -> MemoryTable:
    """Any numbers: code of a width may cost more than it saves, and every step needs some tensors in any container.

    With an odd seed, some layers need no code.
    """
    rng = np.random.default_rng(seed)
    tensors = {one.input_tensor for one in found.layers}
    steps = [
        RamStep(
            name=f"step {number}",
            constant=int(rng.integers(0, 50)),
            tensors={name: {b: int(rng.integers(1, 10)) * b for b in bits} for name in tensors if rng.random() < 0.5},
        )
        for number in range(4)
    ]
    return MemoryTable(
        fingerprint=found.fingerprint,
        target="by hand",
        weights={one.name: {b: -(-one.weights * b // 8) for b in bits} for one in found.layers},
        code={b: int(rng.integers(0, 200)) for b in bits},
        rest=int(rng.integers(0, 1000)),
        steps=tuple(steps),
        coded=frozenset(one.name for one in found.layers if rng.random() < 0.6) if seed % 2 else None,
    )


def best_by_enumeration(
    net: Network,
    scores: Scores,
    budget: Budget,
    pins: Mapping[str, LayerBits],
    *,
    ties: bool,
    latency: LatencyTable | None = None,
    memory: MemoryTable | None = None,
) -> float:
    """The smallest harm of all policies within the budget, infinite if there is none."""
    limits = budget.resolve(net, pins, latency=latency, memory=memory)
    free = [one.name for one in net.layers if one.name not in pins]
    choices = [[LayerBits(w, a) for w in scores.layers[n].weight for a in scores.layers[n].activation] for n in free]
    tied = [[name for name in group if name in free] for group in net.ties()] if ties else []
    best = math.inf
    for picked in product(*choices):
        layers = {**pins, **dict(zip(free, picked, strict=True))}
        if any(len({layers[name].activation_bits for name in group}) > 1 for group in tied):
            continue
        harm = sum(scores.harm(name, layers[name]) for name in free)
        used = costs(net, layers, latency=latency, memory=memory)
        if harm < best and min(budget.slack(used, limits).values()) >= 0:
            best = harm
    return best
