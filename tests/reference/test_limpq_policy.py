"""LIMPQ's published ResNet-50 policy, and its BitOps and sizes, from mixbit's own capture of its own networks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mixbit import models
from mixbit.allocation import AllocationSettings, allocate
from mixbit.allocation.solver import Allocation, SolverName
from mixbit.cost import Budget, LayerBits, Macs, costs, float_costs, uniform_bits
from mixbit.network import Network, capture
from mixbit.policy import LayerScores, Policy, Scores, resolve_pins
from mixbit.quantizers import find_rule, integer_range
from tests.support import random_scores, shared

BITS = (6, 5, 4, 3, 2)


@cache
def captured(name: str) -> Network:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return capture(models.build(name).eval(), torch.zeros(1, 3, 224, 224))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def resnet50() -> Network:
    return captured("resnet50")


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(shared("fixtures", "limpq_resnet50_policy.json").read_text())
    return content


@pytest.fixture(scope="module")
def scores(resnet50: Network) -> Scores:
    """The released indicators, at four digits."""
    layers = {}
    with shared("fixtures", "limpq_resnet50_indicators.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            layers[row["layer"]] = LayerScores(
                weight={bits: float(row[f"w{bits}"]) for bits in BITS},
                activation={bits: float(row[f"a{bits}"]) for bits in BITS},
            )
    return Scores(fingerprint=resnet50.fingerprint, method="limpq (released indicators)", alpha=2.0, layers=layers)


@pytest.fixture(scope="module")
def full_scores(scores: Scores) -> Scores:
    """The released indicators, at full precision."""
    table = json.loads(shared("data", "reference", "limpq_resnet50_indicators.json").read_text())
    weight, activation = (
        {name.removeprefix("module."): {int(b): s for b, s in row.items()} for name, row in table[side].items()}
        for side in ("weight", "act")
    )
    return replace(scores, layers={name: LayerScores(weight[name], activation[name]) for name in scores.layers})


def as_limpq(network: Network, scores: Scores, *texts: str, macs: Macs, **settings: Any) -> tuple[Policy, Allocation]:
    """Allocation as LIMPQ's code does it: first and last layer at 8 bits, no ties."""
    return allocate(network, scores, Budget.parse(texts), AllocationSettings(macs=macs, **{"ties": False, **settings}))


PUBLISHED = ("bitops=3x4", "weight-bytes=12.2x")


def free_bitops(network: Network, policy: Policy, macs: Macs) -> int:
    """BitOps without the two pinned layers, which LIMPQ's programme leaves out."""
    pins = resolve_pins(network)
    pinned = sum((la.macs_limpq if macs == "limpq" else la.macs) * 64 for la in network.layers if la.name in pins)
    return costs(network, policy.layers, macs=macs).bitops - pinned


def means(network: Network, policy: Policy) -> tuple[float, float]:
    free = [bits for name, bits in policy.layers.items() if name not in resolve_pins(network)]
    return sum(b.weight_bits or 0 for b in free) / len(free), sum(b.activation_bits or 0 for b in free) / len(free)


def compression(network: Network, policy: Policy) -> float:
    return float_costs(network).weight_bits / costs(network, policy.layers).weight_bits


# ------------------------------------------------------------------------------------ the published policy


def test_the_published_policy_bit_for_bit(resnet50: Network, scores: Scores, published: dict[str, Any]) -> None:
    assert (published["alpha"], published["macs"], published["compression_ratio"]) == (2, "limpq", 12.2)
    policy, found = as_limpq(resnet50, scores, *PUBLISHED, macs="limpq")
    layers = {name: bits for name, bits in policy.layers.items() if name not in resolve_pins(resnet50)}
    assert len(layers) == 52
    assert {name: bits.weight_bits for name, bits in layers.items()} == published["weight_bits"]
    assert {name: bits.activation_bits for name, bits in layers.items()} == published["activation_bits"]
    assert found.objective == pytest.approx(4.617391, abs=5e-7)
    assert (found.gap, found.proven) == (0.0, True)


def test_the_published_figures(resnet50: Network, scores: Scores, published: dict[str, Any]) -> None:
    policy, _ = as_limpq(resnet50, scores, *PUBLISHED, macs="limpq")
    used = costs(resnet50, policy.layers, macs="limpq")
    assert used.bitops / 1e9 == pytest.approx(published["total_bitops_g"], abs=5e-5)
    assert free_bitops(resnet50, policy, "limpq") / 1e9 == pytest.approx(published["searchable_bitops_g"], abs=5e-5)
    assert used.weight_bits / 8 / 2**20 == pytest.approx(published["size_mib"], abs=5e-6)
    assert compression(resnet50, policy) == pytest.approx(published["compression"], abs=5e-5)
    assert means(resnet50, policy) == pytest.approx((2.9615, 4.6346), abs=5e-5)
    exact = costs(resnet50, policy.layers)
    assert exact.bitops / 1e9 == pytest.approx(55.5446, abs=5e-5)
    assert free_bitops(resnet50, policy, "exact") / 1e9 == pytest.approx(47.8607, abs=5e-5)


def test_the_full_precision_indicators_give_the_same_policy(
    resnet50: Network, full_scores: Scores, published: dict[str, Any]
) -> None:
    policy, found = as_limpq(resnet50, full_scores, *PUBLISHED, macs="limpq")
    assert {name: policy.layers[name].weight_bits for name in full_scores.layers} == published["weight_bits"]
    assert {name: policy.layers[name].activation_bits for name in full_scores.layers} == published["activation_bits"]
    assert found.objective == pytest.approx(4.617439227, abs=1e-9)


def test_the_file_of_the_published_policy(resnet50: Network, scores: Scores, tmp_path: Path) -> None:
    policy, _ = as_limpq(resnet50, scores, *PUBLISHED, macs="limpq")
    policy.save(tmp_path / "policy.json")
    loaded = Policy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert loaded.check(resnet50) is loaded
    # Two released indicators are outliers; the policy tells which options that took away.
    assert [note for note in loaded.notes if "forbidden" in note] == [
        "layer4.0.downsample.0: weight bits 5 forbidden, they score better than more bits",
        "layer4.2.conv3: weight bits 5 forbidden, they score better than more bits",
    ]


@pytest.mark.parametrize("solver", ["auto", "dp", "milp"])
def test_every_exact_solver_finds_it(
    resnet50: Network, scores: Scores, solver: SolverName, published: dict[str, Any]
) -> None:
    policy, found = as_limpq(resnet50, scores, *PUBLISHED, macs="limpq", solver=solver)
    assert {name: policy.layers[name].weight_bits for name in scores.layers} == published["weight_bits"]
    assert {name: policy.layers[name].activation_bits for name in scores.layers} == published["activation_bits"]
    assert found.proven


def test_repair_does_not_decide_the_published_policy(
    resnet50: Network, scores: Scores, published: dict[str, Any]
) -> None:
    policy, _ = as_limpq(resnet50, scores, *PUBLISHED, macs="limpq", repair="none")
    assert {name: policy.layers[name].weight_bits for name in scores.layers} == published["weight_bits"]
    assert {name: policy.layers[name].activation_bits for name in scores.layers} == published["activation_bits"]


def test_the_rule_that_inputs_start_from_gives_nearly_the_published_policy(
    resnet50: Network, full_scores: Scores, published: dict[str, Any]
) -> None:
    """Indicators of inputs at 2 bits as released, carried to others by the rule of `limpq-init`: no weight moves."""

    def start(bits: int) -> float:
        return float(find_rule("lsq")(torch.ones(1, 8), *integer_range(bits, signed=False))[0])

    def near(one: LayerScores) -> bool:
        """Whether each bit less takes the indicator where it takes the rule, to a tenth."""
        steps = [(one.activation[b] / one.activation[b + 1], start(b) / start(b + 1)) for b in (2, 3, 4, 5)]
        return all(abs(found / rule - 1) < 0.1 for found, rule in steps)

    ratios = {bits: start(bits) / start(2) for bits in BITS}
    assert sum(near(one) for one in full_scores.layers.values()) == 36  # of 52
    assert ratios == pytest.approx({bits: (3 / (2**bits - 1)) ** 0.5 for bits in BITS})
    layers = {
        name: LayerScores(one.weight, {bits: one.activation[2] * ratio for bits, ratio in ratios.items()})
        for name, one in full_scores.layers.items()
    }
    policy, _ = as_limpq(resnet50, replace(full_scores, layers=layers), *PUBLISHED, macs="limpq")
    assert {name: policy.layers[name].weight_bits for name in layers} == published["weight_bits"]
    moved = [name for name in layers if policy.layers[name].activation_bits != published["activation_bits"][name]]
    assert len(moved) == 7
    harm = sum(full_scores.harm(name, policy.layers[name]) for name in layers)
    assert harm / 4.617439227 == pytest.approx(1.0009, abs=5e-5)


# ------------------------------------------------------------------------------------------ further targets


@pytest.mark.parametrize(
    ("texts", "macs", "objective"),
    [
        (PUBLISHED, "exact", 4.630866),
        (("bitops=2x3",), "exact", 7.445961),
        (("bitops=2x4",), "exact", 6.008885),
        (("bitops=3x3",), "exact", 5.500032),
        (("bitops=3x4",), "exact", 4.396540),
        (("bitops=4x4",), "exact", 3.434700),
        (("bitops=3x3", "weight-bytes=12.2x"), "exact", 5.622678),
        (("bitops=2x3",), "limpq", 7.427421),
        (("bitops=2x4",), "limpq", 5.987534),
        (("bitops=3x3",), "limpq", 5.479688),
        (("bitops=3x4",), "limpq", 4.376397),
        (("bitops=4x4",), "limpq", 3.422823),
        (("bitops=3x3", "weight-bytes=12.2x"), "limpq", 5.602634),
    ],
)
def test_objectives(
    resnet50: Network, full_scores: Scores, texts: tuple[str, ...], macs: Macs, objective: float
) -> None:
    _, found = as_limpq(resnet50, full_scores, *texts, macs=macs)
    assert found.objective == pytest.approx(objective, abs=6e-7)
    assert found.proven


def test_the_published_budget_with_exact_macs(resnet50: Network, scores: Scores) -> None:
    policy, found = as_limpq(resnet50, scores, *PUBLISHED, macs="exact")
    assert found.objective == pytest.approx(4.630801, abs=5e-7)
    assert policy.costs["bitops"] / 1e9 == pytest.approx(55.301, abs=6e-4)


@pytest.mark.parametrize(
    ("texts", "ratio", "total", "weight_mean", "activation_mean"),
    [
        (("bitops=2x3",), 12.087, 31.499, 2.750, 2.538),
        (("bitops=2x4",), 11.272, 39.437, 3.058, 3.077),
        (("bitops=3x3",), 11.073, 43.406, 3.192, 3.288),
        (("bitops=3x4",), 10.080, 55.313, 3.615, 3.846),
        (("bitops=4x4",), 9.478, 71.190, 3.904, 4.635),
        (("bitops=3x3", "weight-bytes=12.2x"), 12.201, 43.406, 2.827, 3.673),
    ],
)
def test_figures(
    resnet50: Network,
    full_scores: Scores,
    texts: tuple[str, ...],
    ratio: float,
    total: float,
    weight_mean: float,
    activation_mean: float,
) -> None:
    policy, _ = as_limpq(resnet50, full_scores, *texts, macs="exact")
    assert compression(resnet50, policy) == pytest.approx(ratio, abs=6e-4)
    assert policy.costs["bitops"] / 1e9 == pytest.approx(total, abs=6e-4)
    assert means(resnet50, policy) == pytest.approx((weight_mean, activation_mean), abs=6e-4)


@pytest.mark.parametrize(
    ("alpha", "weight_mean", "activation_mean", "ratio"),
    [
        (0.5, 2.10, 4.81, 12.86),
        (1, 2.38, 4.31, 12.69),
        (2, 3.17, 3.33, 11.16),
        (3, 3.77, 2.79, 9.66),
        (5, 4.27, 2.38, 8.55),
    ],
)
def test_alpha_steers_the_balance(
    resnet50: Network, full_scores: Scores, alpha: float, weight_mean: float, activation_mean: float, ratio: float
) -> None:
    policy, _ = as_limpq(resnet50, full_scores, "bitops=3x3", macs="limpq", alpha=alpha)
    assert means(resnet50, policy) == pytest.approx((weight_mean, activation_mean), abs=6e-3)
    assert compression(resnet50, policy) == pytest.approx(ratio, abs=6e-3)


@pytest.mark.parametrize(("bits", "objective"), [(2, 11.187), (3, 6.483), (4, 4.075), (5, 2.606), (6, 1.874)])
def test_uniform_objectives(full_scores: Scores, bits: int, objective: float) -> None:
    harm = sum(full_scores.harm(name, LayerBits(bits, bits)) for name in full_scores.layers)
    assert harm == pytest.approx(objective, abs=6e-4)


def test_ties_cost_a_little_and_make_siblings_agree(resnet50: Network, scores: Scores) -> None:
    policy, tied = as_limpq(resnet50, scores, *PUBLISHED, macs="limpq", ties=True)
    assert tied.proven
    assert 4.617391 < tied.objective < 4.63
    for stage in (1, 2, 3, 4):
        first, second = (policy.layers[f"layer{stage}.0.{name}"] for name in ("conv1", "downsample.0"))
        assert first.activation_bits == second.activation_bits


@pytest.mark.parametrize("ties", [True, False])
def test_a_limit_on_activations_of_mobilenetv2(ties: bool) -> None:
    net = captured("mobilenetv2")
    table = random_scores(net, BITS, 0)
    loose, first = allocate(net, table, Budget.parse(["bitops=3x4"]), AllocationSettings(ties=ties))
    limit = int(loose.costs["activation_bytes"]) * 3 // 4
    texts = ["bitops=3x4", f"activation-bytes={limit}"]
    tight, second = allocate(net, table, Budget.parse(texts), AllocationSettings(ties=ties))
    assert second.proven
    assert first.objective < second.objective
    assert costs(net, tight.layers).activation_bytes == tight.costs["activation_bytes"] <= limit


# ----------------------------------------------------------------------------------- BitOps and size tables

TABLE = {  # W/A: G BitOps with first and last layer at 8x8, exact and as LIMPQ counts
    "resnet18": {
        (2, 2): (14.37, 14.50),
        (2, 4): (21.15, 21.35),
        (3, 3): (22.85, 23.06),
        (3, 4): (27.93, 28.19),
        (4, 4): (34.71, 35.04),
        (4, 8): (61.84, 62.42),
        (6, 6): (68.63, 69.27),
        (8, 8): (116.10, 117.20),
    },
    "resnet50": {
        (2, 2): (23.56, 23.85),
        (2, 4): (39.44, 39.94),
        (3, 3): (43.41, 43.96),
        (3, 4): (55.31, 56.04),
        (4, 4): (71.19, 72.13),
        (4, 8): (134.70, 136.51),
        (6, 6): (150.57, 152.61),
        (8, 8): (261.71, 265.27),
    },
    "mobilenetv2": {
        (2, 2): (1.93, 1.94),
        (2, 4): (3.08, 3.09),
        (3, 3): (3.37, 3.38),
        (3, 4): (4.24, 4.25),
        (4, 4): (5.39, 5.40),
        (4, 8): (10.01, 10.02),
        (6, 6): (11.17, 11.18),
        (8, 8): (19.25, 19.27),
    },
}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_bitops_of_uniform_networks(name: str) -> None:
    net = captured(name)
    pins = resolve_pins(net)
    for (weight_bits, activation_bits), expected in TABLE[name].items():
        layers = uniform_bits(net, LayerBits(weight_bits, activation_bits), pins)
        for macs, total in zip(("exact", "limpq"), expected, strict=True):
            found = costs(net, layers, macs=macs)  # type: ignore[arg-type]
            assert found.bitops / 1e9 == pytest.approx(total, abs=0.0051), (weight_bits, activation_bits, macs)
            limit = Budget.parse([f"bitops={weight_bits}x{activation_bits}"]).resolve(net, pins, macs)  # type: ignore[arg-type]
            assert limit == {"bitops": found.bitops}


@pytest.mark.parametrize(
    ("name", "macs", "weights", "float_g"),
    [
        ("resnet18", 1_814_073_344, 11_678_912, 1857.61),
        ("resnet50", 4_089_184_256, 25_502_912, 4187.32),
        ("mobilenetv2", 300_774_272, 3_469_760, 307.99),
    ],
)
def test_macs_weights_and_float_bitops(name: str, macs: int, weights: int, float_g: float) -> None:
    net = captured(name)
    assert sum(one.macs for one in net.layers) == macs
    assert sum(one.weights for one in net.layers) == weights
    assert float_costs(net).bitops == macs * 1024
    assert float_costs(net).bitops / 1e9 == pytest.approx(float_g, abs=0.0051)


@pytest.mark.parametrize(
    ("name", "sizes", "ratio"),
    [
        ("resnet18", {4: 5.818, 3: 4.487, 8: 11.138}, 7.66),
        ("resnet50", {4: 13.142, 3: 10.347, 8: 24.321}, 7.40),
        ("mobilenetv2", {4: 2.265, 3: 2.004, 8: 3.309}, 5.84),
    ],
)
def test_sizes_of_uniform_networks(name: str, sizes: dict[int, float], ratio: float) -> None:
    net = captured(name)
    for bits, size in sizes.items():
        policy = Policy.uniform(net, bits, bits, resolve_pins(net))
        assert costs(net, policy.layers).weight_bits / 8 / 2**20 == pytest.approx(size, abs=6e-4)
    assert compression(net, Policy.uniform(net, 4, 4, resolve_pins(net))) == pytest.approx(ratio, abs=6e-3)


def test_layer_table_of_resnet50(resnet50: Network) -> None:
    table = json.loads(shared("fixtures", "resnet50_layers.json").read_text())
    found = {one.name: one for one in resnet50.layers if one.name in table}
    assert {name: (one.weights, one.macs, one.macs_limpq) for name, one in found.items()} == {
        name: (row["params"], row["macs_exact"], row["macs_limpq"]) for name, row in table.items()
    }
