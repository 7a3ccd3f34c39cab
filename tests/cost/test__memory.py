"""Flash and RAM by a table."""

from __future__ import annotations

from dataclasses import replace

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


def test_a_layout_is_charged_to_its_own_activation_bits_and_never_pays_back() -> None:
    """By the sums W2A2 takes 68 and 13 bytes, W2A8 68 and 43; the margin of 100 is for what was not laid out."""
    low, high = ({name: LayerBits(2, bits) for name in ("l0", "l1")} for bits in (2, 8))

    def takes(table: MemoryTable, layers: dict[str, LayerBits]) -> tuple[int, int]:
        return table.flash(layers), table.ram(NET, layers)

    more = TABLE.laid_out(NET, low, flash=75, ram=20)
    assert (takes(more, low), takes(more, high)) == ((75, 20), (68, 143))
    assert takes(more.laid_out(NET, low, flash=70, ram=15), low) == (75, 20)  # the most that was ever found
    assert takes(TABLE.laid_out(NET, low, flash=60, ram=10), low) == (68, 13)  # the sums count the larger of two


def test_a_layout_is_found_by_layers_and_their_activation_bits() -> None:
    """As the field says it: what is given by hand is charged as what `laid_out` puts down."""
    given = replace(TABLE, layouts={frozenset({("l0", 2), ("l1", 8)}): (5, 6)})
    layers = {"l0": LayerBits(2, 2), "l1": LayerBits(2, 8)}
    assert (given.flash(layers), given.ram(NET, layers)) == (68 + 5, 42 + 6)


def test_what_is_not_in_the_table() -> None:
    with pytest.raises(BudgetError, match=r"l0 at 3 bits has no form.*Legal: 2, 8"):
        TABLE.weight_bytes("l0", 3)
    with pytest.raises(BudgetError, match="does not know the layer 'l2'"):
        TABLE.weight_bytes("l2", 2)
    with pytest.raises(BudgetError, match="of another network"):
        TABLE.check(chain((20, 100)))


def test_a_layout_is_charged_to_its_own_activation_bits_alone() -> None:
    """By the table 68 of flash and 43 of RAM; the layout was found to take 70 and 60."""
    layers = {"l0": LayerBits(2, 8), "l1": LayerBits(2, 2)}
    other = {"l0": LayerBits(2, 2), "l1": LayerBits(8, 2)}
    laid = TABLE.laid_out(NET, layers, flash=70, ram=60)
    assert (laid.flash(layers), laid.ram(NET, layers)) == (70, 60)
    assert (laid.flash(other), laid.ram(NET, other)) == (TABLE.flash(other), TABLE.ram(NET, other))
    fixed = laid.with_layout_of(layers)  # that layout, now counted to every policy
    assert fixed.layouts == {} and (fixed.rest, fixed.ram_margin) == (11 + 2, 17)
    assert (fixed.flash(layers), fixed.ram(NET, layers)) == (70, 60)
    assert TABLE.with_layout_of(layers).ram(NET, layers) == TABLE.ram(NET, layers)


def test_a_layout_that_takes_less_than_the_table_says_is_no_gain() -> None:
    layers = {"l0": LayerBits(2, 8), "l1": LayerBits(2, 2)}
    laid = TABLE.laid_out(NET, layers, flash=60, ram=20)
    assert (laid.flash(layers), laid.ram(NET, layers)) == (68, 43)
    more = TABLE.laid_out(NET, layers, flash=90, ram=50).laid_out(NET, layers, flash=80, ram=55)
    assert (more.flash(layers), more.ram(NET, layers)) == (90, 55)  # the larger of two


def test_code_is_of_layers_that_need_it() -> None:
    layers = {"l0": LayerBits(2, 8), "l1": LayerBits(8, 2)}
    coded = replace(TABLE, coded=frozenset({"l1"}))
    assert coded.widths(layers) == {8} and TABLE.widths(layers) == {2, 8}
    assert coded.flash(layers) == 11 + 25 + 100 + 5
    assert TABLE.code_bytes([2, 2, 8, 3]) == 7 + 5
