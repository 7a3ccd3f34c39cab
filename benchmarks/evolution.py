"""Evolution of bits beside plain NSGA-II of pymoo, at equal evaluations: hypervolume, seed by seed.

    python benchmarks/evolution.py [--seeds 10] [--images 128] [--fresh | --smoke]

Both have 40 genomes a generation and 25 generations. pymoo has the operators that it has for whole numbers: random
integers, simulated binary crossover and polynomial mutation, both rounded. Problems: ZDT1 and ZDT2 in whole numbers,
whose fronts are known, and policies of real networks, BitOps against the sum of the FIT scores of all layers, measured
on training images. The volume is counted from the worst values that either side saw, in parts of what the known front
has, or of the box that both sides' best and worst values span. Both sides begin at random.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import records
from common import cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit.cost import LayerBits, costs
from mixbit.methods import Fit
from mixbit.network import Network, capture
from mixbit.policy import Scores, resolve_pins
from mixbit.search import Evolution, hypervolume
from mixbit.task import Task
from supernet_cost import WEIGHTS

POPULATION, GENERATIONS = 40, 25
BITS = (2, 3, 4, 5, 6, 8)

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What both sides minimise."""

    evaluate: Callable[[NDArray[np.int64]], Values]
    """`(n, genes)` -> `(n, 2)`."""
    genes: int
    choices: int
    front: Values | None = None
    """The best values that there are, where they are known."""


def zdt(kind: int, genes: int = 20, choices: int = 8) -> Problem:
    """ZDT1 or ZDT2 (Zitzler, Deb, Thiele 2000) in whole numbers; the best tail is drawn, as zeros would be a corner."""
    top, target = choices - 1, np.random.default_rng(kind).integers(0, choices, genes - 1)

    def second(first: Values, rest: Values | float) -> Values:
        ratio = first / rest
        return np.asarray(rest * (1 - (np.sqrt(ratio) if kind == 1 else ratio**2)))

    def evaluate(genomes: NDArray[np.int64]) -> Values:
        first = genomes[:, 0] / top
        rest = 1 + 9 * (np.abs(genomes[:, 1:] - target) / top).mean(axis=1)
        return np.stack([first, second(first, rest)], axis=1)

    ends = np.arange(choices) / top
    return Problem(evaluate=evaluate, genes=genes, choices=choices, front=np.stack([ends, second(ends, 1.0)], axis=1))


def policies(network: Network, scores: Scores) -> Problem:
    """Bits of each layer's weights and of each tensor that layers read: BitOps against the sum of the scores.

    Raises:
        RuntimeError: our sum of BitOps is not the one of the cost model.
    """
    pins = resolve_pins(network)
    free = [layer for layer in network.layers if layer.name not in pins]
    tensors = list(dict.fromkeys(layer.input_tensor for layer in free))
    of = np.array([len(free) + tensors.index(layer.input_tensor) for layer in free])
    found = [scores.layers[layer.name] for layer in free]
    weight = np.array([[one.weight[b] for b in BITS] for one in found])
    tensor = np.array([[one.activation[b] for b in BITS] for one in found])
    macs, bits, rows = np.array([layer.macs for layer in free]), np.array(BITS), np.arange(len(free))

    def evaluate(genomes: NDArray[np.int64]) -> Values:
        weights, inputs = genomes[:, : len(free)], genomes[:, of]
        bitops = (bits[weights] * bits[inputs]) @ macs
        harm = (weight[rows, weights] + tensor[rows, inputs]).sum(axis=1)
        return np.stack([bitops, harm], axis=1)

    three, four = ({layer.name: LayerBits(b, b) for layer in free} for b in (3, 4))
    uniform = np.array([[BITS.index(b)] * (len(free) + len(tensors)) for b in (3, 4)])
    apart = costs(network, {**pins, **four}).bitops - costs(network, {**pins, **three}).bitops
    if np.diff(evaluate(uniform)[:, 0]) != apart:
        raise RuntimeError("the BitOps of the problem are not those of the network")
    return Problem(evaluate=evaluate, genes=len(free) + len(tensors), choices=len(BITS))


def measured(name: str, images: int) -> Problem:
    """Of a published network, with scores from its own training images."""
    dataset, model = data.load(cifar10()), models.build(name)
    models.load_weights(model, shared_data() / "weights" / WEIGHTS[name])
    network = capture(model, next(dataset.test.batches(2))[0])
    task = Task(model=model, train=dataset.train, test=dataset.test, network=network)
    return policies(network, Fit(bits=BITS, images=images).search(task, quiet=True))


def ours(problem: Problem, seed: int) -> Values:
    """All values that our evolution sees."""
    asked = Evolution(
        options=(problem.choices,) * problem.genes,
        objectives=("min", "min"),
        population=POPULATION,
        generations=GENERATIONS,
        seed=seed,
    )
    return asked.run(problem.evaluate).values


def theirs(problem: Problem, seed: int) -> Values:
    """All values that pymoo's NSGA-II sees."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as Space
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    seen: list[Values] = []

    class Genomes(Space):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=problem.genes, n_obj=2, xl=0, xu=problem.choices - 1, vtype=int)

        def _evaluate(self, x: NDArray[np.int64], out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = problem.evaluate(x.astype(int))
            seen.append(out["F"])

    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=SBX(repair=RoundingRepair()),
        mutation=PM(repair=RoundingRepair()),
    )
    minimize(Genomes(), algorithm, ("n_gen", GENERATIONS), seed=seed)
    return np.concatenate(seen)


def volumes(problem: Problem, seeds: int) -> dict[str, Any]:
    """Of both sides, seed by seed."""
    sides = {"ours": [ours(problem, seed) for seed in range(seeds)]}
    sides["pymoo"] = [theirs(problem, seed) for seed in range(seeds)]
    everything = np.concatenate([one for runs in sides.values() for one in runs])
    best, worst = everything.min(axis=0), everything.max(axis=0)
    whole = float(np.prod(worst - best)) if problem.front is None else hypervolume(problem.front, worst)
    found: dict[str, Any] = {side: [hypervolume(one, worst) / whole for one in runs] for side, runs in sides.items()}
    counts = {side: sorted({len(one) for one in runs}) for side, runs in sides.items()}
    ratio = statistics.fmean(found["ours"]) / statistics.fmean(found["pymoo"])
    return {**found, "ratio": ratio, "evaluations": counts, "genes": problem.genes, "choices": problem.choices}


def main() -> None:
    """Search, and write problem by problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--images", type=int, default=128, help="for the scores")
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds, images = (1, 4) if given.smoke else (given.seeds, given.images)
    results = records.Results(
        "evolution",
        settings={"seeds": seeds, "images": images, "population": POPULATION, "generations": GENERATIONS},
        inputs={
            **{name: shared_data() / "weights" / file for name, file in WEIGHTS.items()},
            "data": cifar10_folder(),
        },
        libraries=("torch", "numpy", "pymoo"),
        fresh=given.fresh,
        smoke=given.smoke,
    )
    work: dict[str, Callable[[], Problem]] = {
        "ZDT1": lambda: zdt(1),
        **({} if given.smoke else {"ZDT2": lambda: zdt(2)}),
    }
    work |= {name: lambda name=name: measured(name, images) for name in [*WEIGHTS][: 1 if given.smoke else None]}  # type: ignore[misc]
    results.plan([f"problems.{name}" for name in work])
    for name, make in work.items():
        found = results.part(f"problems.{name}", lambda make=make: volumes(make(), seeds))  # type: ignore[misc]
        print(name, found["ratio"], found["evaluations"])


if __name__ == "__main__":
    main()
