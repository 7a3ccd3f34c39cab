"""Shapes of one sample, with a symbolic and with a static batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixbit.network._layers import result
from mixbit.network._program import Program
from mixbit.network._sizes import Sizes, drop_batch
from tests.network.conftest import Call


def shapes(program: Program) -> list[tuple[int, ...]]:
    return [program.sizes.sample(result(node)) for node in program.calls if node in program.live]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_one_sample_whatever_the_batch(program: Callable[..., Program], batch: int) -> None:
    model = Call(lambda self, x: x.transpose(0, 1).reshape(3, -1).relu())
    found = program(model, torch.zeros(batch, 3, 4))
    assert found.sizes.symbols
    # (B, 3, 4) -> (3, B, 4) -> (3, 4 B): the batch is dropped where it stands alone, and 1 where it is folded in.
    assert shapes(found) == [(3, 4), (3, 4), (3, 4)]
    assert found.sizes.full(result(found.calls[0])) == (3, 1, 4)


def test_a_batch_in_the_code_gives_a_static_graph(program: Callable[..., Program]) -> None:
    found = program(Call(lambda self, x: x.reshape(2, 12).relu()), torch.zeros(2, 3, 4))
    assert (found.sizes.symbols, found.sizes.batch) == (frozenset(), 2)
    assert shapes(found) == [(12,), (12,)]


def test_a_batch_of_one_in_the_code(program: Callable[..., Program]) -> None:
    """torch.export is tried with two samples first; what the model does with one must then be used."""
    linear = torch.nn.Linear(12, 2)
    found = program(Call(lambda self, x: self.linear(x.reshape(1, 12)), linear=linear), torch.zeros(1, 3, 4))
    assert (found.sizes.symbols, found.sizes.batch) == (frozenset(), 1)
    assert shapes(found) == [(12,), (2,)]


@given(st.lists(st.integers(2, 6), min_size=1, max_size=4), st.integers(2, 5), st.data())
def test_dropping_a_static_batch_keeps_the_elements(shape: list[int], batch: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(shape)))
    whole = (*shape[:at], batch, *shape[at:])
    assert torch.Size(drop_batch(whole, batch)).numel() == torch.Size(shape).numel()


@pytest.mark.parametrize(
    ("shape", "batch", "found"),
    [
        ((2, 8, 2), 2, (8, 2)),  # the first of two that fit
        ((5, 2, 4), 2, (5, 4)),  # not in front
        ((12, 7), 2, (6, 7)),  # folded into the first dimension that it divides
        ((7, 12), 2, (7, 6)),
        ((3, 5), 2, (3, 5)),  # not in it at all
        ((1, 4), 1, (4,)),
        ((4, 6), 1, (4, 6)),
    ],
)
def test_a_static_batch_is_dropped_where_it_stands(shape: tuple[int, ...], batch: int, found: tuple[int, ...]) -> None:
    assert drop_batch(shape, batch) == found


def test_where_the_batch_stands(program: Callable[..., Program]) -> None:
    """In which dimension it is alone; -1 where it is folded into another, or not there."""
    model = Call(lambda self, x: (x.transpose(0, 1).reshape(3, -1).relu(), x.mean(0)))
    found = program(model, torch.zeros(2, 3, 4))
    places = [found.sizes.batch_dim(result(node)) for node in found.calls if node in found.live]
    assert places == [1, -1, -1, -1]
    assert [found.sizes.numel(result(node)) for node in found.calls if node in found.live] == [12, 12, 12, 12]


def test_counts_that_do_not_depend_on_the_batch_stay() -> None:
    sizes = Sizes(frozenset(), 4)
    assert (sizes.per_sample(8), sizes.per_sample(7)) == (2, 7)
