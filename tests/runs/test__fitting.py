"""Policies under flash and RAM: what a layout takes is counted to that layout alone, and relative limits stay put."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mixbit.allocation import Allocation, allocate
from mixbit.cost import Budget, LayerBits, MemoryTable, RamStep
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.export.c import COptions, Footprint
from mixbit.policy import LayerScores, Policy, Scores
from mixbit.runs._fitting import choose_to_fit
from tests.support import chain

NET = chain((10, 10), (10, 10), (10, 10))
BITS = (2, 4, 8)
TABLE = MemoryTable(
    fingerprint=NET.fingerprint,
    target="t",
    weights={one.name: {b: 10 * b for b in BITS} for one in NET.layers},
    code={},
    rest=100,
    steps=(RamStep(name="all", constant=0, tensors={f"t{at}": {b: 10 * b for b in BITS} for at in range(3)}),),
)
Layers = Mapping[str, LayerBits]
Gap = Callable[[tuple[int, ...]], int]


def harm(steep: int) -> LayerScores:
    return LayerScores({8: 0.0}, {8: 0.0, 4: 1.0 * steep, 2: 3.0 * steep})


SCORES = Scores(
    fingerprint=NET.fingerprint,
    method="m",
    layers={one.name: harm(steep) for one, steep in zip(NET.layers, (1, 2, 4), strict=True)},
)


def fit(
    monkeypatch: pytest.MonkeyPatch, texts: list[str], gap: Gap, candidates: list[Layers] | None = None
) -> tuple[Policy, Allocation, MemoryTable, Footprint, list[tuple[int, ...]]]:
    """`gap` gives the RAM that a layout takes beyond the table, by the activation bits of the three layers."""
    tried: list[tuple[int, ...]] = []

    def predict(layers: Layers, *, options: COptions) -> Any:
        bits = tuple(one.activation_bits or 32 for one in layers.values())
        tried.append(bits)
        return SimpleNamespace(flash_bytes=TABLE.flash(layers), ram_bytes=TABLE.ram(NET, layers) + gap(bits))

    monkeypatch.setattr("mixbit.runs._fitting.predict", predict)
    monkeypatch.setattr("mixbit.runs._fitting.lower_at", lambda *_, **__: lambda layers: layers)
    monkeypatch.setattr("mixbit.runs._fitting.memory_table", lambda *_, **__: TABLE)
    budget = Budget.parse(texts)

    def choose(memory: MemoryTable, only: Layers | None = None) -> tuple[Policy, Allocation]:
        scores = SCORES
        if only is not None:
            kept = {
                n: {b: h for b, h in one.activation.items() if b == only[n].activation_bits}
                for n, one in SCORES.layers.items()
            }
            scores = replace(SCORES, layers={n: LayerScores({8: 0.0}, curve) for n, curve in kept.items()})
        return allocate(NET, scores, budget, pins={}, memory=memory)

    opened: Any = SimpleNamespace(network=NET, model=None, example=None)
    found = choose_to_fit(opened, NET, budget, COptions(), choose, {}, candidates=candidates or [])
    return *found, tried


def test_the_next_best_policy_takes_the_place_of_one_with_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """220 bytes: (4, 8, 8) would be 200, but lies with a gap of 30; next come (8, 4, 8) at a harm of 2."""
    policy, _, memory, found, tried = fit(monkeypatch, ["ram=220"], lambda bits: 30 if bits == (4, 8, 8) else 0)
    assert tried == [(4, 8, 8), (8, 4, 8)]
    assert [one.activation_bits for one in policy.layers.values()] == [8, 4, 8]
    assert found.ram_bytes == policy.costs["ram_bytes"] == memory.ram(NET, policy.layers) == 200


def test_a_relative_limit_is_what_its_network_takes_laid_out_and_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """W8A4 takes 120 and a gap of 10. Every other layout has a gap of 20, so nothing above 110 of the sums fits."""
    policy, _, memory, found, tried = fit(monkeypatch, ["ram=8x4"], lambda bits: 10 if bits == (4, 4, 4) else 20)
    assert tried[0] == (4, 4, 4)
    assert Budget.parse(["ram=8x4"]).resolve(NET, {}, memory=memory) == {"ram_bytes": 130}
    assert found.ram_bytes <= 130
    assert [one.activation_bits for one in policy.layers.values()] == [4, 4, 4]


def test_many_layouts_that_do_not_fit_end_in_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _, _, found, tried = fit(monkeypatch, ["ram=200"], lambda bits: 140 if 8 in bits else 0)
    assert found.ram_bytes <= 200 and len(tried) < 30
    assert 8 not in [one.activation_bits for one in policy.layers.values()]


def test_a_margin_that_does_not_do_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the sums are, the layout takes one byte too much; only W8A2 has no gap."""
    policy, *_, tried = fit(monkeypatch, ["ram=200"], lambda bits: 0 if bits == (2, 2, 2) else 201 - 10 * sum(bits))
    assert [one.activation_bits for one in policy.layers.values()] == [2, 2, 2]
    assert [sum(bits) for bits in tried[12:]] == sorted({sum(bits) for bits in tried[12:]}, reverse=True)


def test_the_lowest_bits_are_laid_out_before_a_limit_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = {one.name: LayerBits(8, 2) for one in NET.layers}
    higher = {one.name: LayerBits(8, 4) for one in NET.layers}
    policy, allocation, _, found, _ = fit(monkeypatch, ["ram=50"], lambda bits: -15, [higher, lowest])
    assert found.ram_bytes == 45
    assert not allocation.proven and "could be laid out" in policy.notes[-1]
    with pytest.raises(InfeasibleBudget, match=r"smallest is 60B .* the least are 45 bytes of ram") as caught:
        fit(monkeypatch, ["ram=40"], lambda bits: -15, [higher, lowest])
    assert caught.value.nearest == {"ram": 45}


def test_of_several_that_fit_the_least_harmful_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both lie in 45 bytes, where the sums of their parts say 60 and 120; by their harms 4 bits do 7 and 2 bits 21."""
    lowest, higher = ({one.name: LayerBits(8, bits) for one in NET.layers} for bits in (2, 4))
    for candidates in ([lowest, higher], [higher, lowest]):
        policy, allocation, *_ = fit(monkeypatch, ["ram=50"], lambda bits: 45 - 10 * sum(bits), candidates)
        assert policy.layers == higher and allocation.objective == 7


def test_another_limit_is_not_put_down_to_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = {one.name: LayerBits(8, 2) for one in NET.layers}
    with pytest.raises(InfeasibleBudget, match=r"^bitops=10 cannot be met") as caught:
        fit(monkeypatch, ["ram=1kB", "bitops=10"], lambda bits: 0, [lowest])
    assert "laid out" not in str(caught.value)


def test_another_model_is_an_error() -> None:
    opened: Any = SimpleNamespace(network=chain((1, 1)))
    with pytest.raises(BudgetError, match="another one now"):
        choose_to_fit(opened, NET, Budget.parse(["ram=1kB"]), COptions(), lambda _: None, {})  # type: ignore[arg-type,return-value]
