"""HAWQ-V3's nine published ResNet-18 policies from its released arrays.

Objective: sum over layers at 8 bits of trace * (d8^2 - d4^2), the gain over 4 bits. A budget t lies at
low + t * (high - low) between all layers at 4 and all at 8 bits. The first convolution of a stage and its downsample
convolution are one choice.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
import torch

from mixbit import models
from mixbit.allocation import Allocation, AllocationSettings, SolverName, allocate, solve
from mixbit.cost import Budget
from mixbit.methods.hawq import omega
from mixbit.network import Network, capture
from mixbit.policy import LayerScores, Program, Scores
from tests.support import layer, network, shared

# Objectives of the published policies with the fixture's rounded arrays.
OBJECTIVES = {
    ("0.25", "size"): -1.189414,
    ("0.25", "bops"): -0.847289,
    ("0.50", "size"): -1.233207,
    ("0.50", "bops"): -1.092024,
    ("0.50", "latency"): -1.105039,
    ("0.75", "size"): -1.274273,
    ("0.75", "bops"): -1.227748,
}
POLICIES = [(budget, kind) for budget in ("0.25", "0.50", "0.75") for kind in ("size", "bops", "latency")]


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(shared("fixtures", "hawqv3_resnet18.json").read_text())
    return content


def weights_and_macs(layer: str) -> tuple[int, int]:
    """Of a ResNet-18 layer at 224 pixels, from its name."""
    stage, block = int(layer[5]), int(layer[7])
    channels, side = 64 * 2 ** (stage - 1), 56 // 2 ** (stage - 1)
    entry = stage > 1 and block == 0 and not layer.endswith("conv2")
    weights = channels * (channels // 2 if entry else channels) * (1 if "downsample" in layer else 9)
    return weights, weights * side * side


def use(arrays: dict[str, Any], kind: str) -> list[tuple[int, int]]:
    """What each layer costs at 4 and at 8 bits, in exact integers."""
    if kind == "latency":
        pairs = zip(arrays["t4_int4_ms"], arrays["t4_int8_ms"], strict=True)
        return [(round(10_000 * four), round(10_000 * eight)) for four, eight in pairs]
    sizes = [weights_and_macs(layer) for layer in arrays["layers"]]
    if kind == "size":
        return [(4 * weights, 8 * weights) for weights, _ in sizes]
    return [(16 * macs, 64 * macs) for _, macs in sizes]


def allocated(arrays: dict[str, Any], budget: str, kind: str, solver: SolverName) -> tuple[str, Allocation]:
    """The policy as a string of bits in layer order."""
    costs = use(arrays, kind)
    gains = [
        trace * (d8 - d4)
        for trace, d8, d4 in zip(
            arrays["trace_over_n"], arrays["perturbation_8bit_sq"], arrays["perturbation_4bit_sq"], strict=True
        )
    ]
    second = {late: early for early, late in arrays["tied_layers"]}
    groups = [[layer] for layer in range(len(gains)) if layer not in second]
    for late, early in second.items():
        next(group for group in groups if group[0] == early).append(late)
    low, high = (sum(pair[at] for pair in costs) for at in (0, 1))
    answer = solve(
        [[0.0, sum(gains[layer] for layer in group)] for group in groups],
        {kind: [[sum(costs[layer][at] for layer in group) for at in (0, 1)] for group in groups]},
        {kind: int(low + Fraction(budget) * (high - low))},
        solver=solver,
    )
    bits = {layer: "48"[option] for group, option in zip(groups, answer.choice, strict=True) for layer in group}
    return "".join(bits[layer] for layer in sorted(bits)), answer


@pytest.mark.parametrize("solver", ["auto", "milp"])
@pytest.mark.parametrize(("budget", "kind"), POLICIES)
def test_published_policy(arrays: dict[str, Any], budget: str, kind: str, solver: SolverName) -> None:
    policy, answer = allocated(arrays, budget, kind, solver)
    assert policy == arrays["policies"][budget][kind]
    assert answer.proven
    if (budget, kind) in OBJECTIVES:
        assert answer.objective == pytest.approx(OBJECTIVES[budget, kind], abs=1e-6)


def test_weights_and_macs_are_those_that_capture_finds_and_the_authors_give(arrays: dict[str, Any]) -> None:
    """Three ways: this file's rule, a capture, and the arrays of their notebook."""
    source = json.loads(shared("data", "reference", "hawq_v3_ilp_inputs.json").read_text())["ilp_inputs"]["resnet18"]
    captured = capture(models.build("resnet18").eval(), torch.zeros(1, 3, 224, 224))
    found = [(captured.layer(name).weights, captured.layer(name).macs) for name in arrays["layers"]]
    assert found == [weights_and_macs(name) for name in arrays["layers"]]
    assert found == list(zip(source["parameters"], source["bops"], strict=True))


# ------------------------------------------------------------------------------------------ through `allocate`


def as_network(arrays: dict[str, Any], kind: str) -> Network:
    """The fixture's layers; those that are one choice read one tensor, so that coupled bits tie all of theirs.

    There is no latency in a budget. With what 8 bits take longer than 4 as MACs, BitOps are a latency up to a constant.
    """
    first = {late: early for early, late in arrays["tied_layers"]}
    costs = use(arrays, "latency")
    layers = []
    for index, name in enumerate(arrays["layers"]):
        weights, macs = weights_and_macs(name)
        if kind == "latency":
            macs = costs[index][1] - costs[index][0]
        layers.append(layer(name, f"t{first.get(index, index)}", f"u{index}", weights=weights, macs=macs))
    return network(layers)


def as_budget(net: Network, budget: str, kind: str) -> Budget:
    """Between all layers at 4 and all at 8 bits."""
    part = Fraction(budget)
    if kind == "size":
        return Budget.parse([f"weight-bytes={int((4 + part * 4) * sum(one.weights for one in net.layers) / 8)}"])
    return Budget.parse([f"bitops={int((16 + part * 48) * sum(one.macs for one in net.layers))}"])


@pytest.mark.parametrize(("budget", "kind"), POLICIES)
def test_published_policy_by_coupled_bits_and_tie_groups(arrays: dict[str, Any], budget: str, kind: str) -> None:
    net = as_network(arrays, kind)
    columns = (arrays[key] for key in ("trace_over_n", "perturbation_8bit_sq", "perturbation_4bit_sq"))
    harms = [{8: omega(trace, d8), 4: omega(trace, d4)} for trace, d8, d4 in zip(*columns, strict=True)]
    layers = {
        one.name: LayerScores(weight=harm, activation={8: 0.0, 4: 0.0})
        for one, harm in zip(net.layers, harms, strict=True)
    }
    scores = Scores(fingerprint=net.fingerprint, method="HAWQ-V3", layers=layers, program=Program(coupled=True))
    policy, found = allocate(net, scores, as_budget(net, budget, kind), AllocationSettings(pins={}))
    assert "".join(str(bits.weight_bits) for bits in policy.layers.values()) == arrays["policies"][budget][kind]
    assert all(bits.weight_bits == bits.activation_bits for bits in policy.layers.values())
    assert found.proven
    if (budget, kind) in OBJECTIVES:
        gain = found.objective - sum(harm[4] for harm in harms)
        assert gain == pytest.approx(OBJECTIVES[budget, kind], abs=1e-6)
