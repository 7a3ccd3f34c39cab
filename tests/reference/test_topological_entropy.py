"""Topological entropy: exact laws of noise, the papers' examples, and the programs on ResNet-20's entropies."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mixbit import models
from mixbit.allocation import AllocationSettings, allocate, solve
from mixbit.cost import Budget
from mixbit.data import TensorSplit
from mixbit.methods import TopologicalEntropy
from mixbit.network import Network, capture
from mixbit.policy import LayerScores, Program, Scores
from mixbit.task import Task
from mixbit.topology import birth_times, channel_entropies, first_betti, layer_entropy, noise_births
from tests.support import layer, network, shared

# ------------------------------------------------------------------------------------------------- named graphs


def graph(vertices: int, edges: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    joined = np.zeros((vertices, vertices), dtype=bool)
    for a, b in edges:
        joined[a, b] = True
    return joined


def cycle(n: int) -> list[tuple[int, int]]:
    return [(i, (i + 1) % n) for i in range(n)]


PETERSEN = [*cycle(5), *((i, i + 5) for i in range(5)), *((5 + i, 5 + (i + 2) % 5) for i in range(5))]
OCTAHEDRON = [(a, b) for a, b in itertools.combinations(range(6), 2) if b != a + 3]
NAMED = {
    "C3": (3, cycle(3), 0),
    "C4": (4, cycle(4), 1),
    "C4 and a chord": (4, [*cycle(4), (0, 2)], 0),
    "C5": (5, cycle(5), 1),
    "C6": (6, cycle(6), 1),
    "K4": (4, list(itertools.combinations(range(4), 2)), 0),
    "K33": (6, list(itertools.product(range(3), range(3, 6))), 4),
    "Petersen": (10, PETERSEN, 6),
    "octahedron": (6, OCTAHEDRON, 0),
}


@pytest.mark.parametrize("name", NAMED)
def test_first_betti_numbers(name: str) -> None:
    vertices, edges, wanted = NAMED[name]
    assert first_betti(graph(vertices, edges)) == wanted


def test_the_example_of_both_papers() -> None:
    """Four vertices, edges in the order 12, 34, 24, 13, 23, 14: a hole at the fourth, filled by the fifth."""
    order = [(0, 1), (2, 3), (1, 3), (0, 2), (1, 2), (0, 3)]
    curve = [first_betti(graph(4, order[:v])) for v in range(7)]
    assert curve == [0, 0, 0, 0, 1, 0, 0]
    weights = np.zeros((4, 4))
    for at, (a, b) in enumerate(order):
        weights[b, a] = 6 - at
    assert int(birth_times(weights)) == 4


# ----------------------------------------------------------------------------------------------- laws of noise

LAWS = {
    4: ({4: 1 / 5}, 0.0, 0.500402),
    5: ({4: 0.071429, 5: 0.238095, 6: 0.142857, 7: 0.057143}, 1.232860, 1.321137),
    6: (
        {4: 0.032967, 5: 0.131868, 6: 0.251748, 7: 0.174226, 8: 0.099301, 9: 0.050235, 10: 0.022968, 11: 0.006390},
        1.725896,
        1.868062,
    ),
}


@cache
def law(m: int) -> dict[int, float]:
    """Birth -> probability for noise on m vertices, over all sets of edges that can be there at a time.

    Every order of the edges is equally likely. `reach` is the probability that a set is the one of its size and that
    no hole was there before.
    """
    edges = list(itertools.combinations(range(m), 2))
    reach = {0: 1.0}
    found: dict[int, float] = {}
    for step in range(1, len(edges) + 1):
        after: dict[int, float] = {}
        for present, chance in reach.items():
            for at in range(len(edges)):
                if not present >> at & 1:
                    now = present | 1 << at
                    after[now] = after.get(now, 0.0) + chance / (len(edges) - step + 1)
        reach = {}
        for present, chance in after.items():
            if first_betti(graph(m, [edge for at, edge in enumerate(edges) if present >> at & 1])):
                found[step] = found.get(step, 0.0) + chance
            else:
                reach[present] = chance
    return found


def entropy(parts: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in parts if p)


@pytest.mark.parametrize("m", [4, 5])
def test_exact_law_of_noise(m: int) -> None:
    wanted, dropped, counted = LAWS[m]
    found = law(m)
    assert found == pytest.approx(wanted, abs=1e-6)
    total = sum(found.values())
    assert entropy([p / total for p in found.values()]) == pytest.approx(dropped, abs=1e-6)
    assert entropy([*found.values(), 1 - total]) == pytest.approx(counted, abs=1e-6)


@pytest.mark.parametrize("m", LAWS)
def test_births_of_noise_follow_the_law(m: int) -> None:
    """100,000 maps: five standard errors of each share, and the entropies to three in a thousand."""
    wanted, dropped, counted = LAWS[m]
    births = birth_times(np.random.default_rng(m).random((100_000, m, m), dtype=np.float32))
    for birth, chance in wanted.items():
        assert np.mean(births == birth) == pytest.approx(chance, abs=5 * math.sqrt(chance / 100_000))
    assert np.mean(births == 0) == pytest.approx(1 - sum(wanted.values()), abs=0.008)
    table = births[:, None]
    assert channel_entropies(table)[0] == pytest.approx(dropped, abs=0.006)
    assert channel_entropies(table, missing="bin0")[0] == pytest.approx(counted, abs=0.006)


@pytest.mark.parametrize(
    ("m", "mean", "median"),
    [(7, 1.93, 7), (8, 2.03, 8), (14, 2.26, 12), (16, 2.30, 13), (28, 2.69, 20), (32, 2.78, 22), (56, 3.19, 35)],
)
def test_entropy_of_noise_from_128_images(m: int, mean: float, median: int) -> None:
    births = noise_births((m, m), 128, 32)
    assert channel_entropies(births).mean() == pytest.approx(mean, abs=0.04)
    assert np.median(births[births > 0]) == pytest.approx(median, abs=1)


def test_entropy_of_noise_on_112_vertices() -> None:
    births = noise_births((112, 112), 128, 8)
    assert channel_entropies(births).mean() == pytest.approx(3.64, abs=0.05)
    assert np.median(births) == pytest.approx(65, abs=2)


def test_worked_entropies() -> None:
    four, none = [[4], [4], [5], [6]], [[4], [4], [5], [6], [0]]
    assert channel_entropies(four)[0] == pytest.approx(1.039721, abs=1e-6)
    assert channel_entropies(none)[0] == pytest.approx(1.039721, abs=1e-6)
    assert channel_entropies(none, missing="bin0")[0] == pytest.approx(1.332179, abs=1e-6)
    assert channel_entropies(np.arange(1, 129)[:, None])[0] == pytest.approx(4.852030, abs=1e-6)


@pytest.mark.parametrize(("weighting", "wanted"), [("mean", 2), ("prop", 2.333333), ("softmax", 2.575210)])
def test_layer_weights(weighting: str, wanted: float) -> None:
    assert layer_entropy([1, 2, 3], weighting=weighting) == pytest.approx(wanted, abs=1e-6)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- programs on ResNet-20

# Entropies of its 19 convolutions on 128 pictures of cats. They are rounded to three digits, and the objectives below
# are those before rounding: hence the tolerances.
TE = [3.370, 3.425, 3.176, 3.056, 2.988, 3.288, 2.999]
TE += [2.546, 2.728, 2.822, 2.588, 2.716, 2.597, 2.300, 2.276, 2.294, 2.176, 2.045, 2.262]
BITS = tuple(range(2, 9))


@pytest.fixture(scope="module")
def resnet20() -> Network:
    return capture(models.build("resnet20"), torch.zeros(1, 3, 32, 32))


def solved(harm: list[list[float]], use: list[int], budget: int) -> tuple[list[int], float]:
    answer = solve(harm, {"use": [[one * b for b in BITS] for one in use]}, {"use": budget})
    assert answer.proven
    return [BITS[option] for option in answer.choice], answer.objective


LINEAR = [[-te * b for b in BITS] for te in TE]
CONCAVE = [[te * 4.0**-b for b in BITS] for te in TE]


def test_linear_program_is_bang_bang(resnet20: Network) -> None:
    """At 4 bits a weight in the mean: the most bits for 14 layers, the least for five."""
    weights = [one.weights for one in resnet20.layers if one.kind == "conv2d"]
    bits, objective = solved(LINEAR, weights, 4 * sum(weights))
    assert bits == [8] * 14 + [2] * 5
    assert -objective == pytest.approx(346.908, abs=0.02)


def test_linear_program_by_macs(resnet20: Network) -> None:
    macs = [one.macs for one in resnet20.layers if one.kind == "conv2d"]
    _, objective = solved(LINEAR, macs, 4 * sum(macs))
    assert -objective == pytest.approx(239.273, abs=0.02)


def test_linear_program_in_order(resnet20: Network) -> None:
    """No layer has fewer bits than one of lower entropy."""
    convolutions = [one for one in resnet20.layers if one.kind == "conv2d"]
    net = network([layer(one.name, f"t{i}", f"t{i + 1}", macs=one.macs) for i, one in enumerate(convolutions)])
    names = [one.name for one in net.layers]
    scores = Scores(
        fingerprint=net.fingerprint,
        method="TE",
        layers={
            name: LayerScores(weight={b: -te * b for b in BITS}, activation={8: 0.0})
            for name, te in zip(names, TE, strict=True)
        },
        program=Program(order=tuple(names[i] for i in np.argsort(-np.array(TE)))),
    )
    budget = Budget.parse([f"bitops={8 * 4 * sum(one.macs for one in net.layers)}"])
    policy, _ = allocate(net, scores, budget, AllocationSettings(pins={}))
    bits = [policy.layers[name].weight_bits for name in names]
    assert bits == [8, 8, 8, 8, 3, 8, 4, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    assert sum(te * b for te, b in zip(TE, bits, strict=True)) == pytest.approx(228.485, abs=0.02)


def test_concave_program_is_graded(resnet20: Network) -> None:
    weights = [one.weights for one in resnet20.layers if one.kind == "conv2d"]
    bits, objective = solved(CONCAVE, weights, 4 * sum(weights))
    assert bits == [8, 6, 6, 5, 5, 6, 5, 5, 5, 5, 5, 5, 5, 4, 4, 4, 3, 3, 4]
    assert objective == pytest.approx(0.128541, abs=1e-5)
    macs = [one.macs for one in resnet20.layers if one.kind == "conv2d"]
    assert solved(CONCAVE, macs, 4 * sum(macs))[0] == [4] * 19


def test_maps_of_mobilenetv2() -> None:
    captured = capture(models.build("mobilenetv2"), torch.zeros(1, 3, 224, 224))
    shapes = [one.output_shape for one in captured.layers if one.kind == "conv2d"]
    channels: dict[int, int] = {}
    for shape in shapes:
        channels[shape[-1]] = channels.get(shape[-1], 0) + shape[0]
    assert len(shapes) == 52
    assert channels == {112: 176, 56: 576, 28: 1200, 14: 6688, 7: 8416}


def cats() -> TensorSplit:
    """The 1,000 real CIFAR-10 test pictures of cats, normalised as ResNet-20 wants them."""
    path = shared("data", "load.py")
    spec = importlib.util.spec_from_file_location("shared_load", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images, labels = module.sheets(str(path.parent / "cifar10"), "test")
    pixels = torch.from_numpy(images[labels == 3].copy()).permute(0, 3, 1, 2).contiguous()
    info = models.info("resnet20")
    return TensorSplit(pixels, torch.full((len(pixels),), 3), 10, info.mean, info.std)


@pytest.mark.data
def test_entropies_of_resnet20_follow_the_size_of_its_maps() -> None:
    """The published weights on real pictures, which are not the files that `TE` was measured on."""
    file = shared("data", "weights", "cifar10_resnet20_akamaster.safetensors")
    model = models.load_weights(models.build("resnet20"), file).eval()
    split = cats()
    scores = TopologicalEntropy(first_last=True).search(Task(model=model, train=split, test=split), quiet=True)
    details = scores.settings["topological_entropy"]
    assert isinstance(details, dict)
    rows = details["layers"]
    assert isinstance(rows, list)
    found = np.array([row["te"] for row in rows])  # type: ignore[call-overload, index]
    sizes = np.array([row["size"] for row in rows])  # type: ignore[call-overload, index]
    ranges = {size: (found[sizes == size].min(), found[sizes == size].max()) for size in (32, 16, 8)}
    for size, (low, high) in {32: (2.9, 3.5), 16: (2.45, 2.9), 8: (1.95, 2.4)}.items():
        assert low <= ranges[size][0] and ranges[size][1] <= high
    assert details["spearman_with_size"] == pytest.approx(0.94, abs=0.02)
    assert np.abs(found - TE).max() < 0.15 and np.corrcoef(found, TE)[0, 1] > 0.98
