"""Maps and tokens become square, with the padding that is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from mixbit.errors import MixbitError
from mixbit.topology import birth_times, square, token_grid


def test_square_maps_are_not_copied() -> None:
    maps = np.zeros((2, 3, 3), dtype=np.float32)
    assert square(maps) is maps


def test_absent_padding_changes_no_birth_of_the_rest() -> None:
    """A wide map is the graph of its first rows against all columns."""
    wide = np.random.default_rng(0).standard_normal((30, 6, 9)).astype(np.float32)
    by_hand = np.full((30, 9, 9), -np.inf, dtype=np.float32)
    by_hand[:, :6] = wide
    assert (square(wide) == by_hand).all()
    assert (birth_times(square(wide)) == birth_times(square(wide.swapaxes(1, 2)))).all()
    assert birth_times(square(wide)).any()
    assert (square(wide, fill=0)[:, 6:] == 0).all()


@pytest.mark.parametrize(("tokens", "side"), [(1, 1), (4, 2), (5, 3), (9, 3), (10, 4), (196, 14), (197, 15)])
def test_side_of_a_token_grid(tokens: int, side: int) -> None:
    grid = token_grid(np.arange(1, tokens + 1))
    assert grid.shape == (side, side)
    assert grid.ravel()[:tokens].tolist() == list(range(1, tokens + 1)) and not grid.ravel()[tokens:].any()


def test_tokens_can_be_padded_with_absent_edges() -> None:
    assert np.isneginf(token_grid(np.ones((2, 5)), fill=-np.inf)[:, 2]).all()


def test_bad_input() -> None:
    with pytest.raises(MixbitError, match=r"legal is \(..., h, w\)"):
        square([1.0, 2.0])
    with pytest.raises(MixbitError, match=r"legal is \(..., N\) with N > 0"):
        token_grid(np.zeros((3, 0)))
