"""Maps and tokens go to the reading that is asked for, with its padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixbit.errors import MixbitError
from mixbit.topology import birth_times, lattice_birth_times, map_births, square, token_grid


def test_rows_and_columns_are_padded_to_a_square() -> None:
    maps = np.random.default_rng(0).standard_normal((30, 4, 9)).astype(np.float32)
    assert (map_births(maps) == birth_times(square(maps))).all()
    assert (map_births(maps, fill=1) == birth_times(square(maps, fill=1))).all()
    assert (map_births(maps, v_max=9) == birth_times(square(maps), v_max=9)).all()
    assert (map_births(maps) != map_births(maps, fill=1)).any()


def test_tokens_are_padded_to_a_square() -> None:
    tokens = np.random.default_rng(0).standard_normal((30, 60)).astype(np.float32)
    assert (map_births(tokens, tokens=True) == birth_times(token_grid(tokens))).all()
    few = np.random.default_rng(1).standard_normal((60, 11)).astype(np.float32)
    zero, absent = (birth_times(token_grid(few, fill=fill)) for fill in (0.0, -np.inf))
    assert (map_births(few, tokens=True, fill=-np.inf) == absent).all() and (zero != absent).any()
    assert (map_births(tokens, tokens=True, v_max=9) == birth_times(token_grid(tokens), v_max=9)).all()


def test_pixels_are_not_padded() -> None:
    maps = np.random.default_rng(0).standard_normal((30, 5, 8)).astype(np.float32)
    births = map_births(maps, graph="grid")
    assert (births == lattice_birth_times(maps)).all() and births.any()
    assert (map_births(maps, graph="grid", v_max=30) == lattice_birth_times(maps, v_max=30)).all()


def test_tokens_that_fill_a_square_are_pixels() -> None:
    tokens = np.random.default_rng(0).standard_normal((4, 5, 49)).astype(np.float32)
    births = map_births(tokens, tokens=True, graph="grid")
    assert (births == lattice_birth_times(tokens.reshape(4, 5, 7, 7))).all() and births.shape == (4, 5)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 50), {"tokens": True, "graph": "grid"}, "50 tokens fill no square lattice. Legal: 4, 9"),
        ((3, 0), {"tokens": True, "graph": "grid"}, "0 tokens fill no square lattice"),
        ((4, 4), {"graph": "gird"}, "graph is 'gird'. Did you mean 'grid'.*Legal: unit, grid"),
    ],
)
def test_bad_input(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        map_births(np.zeros(shape), **options)
