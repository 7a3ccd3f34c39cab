"""What a budget is counted under."""

from __future__ import annotations

import pytest

from mixbit.cost import Budget, LayerBits, cost_table, costs
from mixbit.errors import BudgetError
from mixbit.policy import Terms, resolve_pins
from tests.support import layer, network, random_latency, random_memory

NET = network([layer(name, f"t{i}", f"t{i + 1}", macs=100, limpq=90) for i, name in enumerate("abc")])
BITS = {name: LayerBits(3, 4) for name in "abc"}


def test_pins_are_the_usual_ones_unless_given() -> None:
    assert Terms().pinned(NET) == resolve_pins(NET) == {"a": LayerBits(8, 8), "c": LayerBits(8, 8)}
    assert Terms(pins={}).pinned(NET) == {}
    ends = Terms(first_last=LayerBits(4, 4))
    assert ends.pinned(NET) == dict.fromkeys(("a", "c"), LayerBits(4, 4))
    assert Terms(pins={"re:[bc]": LayerBits(2, 2)}, first_last=LayerBits(4, 4)).pinned(NET) == {
        "a": LayerBits(4, 4), "b": LayerBits(2, 2), "c": LayerBits(2, 2),
    }  # fmt: skip
    given = {"c": LayerBits(2, 2), "b": LayerBits(4, 4)}
    assert list(Terms(pins=given).pinned(NET)) == ["b", "c"]  # as they are run
    with pytest.raises(BudgetError, match="The pin 'd' matches no layer"):
        Terms(pins={"d": LayerBits(2, 2)}).pinned(NET)


def test_limits_and_costs_are_counted_in_the_same_way() -> None:
    times, memory = random_latency(NET), random_memory(NET)
    terms = Terms(pins={}, macs="limpq", latency=times, memory=memory)
    assert terms.limits(NET, Budget.parse(["bitops=3x4"])) == {"bitops": 3 * 90 * 12}
    assert Terms(pins={}).limits(NET, Budget.parse(["bitops=3x4"])) == {"bitops": 3 * 100 * 12}
    assert Terms().limits(NET, Budget.parse(["bitops=3x4"])) == {"bitops": 100 * 12 + 2 * 100 * 64}
    found = terms.costs(NET, BITS)
    assert found == costs(NET, BITS, macs="limpq", latency=times, memory=memory) and found.bitops == 3 * 90 * 12
    assert found.latency == times.cost(BITS) and found.flash_bytes == memory.flash(BITS)
    assert terms.cost_table(NET, BITS) == cost_table(NET, BITS, macs="limpq", latency=times, memory=memory)
    assert set(terms.limits(NET, Budget.parse(["latency=1ms", "flash=9kB"]))) == {"latency", "flash_bytes"}
