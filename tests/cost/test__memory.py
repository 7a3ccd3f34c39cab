"""Flash and RAM by a table."""

from __future__ import annotations

import pytest

from mixbit.cost import LayerBits, MemoryTable, RamStep, costs
from mixbit.errors import BudgetError
from tests.support import chain

NET = chain((10, 100), (10, 100))
TABLE = MemoryTable(
    fingerprint=NET.fingerprint,
    target="t",
    weights={"l0": {2: 25, 8: 100}, "l1": {2: 25, 8: 100}},
    code={2: 7, 8: 5},
    rest=11,
    steps=(
        RamStep(name="l0", constant=3, tensors={NET.layers[0].input_tensor: {2: 10, 8: 40}}),
        RamStep(name="l1", constant=1, tensors={NET.layers[1].input_tensor: {2: 11, 8: 41}}),
    ),
    ram_margin=100,
)


def test_code_is_counted_once_a_width() -> None:
    assert TABLE.flash({"l0": LayerBits(2, 8), "l1": LayerBits(2, 8)}) == 11 + 50 + 7
    assert TABLE.flash({"l0": LayerBits(2, 8), "l1": LayerBits(8, 8)}) == 11 + 125 + 7 + 5


def test_ram_is_the_largest_step() -> None:
    found = costs(NET, {"l0": LayerBits(2, 8), "l1": LayerBits(2, 2)}, memory=TABLE)
    assert (found.flash_bytes, found.ram_bytes) == (68, 100 + 43)
    assert costs(NET, {"l0": LayerBits(2, 2), "l1": LayerBits(2, 8)}, memory=TABLE).ram_bytes == 100 + 42


def test_a_tensor_read_at_two_widths_is_there_twice() -> None:
    assert TABLE.steps[0].bytes_of(NET.layers[0].input_tensor, [2, 8, 2]) == 50
    assert TABLE.steps[0].bytes_of("elsewhere", [2]) == 0


def test_what_is_not_in_the_table() -> None:
    with pytest.raises(BudgetError, match=r"l0 at 3 bits has no form.*Legal: 2, 8"):
        TABLE.weight_bytes("l0", 3)
    with pytest.raises(BudgetError, match="does not know the layer 'l2'"):
        TABLE.weight_bytes("l2", 2)
    with pytest.raises(BudgetError, match="of another network"):
        TABLE.check(chain((20, 100)))
