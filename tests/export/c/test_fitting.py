"""Policies under flash and RAM: what a layout takes is counted to that layout alone, and relative limits stay put."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from mixbit.allocation import Allocation, AllocationSettings
from mixbit.cost import Budget, LayerBits, MemoryTable, RamStep
from mixbit.errors import InfeasibleBudget
from mixbit.export.c import COptions, Footprint, Layouts, allocate_to_fit
from mixbit.export.c.fitting import _candidates, _Fitting
from mixbit.policy import LayerScores, Policy, Scores, Terms
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
    monkeypatch: pytest.MonkeyPatch,
    texts: list[str],
    gap: Gap,
    candidates: list[Layers] | None = None,
    saved: int = 0,
) -> tuple[Policy, Allocation, MemoryTable, Footprint, list[tuple[int, ...]]]:
    """`gap` gives the RAM that a layout takes beyond the table, by the activation bits of the three layers.

    `saved` is the flash that it takes less.
    """
    tried: list[tuple[int, ...]] = []

    def footprint(layers: Layers, *, options: COptions) -> Any:
        bits = tuple(one.activation_bits or 32 for one in layers.values())
        tried.append(bits)
        return SimpleNamespace(flash_bytes=TABLE.flash(layers) - saved, ram_bytes=TABLE.ram(NET, layers) + gap(bits))

    monkeypatch.setattr("mixbit.export.c.fitting.footprint", footprint)
    monkeypatch.setattr("mixbit.export.c.fitting.memory_table", lambda *_, **__: TABLE)
    if candidates is not None:
        monkeypatch.setattr("mixbit.export.c.fitting._candidates", lambda *_: candidates)
    tables: list[MemoryTable] = []
    counted = _Fitting.counted
    monkeypatch.setattr(_Fitting, "counted", lambda one, found: (tables.append(one.memory), counted(one, found))[1])
    lower: Any = lambda layers: layers  # noqa: E731 (a graph that says its own bits)
    found = allocate_to_fit(NET, SCORES, Budget.parse(texts), lower, AllocationSettings(pins={}), options=COptions())
    return found.decision.policy, found.decision.allocation, tables[0], found.footprint, tried


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


def test_flash_below_the_sums_is_reached_where_the_layout_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums are 340 bytes whatever is chosen, and every layout takes 20 less."""
    lowest, higher = ({one.name: LayerBits(8, bits) for one in NET.layers} for bits in (2, 4))
    policy, *_, found, _ = fit(monkeypatch, ["flash=330B"], lambda _: 0, [lowest, higher], saved=20)
    assert policy.layers == higher and policy.costs["flash_bytes"] == found.flash_bytes == 320


def test_another_limit_is_not_put_down_to_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = {one.name: LayerBits(8, 2) for one in NET.layers}
    with pytest.raises(InfeasibleBudget, match=r"^bitops=10 cannot be met") as caught:
        fit(monkeypatch, ["ram=1kB", "bitops=10"], lambda bits: 0, [lowest])
    assert "laid out" not in str(caught.value)


def test_what_is_laid_out_last_are_the_lowest_bits_and_uniform_networks() -> None:
    pins = {"l0": LayerBits(8, 8)}
    curve = LayerScores({8: 0.0, 4: 1.0}, {8: 0.0, 4: 1.0, 2: 3.0})
    scores = replace(SCORES, layers={**SCORES.layers, "l1": curve, "l2": curve})
    found = _candidates(NET, scores, pins)
    assert [str(one["l1"]) for one in found] == ["W4A2", "W4A4", "W8A8"]
    assert all(one["l0"] == LayerBits(8, 8) and one["l1"] == one["l2"] for one in found)
    assert _candidates(NET, scores, dict.fromkeys(("l0", "l1", "l2"), LayerBits(8, 8))) == []


def test_bits_that_the_repair_takes_away_may_be_laid_out_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bits are taken away since they score better than four, and only they fit."""
    better = LayerScores({8: 0.0}, {8: 0.0, 4: 3.0, 2: 1.0})
    monkeypatch.setattr(f"{__name__}.SCORES", replace(SCORES, layers={one.name: better for one in NET.layers}))
    policy, allocation, *_ = fit(monkeypatch, ["ram=60"], lambda bits: 0, [{n: LayerBits(8, 2) for n in SCORES.layers}])
    assert {bits.activation_bits for bits in policy.layers.values()} == {2} and allocation.objective == 3


@pytest.mark.parametrize(("over", "searches"), [(0, 1), (3, 1), (60, 12)])
def test_searches_are_charged_apart_three_times_and_then_all_by_a_margin(
    monkeypatch: pytest.MonkeyPatch, over: int, searches: int
) -> None:
    """Every layout takes as much more RAM than the sums say, and 5 bytes more flash; the limit leaves room for 10."""

    def footprint(layers: Layers, *, options: COptions) -> Any:
        return SimpleNamespace(flash_bytes=TABLE.flash(layers) + 5, ram_bytes=TABLE.ram(NET, layers) + over)

    monkeypatch.setattr("mixbit.export.c.fitting.footprint", footprint)
    monkeypatch.setattr("mixbit.export.c.fitting.memory_table", lambda *_, **__: TABLE)
    lower: Any = lambda layers: layers  # noqa: E731
    layouts = Layouts(NET, Budget.parse(["ram=130B", "flash=9kB"]), lower, Terms(pins={}), options=COptions())
    seen: list[int] = []
    four = {one.name: LayerBits(8, 4) for one in NET.layers}

    def search(terms: Terms) -> Policy:
        """The same policy, whatever the table says; 120 bytes by the sums."""
        assert terms.memory is not None
        seen.append(terms.memory.ram_margin)
        return Policy(fingerprint=NET.fingerprint, layers=four, costs=terms.cost_table(NET, four))

    if searches == 1:
        found = layouts.search(search)
        assert (found.costs["ram_bytes"], found.costs["flash_bytes"]) == (120 + over, 345)
        assert seen == [0]
        return
    with pytest.raises(InfeasibleBudget, match="1 policies were laid out as C, and none is within all limits"):
        layouts.search(search)
    assert len(seen) == searches and [bool(one) for one in seen] == [False] * 3 + [True] * (searches - 3)


def test_a_search_that_counts_by_the_table_searches_again_until_its_c_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout takes 30 bytes more than the sums say of what it finds first; W8A4 throughout has none of that."""

    def footprint(layers: Layers, *, options: COptions) -> Any:
        gap = 0 if {one.activation_bits for one in layers.values()} == {4} else 30
        return SimpleNamespace(flash_bytes=TABLE.flash(layers), ram_bytes=TABLE.ram(NET, layers) + gap)

    monkeypatch.setattr("mixbit.export.c.fitting.footprint", footprint)
    monkeypatch.setattr("mixbit.export.c.fitting.memory_table", lambda *_, **__: TABLE)
    budget, lower, found = Budget.parse(["ram=160"]), lambda layers: layers, []

    def search(terms: Terms) -> Policy:
        """The most activation bits by the table."""
        every = [dict(zip((one.name for one in NET.layers), bits, strict=True)) for bits in product(BITS, repeat=3)]
        of = [{name: LayerBits(8, bits) for name, bits in one.items()} for one in every]
        limit = terms.limits(NET, budget)["ram_bytes"]
        fitting = [one for one in of if (terms.costs(NET, one).ram_bytes or 0) <= limit]
        if not fitting:
            raise InfeasibleBudget("none", nearest={"ram": 1}, blocking=[])
        best = max(fitting, key=lambda one: sum(bits.activation_bits or 0 for bits in one.values()))
        found.append([bits.activation_bits for bits in best.values()])
        return Policy(fingerprint=NET.fingerprint, layers=best, costs=terms.cost_table(NET, best))

    layouts = Layouts(NET, budget, lower, Terms(pins={}), options=COptions())  # type: ignore[arg-type]
    policy = layouts.search(search)
    assert len(found) > 1 and found[0] != found[-1] and layouts.lay_out(policy.layers).ram_bytes <= 160
    assert policy.costs["ram_bytes"] == layouts.lay_out(policy.layers).ram_bytes
    tight = Layouts(NET, Budget.parse(["ram=50"]), lower, Terms(pins={}), options=COptions())  # type: ignore[arg-type]
    budget = Budget.parse(["ram=50"])
    with pytest.raises(InfeasibleBudget, match=r"^none$"):
        tight.search(search)
