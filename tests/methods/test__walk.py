"""What an agent sees and sets, against a look at the network by hand, and walls against sweeps written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit.allocation import project
from mixbit.cost import Budget, LayerBits
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.methods._walk import Walk
from mixbit.network import Network, capture
from mixbit.policy import Policy, Terms
from mixbit.sensitivity.judging import bits_text
from tests.cli import tiny
from tests.support import chain, random_latency, random_memory

BITS = (8, 4, 3, 2)
WIDE = Budget.parse(["bitops=8x8"])


class Strided(nn.Module):
    """A convolution that halves maps, a depthwise one, a pointwise one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depth = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.point = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(self.depth(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def strided() -> Network:
    return capture(Strided(), torch.zeros(2, 3, 12, 12))


def walk(network: Network, budget: Budget = WIDE, terms: Terms = Terms(), **how: Any) -> Walk:  # noqa: B008
    return Walk(network, budget, terms, how.pop("bits", BITS), **how)


def test_states_are_what_haq_shows_of_a_layer() -> None:
    """Columns by hand: depthwise, channels in and out, stride, kernel, weights, map, number; scaled over layers."""
    found = walk(strided(), terms=Terms(pins={}))
    columns = np.array(
        [
            [0, 3, 8, 2, 3, 3 * 8 * 9, 144, 0],
            [1, 8, 8, 1, 5, 8 * 25, 36, 1],
            [0, 8, 16, 1, 1, 8 * 16, 36, 2],
            [0, 16, 10, 0, 1, 160, 1, 3],
        ],
        dtype=float,
    )
    scaled = (columns - columns.min(0)) / np.ptp(columns, axis=0)
    assert found.observations == 10 and len(found.steps) == 8
    for step in range(8):
        wanted = [*scaled[step // 2], 0.375, 1.0 if step % 2 == 0 else 0.0]
        assert found.state(step, 0.375) == pytest.approx(wanted), step
    assert walk(strided(), terms=Terms(pins={}), share_bits=True).state(2, 1.0) == pytest.approx([*scaled[2], 1.0])


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    found = walk(tiny.task().network, terms=Terms(pins={}))
    assert [found.state(step, 1.0)[0] for step in range(len(found.steps))] == [0.0] * len(found.steps)


def test_an_episode_asks_for_weights_then_activations_and_shows_the_last_bits() -> None:
    seen = list[Any]()
    answers: Iterator[float] = iter([0.0, 0.99, 0.3, 0.6])  # 2, 8, 3, 4 bits
    found = walk(strided())
    choices = found.actions(lambda state: (seen.append(state.tolist()), next(answers))[1])
    assert choices.tolist() == [0, 3, 1, 2]
    assert [state[-2:] for state in seen] == [[1.0, 1.0], [2 / 8, 0.0], [1.0, 1.0], [3 / 8, 0.0]]
    layers = found.layers(choices)
    assert bits_text(layers) == "W8A8 W2A8 W3A4 W8A8" and list(layers) == ["stem", "depth", "point", "head"]


def test_actions_between_two_choices_go_where_the_map_says() -> None:
    """Of three choices from 2 bits on, 1/3 is the second by equal parts; HAQ rounds half to even."""
    for by, bits, wanted in (("floor", (2, 3, 4), 1), ("haq", (2, 3, 4), 0), ("haq", (3, 4, 5), 1)):
        found = walk(strided(), bits=bits, action_map=by)
        assert found.actions(lambda _: 1 / 3).tolist() == [wanted] * 4


def test_layers_that_read_one_tensor_get_its_bits_from_the_first() -> None:
    network = tiny.task().network
    tied, apart = walk(network), walk(network, terms=Terms(ties=False))
    assert [(s.weights, s.inputs) for s in tied.steps] == [(("left",), ()), ((), ("left", "right")), (("right",), ())]
    assert [s.inputs or s.weights for s in apart.steps] == [("left",), ("left",), ("right",), ("right",)]
    assert bits_text(tied.layers(np.array([0, 3, 1]))) == "W8A8 W2A8 W3A8 W8A8"
    shared = walk(network, share_bits=True)
    assert [(s.weights, s.inputs) for s in shared.steps] == [(("left", "right"), ("left", "right"))]
    pinned = walk(network, terms=Terms(pins={"left": LayerBits(3, 3), "stem": LayerBits(8, 8)}))
    assert [(s.weights, s.inputs) for s in pinned.steps] == [
        (("right",), ()), ((), ("right",)), (("head",), ()), ((), ("head",))
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- the limits


def swept(bits: dict[str, list[int]], network: Network, budget: Budget) -> str:
    """HAQ's wall written out, of networks without ties: activation, then weights, from the last layer to the first."""
    limits, ladder = Terms().limits(network, budget), sorted(BITS)
    pins = Terms().pinned(network)

    def over() -> bool:
        layers = {name: pins.get(name) or LayerBits(*bits[name]) for name in [one.name for one in network.layers]}
        return min(budget.slack(Terms().costs(network, layers), limits).values()) < 0

    while over():
        for name in reversed(list(bits)):
            for side in (1, 0):
                if over():
                    bits[name][side] = ladder[max(ladder.index(bits[name][side]) - 1, 0)]
    return " ".join(f"W{w}A{a}" for w, a in bits.values())


@pytest.mark.parametrize("texts", [["bitops=3x3"], ["weight-bytes=3x3", "bitops=4x4"], ["bitops=2x3"]])
def test_the_wall_lowers_bits_from_the_last_layer_to_the_first(texts: list[str]) -> None:
    network, budget = chain((10, 100), (30, 50), (20, 400), (5, 80), (10, 10)), Budget.parse(texts)
    found, rng = walk(network, budget), np.random.default_rng(0)
    names = [one.name for one in network.layers][1:-1]
    for _ in range(12):
        choices = rng.integers(0, 4, 6)
        drawn = [sorted(BITS)[c] for c in choices]
        wished = {name: [drawn[2 * at], drawn[2 * at + 1]] for at, name in enumerate(names)}
        kept = found.kept(choices)
        assert bits_text(kept) == f"W8A8 {swept(wished, network, budget)} W8A8"
        budget.check(Terms().costs(network, kept), found.limits)


@pytest.mark.parametrize("how", [{}, {"within": "project"}, {"share_bits": True}])
def test_what_is_left_of_a_budget_is_filled_from_the_first_layer_to_the_last(how: Any) -> None:
    """Nothing can be raised any more, nothing was lowered, and it is what sweeps by hand come to."""
    network, budget = chain((10, 100), (30, 50), (20, 400), (10, 10)), Budget.parse(["bitops=3x3", "weight-bytes=4x4"])
    bare, found = walk(network, budget, **how), walk(network, budget, fill=True, **how)
    ladder, count = sorted(BITS), len(found.steps)
    for choices in np.random.default_rng(1).integers(0, 4, (12, count)):
        before, after = bare.kept(choices), found.kept(choices)
        assert found.fits(after)
        own = [(one.weight_bits, one.activation_bits) for one in before.values()]
        changed = [(one.weight_bits, one.activation_bits) for one in after.values()]
        assert all(a <= b for x, y in zip(own, changed, strict=True) for a, b in zip(x, y, strict=True))  # type: ignore[operator]
        sides = [[layer, side] for layer in ("l1", "l2") for side in ((0,), (1,))]
        sides = [[layer, (0, 1)] for layer in ("l1", "l2")] if "share_bits" in how else sides
        bits = {name: list(map(int, pair)) for name, pair in zip(before, own, strict=True)}  # type: ignore[arg-type]
        while True:
            old = {name: list(pair) for name, pair in bits.items()}
            for layer, which in sides:
                trial = {name: list(pair) for name, pair in bits.items()}
                for side in which:
                    trial[layer][side] = ladder[min(ladder.index(trial[layer][side]) + 1, 3)]
                if found.fits({name: LayerBits(*pair) for name, pair in trial.items()}):
                    bits = trial
            if bits == old:
                break
        assert bits_text(after) == " ".join(f"W{w}A{a}" for w, a in bits.values())


def test_projection_is_the_exact_solvers() -> None:
    network, budget = chain((10, 100), (30, 50), (20, 400), (10, 10)), Budget.parse(["bitops=3x3"])
    found = walk(network, budget, within="project")
    choices = np.array([3, 2, 3, 3])
    wished = {"l1": (8.0, 4.0), "l2": (8.0, 8.0)}
    assert found.kept(choices) == dict(project(network, wished, budget, bits=sorted(BITS)).layers)
    assert found.kept(choices) != walk(network, budget).kept(choices)
    low = np.zeros(4, dtype=np.int64)
    assert found.kept(low) == found.layers(low), "what is within stays"


@pytest.mark.parametrize("within", ["wall", "project"])
def test_shared_bits_stay_shared(within: Any) -> None:
    network, budget = chain((10, 100), (30, 50), (20, 400), (10, 10)), Budget.parse(["bitops=3x4"])
    found = walk(network, budget, share_bits=True, within=within)
    kept = found.kept(np.array([3, 3]))
    assert all(one.weight_bits == one.activation_bits for one in kept.values()) and found.fits(kept)


def test_where_fewer_bits_take_longer_the_wall_ends_in_a_projection() -> None:
    """A limit on time below what the fewest bits take."""
    network = tiny.task().network
    times = random_latency(network, bits=(2, 3, 4, 8))
    fewest = times.cost(Policy.uniform(network, 2, 2).layers)
    found = walk(network, Budget.parse([f"latency={fewest - 1}ns"]), Terms(latency=times))
    kept = found.kept(np.zeros(3, dtype=np.int64))
    assert times.cost(kept) < fewest and found.fits(kept)


def test_limits_of_a_device_are_kept() -> None:
    network = tiny.task().network
    memory = random_memory(network, bits=(2, 3, 4, 8))
    budget = Budget.parse(["flash=4x4"])
    found = walk(network, budget, Terms(memory=memory, macs="limpq"))
    for choices in np.random.default_rng(0).integers(0, 4, (10, 3)):
        assert found.fits(found.kept(choices))
    policy = found.policy(found.kept(np.array([3, 3, 3])))
    assert policy.costs["flash_bytes"] == memory.flash(policy.layers) and policy.macs == "limpq"
    assert policy.budget == {"flash": "4x4"} and policy.check(network) is policy


def test_a_budget_that_nothing_meets_is_told_at_once() -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        walk(strided(), Budget.parse(["bitops=1k"]))
    assert caught.value.nearest and caught.value.blocking


def test_where_all_is_pinned_there_is_nothing_to_choose() -> None:
    with pytest.raises(BudgetError, match="all layers are pinned"):
        walk(strided(), terms=Terms(pins=dict.fromkeys(("stem", "depth", "point", "head"), LayerBits(4, 4))))
