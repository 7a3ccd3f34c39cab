"""Births of holes among pixels: named maps, ties, laws, bad input; and equality with two definitions and with GUDHI."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from mixbit.errors import MixbitError
from mixbit.topology import birth_times, channel_entropies, lattice_birth_times
from mixbit.topology._cubical import PixelLattice, python_lattice_birth
from mixbit.topology._library import lattice_library
from mixbit.topology.lattice import _births
from tests.needs import need

Maps = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.bool_]


def smooth(maps: Maps) -> Maps:
    """Mean of each value and its neighbours to the right and below."""
    return ((maps + np.roll(maps, 1, -1) + np.roll(maps, 1, -2)) / 3).astype(np.float32)


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Maps]] = {
    "noise": lambda random, shape: random.standard_normal(shape, dtype=np.float32),
    "relu": lambda random, shape: np.maximum(random.standard_normal(shape, dtype=np.float32), 0),
    "smooth": lambda random, shape: smooth(random.standard_normal(shape, dtype=np.float32)),
    "two-bit": lambda random, shape: random.integers(0, 4, shape).astype(np.float32),
    "four-bit": lambda random, shape: np.rint(4 * random.standard_normal(shape, dtype=np.float32)),
    "binary": lambda random, shape: (random.random(shape) < 0.7).astype(np.float32),
    "absent": lambda random, shape: np.where(random.random(shape) < 0.3, -np.inf, random.integers(0, 3, shape)).astype(
        np.float32
    ),
}
SHAPES = [(3, 3), (3, 5), (6, 4), (5, 5), (7, 7), (4, 9)]


def random_maps(total: int, seed: int) -> list[Maps]:
    """All kinds in turn, five of seven full of ties; all shapes in turn."""
    random = np.random.default_rng(seed)
    kinds = list(KINDS.values())
    return [kinds[at % len(kinds)](random, SHAPES[at % len(SHAPES)]) for at in range(total)]


# ------------------------------------------------------------------------------------------- two other definitions


def rank(matrix: npt.NDArray[np.uint8]) -> int:
    """Rank over GF(2), by elimination."""
    left, found = matrix.copy(), 0
    for column in range(left.shape[1]):
        rows = np.flatnonzero(left[found:, column]) + found
        if len(rows):
            left[[found, rows[0]]] = left[[rows[0], found]]
            below = np.flatnonzero(left[found + 1 :, column]) + found + 1
            left[below] ^= left[found]
            found += 1
    return found


def betti_by_ranks(there: Pixels) -> int:
    """Edges - rank of boundary 1 - rank of boundary 2, of the cubes whose corners are all there."""
    height, width = there.shape
    pixels = list(itertools.product(range(height), range(width)))

    def cubes(tall: int, wide: int) -> list[frozenset[tuple[int, int]]]:
        spans = [
            frozenset(itertools.product(range(y, y + tall + 1), range(x, x + wide + 1)))
            for y in range(height - tall)
            for x in range(width - wide)
        ]
        return [span for span in spans if all(there[p] for p in span)]

    edges, squares = cubes(0, 1) + cubes(1, 0), cubes(1, 1)
    first = np.array([[p in edge for p in pixels] for edge in edges], np.uint8).reshape(len(edges), len(pixels))
    second = np.array([[edge <= one for edge in edges] for one in squares], np.uint8).reshape(len(squares), len(edges))
    return len(edges) - rank(first) - rank(second)


def birth_by_ranks(values: Maps) -> int:
    """Birth from its definition: the Betti number of every step."""
    steps = np.unique(values[np.isfinite(values)])[::-1]
    return next((step for step, value in enumerate(steps, start=1) if betti_by_ranks(values >= value)), 0)


def birth_by_flooding(values: Maps) -> int:
    """A pixel lies in a hole as long as water that comes from outside, over corners too, does not reach it.

    Each pixel's flood level is the lowest rise on all ways to it; the first hole closes at the highest level that is
    above its pixel.
    """
    level = np.full_like(values, np.inf)
    while True:
        around = np.pad(level, 1, constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3))
        lower = np.maximum(values, windows.min(axis=(2, 3)))
        if (lower == level).all():
            break
        level = lower
    dry = level[level > values]
    return int((np.unique(values) >= dry.max()).sum()) if dry.size else 0


def both(maps: Maps, v_max: int = 2**62) -> npt.NDArray[np.int32]:
    """Births by the compiled routine and by Python, which must agree."""
    plain = _births(maps, v_max, compiled=False)
    assert (plain == _births(maps, v_max)).all()
    return plain


def test_the_library_is_compiled_here() -> None:
    """Without it the tests below compare Python with itself."""
    assert lattice_library() is not None


def test_five_hundred_births_are_those_of_the_definition() -> None:
    maps = random_maps(500, seed=0)
    found = [int(both(one[None])[0]) for one in maps]
    assert found == [birth_by_ranks(one) for one in maps]
    assert 0 < found.count(0) < 450 and len(set(found)) > 10


def test_births_are_those_of_flooding() -> None:
    maps = random_maps(500, seed=1)
    assert [int(lattice_birth_times(one)) for one in maps] == [birth_by_flooding(one) for one in maps]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "count"), [((12, 12), 10), ((3, 60), 10), ((40, 23), 4), ((64, 64), 2)])
def test_large_maps(kind: str, shape: tuple[int, int], count: int) -> None:
    maps = KINDS[kind](np.random.default_rng(shape[1]), (count, *shape))
    assert both(maps).tolist() == [birth_by_flooding(one) for one in maps]


@pytest.mark.slow
def test_two_thousand_maps_against_gudhi() -> None:
    """GUDHI's cubical complex with pixels as vertices. Extra `oracles`."""
    need("gudhi")
    import gudhi

    def born(values: Maps) -> int:
        steps = np.unique(values[np.isfinite(values)])[::-1]
        enters = np.searchsorted(-steps, -values).astype(np.float64) + 1
        enters[np.isneginf(values)] = 1e6
        cells = gudhi.CubicalComplex(vertices=enters)
        cells.compute_persistence(homology_coeff_field=2)
        bars = cells.persistence_intervals_in_dimension(1)
        return int(min((bar[0] for bar in bars if bar[0] < 1e6), default=0))

    random = np.random.default_rng(2)
    large = [kind(random, shape) for kind in KINDS.values() for shape in [(16, 16), (14, 20)] for _ in range(20)]
    maps = random_maps(2000, seed=3) + large
    assert [at for at, one in enumerate(maps) if int(lattice_birth_times(one)) != born(one)] == []


# ------------------------------------------------------------------------------------------------------ single maps


def test_the_smallest_ring() -> None:
    """Eight pixels around a darker one; seven leave it open; corners are part of the ring."""
    ring = np.array([[5, 5, 5], [5, 1, 5], [5, 5, 5]], dtype=np.float32)
    assert both(ring[None]).tolist() == [1]
    ring[0, 0] = 3
    assert both(ring[None]).tolist() == [2]
    ring[0, 0] = 1
    assert both(ring[None]).tolist() == [0]


def test_a_ring_that_is_filled_in_the_same_step_is_no_hole() -> None:
    values = np.zeros((5, 5), dtype=np.float32)
    values[1:4, 1:4] = 2
    assert both(values[None]).tolist() == [0]
    values[2, 2] = 1
    assert both(values[None]).tolist() == [1]


def test_a_lattice_counts_its_holes_pixel_by_pixel() -> None:
    """Two rings side by side, then their insides; Euler's formula stays exact when holes go again."""
    lattice = PixelLattice(3, 5)
    inside = [(1, 1), (1, 3)]
    holes = []
    for pixel in [(y, x) for y in range(3) for x in range(5) if (y, x) not in inside] + inside:
        lattice.insert(*pixel)
        holes.append(lattice.holes)
    assert holes == [0] * 10 + [1, 1, 2, 1, 0]


def test_an_absent_pixel_is_darker_than_all_others() -> None:
    values = np.full((1, 3, 3), 5, dtype=np.float32)
    values[0, 1, 1] = -np.inf
    assert both(values).tolist() == [1]


def test_padding_with_absent_pixels_does_not_matter() -> None:
    maps = KINDS["four-bit"](np.random.default_rng(0), (60, 7, 9))
    padded = np.full((60, 10, 14), -np.inf, dtype=np.float32)
    padded[:, 2:9, 3:12] = maps
    births = both(maps)
    assert (both(padded) == births).all() and births.any()


@pytest.mark.parametrize("change", ["transpose", "turn", "mirror", "exp", "scale"])
def test_invariances(change: str) -> None:
    random = np.random.default_rng(0)
    maps = np.concatenate([KINDS[kind](random, (40, 8, 11)) for kind in ("noise", "relu", "four-bit")])
    changed = {
        "transpose": maps.swapaxes(1, 2),
        "turn": np.rot90(maps, axes=(1, 2)),
        "mirror": maps[:, ::-1],
        "exp": np.exp(maps.astype(np.float64) / 2).astype(np.float32),
        "scale": 4 * maps,
    }[change]
    assert (lattice_birth_times(changed) == lattice_birth_times(maps)).all()


def test_reordered_pixels_are_another_map() -> None:
    """Unlike the graph of rows and columns, a lattice knows which pixels are neighbours."""
    random = np.random.default_rng(0)
    maps, order = KINDS["smooth"](random, (20, 9, 9)), random.permutation(9)
    moved = maps[:, order][:, :, order]
    assert (birth_times(moved) == birth_times(maps)).all()
    assert (lattice_birth_times(moved) != lattice_birth_times(maps)).any()


def test_extreme_values() -> None:
    """Infinite pixels are the brightest ones, and the two zeros are one value."""
    ring = np.full((1, 3, 3), np.inf, dtype=np.float32)
    ring[0, 1, 1] = -1
    assert both(ring).tolist() == [1]
    ring[0] = [[0.0, -0.0, 0.0], [-0.0, -1, -0.0], [0.0, -0.0, 0.0]]
    assert both(ring).tolist() == [1]


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (9, 2), (1, 50), (0, 5), (5, 0)])
def test_too_few_rows_or_columns_have_no_birth(shape: tuple[int, int]) -> None:
    assert lattice_birth_times(np.random.default_rng(0).random((5, *shape))).tolist() == [0] * 5


def test_maps_without_a_ring_have_no_birth() -> None:
    hill = -np.hypot(*np.mgrid[-4:5, -4:5]).astype(np.float32)
    flat = np.zeros((9, 9), dtype=np.float32)
    assert both(np.stack([hill, flat, flat - np.inf])).tolist() == [0, 0, 0]
    assert both(-hill[None]).item() > 0  # a bowl


@pytest.mark.parametrize(("kind", "v_max"), [("noise", 28), ("four-bit", 6)])
def test_v_max_forgets_later_births(kind: str, v_max: int) -> None:
    maps = KINDS[kind](np.random.default_rng(0), (60, 7, 7))
    births = lattice_birth_times(maps)
    cut = lattice_birth_times(maps, v_max=v_max)
    assert (cut == np.where(births > v_max, 0, births)).all() and cut.any() and (cut != births).any()
    assert (both(maps, v_max) == cut).all()


def test_a_call_does_not_see_the_maps_of_the_one_before() -> None:
    maps = KINDS["two-bit"](np.random.default_rng(0), (80, 14, 11))
    alone = np.concatenate([lattice_birth_times(one[None]) for one in maps])
    assert (lattice_birth_times(maps) == alone).all()


def test_births_do_not_depend_on_threads() -> None:
    import torch

    maps = KINDS["four-bit"](np.random.default_rng(0), (2000, 9, 8))
    before, threads = lattice_birth_times(maps), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (lattice_birth_times(maps) == before).all()
    finally:
        torch.set_num_threads(threads)


def test_shapes_are_kept() -> None:
    assert lattice_birth_times(np.zeros((2, 3, 5, 7))).shape == (2, 3)
    assert lattice_birth_times(np.zeros((0, 5, 7))).shape == (0,)
    assert lattice_birth_times(np.zeros((5, 7))).shape == ()


def test_bad_input() -> None:
    with pytest.raises(MixbitError, match=r"shape \(3,\), legal is \(..., h, w\)"):
        lattice_birth_times(np.zeros(3))
    with pytest.raises(MixbitError, match="v_max is 0"):
        lattice_birth_times(np.zeros((4, 4)), v_max=0)
    for shape in [(3, 4, 5), (3, 2, 5)]:  # where there is nothing to find, too
        maps = np.zeros(shape)
        maps[1, 0, 0] = np.nan
        with pytest.raises(MixbitError, match="1 of 3 maps have values that are not a number"):
            lattice_birth_times(maps)
    assert python_lattice_birth(np.full((4, 4), np.nan, dtype=np.float32), 9) == -1


# ----------------------------------------------------------------------------------------------------- laws of noise


def law(height: int, width: int) -> dict[int, float]:
    """Birth -> probability for continuous noise, over all sets of pixels that can be there at a time.

    Every order of the pixels is equally likely. `reach` is the probability that a set is the one of its size and that
    no hole was there before.
    """
    pixels = height * width
    reach, found = {0: 1.0}, {}
    for step in range(1, pixels + 1):
        after: dict[int, float] = {}
        for present, chance in reach.items():
            for at in range(pixels):
                if not present >> at & 1:
                    now = present | 1 << at
                    after[now] = after.get(now, 0.0) + chance / (pixels - step + 1)
        there = {now: np.array([now >> at & 1 for at in range(pixels)], bool).reshape(height, width) for now in after}
        closed = {now for now, one in there.items() if birth_by_flooding(one.astype(np.float32))}
        found[step] = sum(after[now] for now in closed)
        reach = {now: chance for now, chance in after.items() if now not in closed}
    return {step: chance for step, chance in found.items() if chance}


def test_law_of_the_smallest_map() -> None:
    """A hole where the middle is the darkest of nine: one in nine, and always at the eighth step."""
    assert law(3, 3) == pytest.approx({8: 1 / 9})


@pytest.mark.parametrize("shape", [(3, 3), (3, 4)])
def test_births_of_noise_follow_the_law(shape: tuple[int, int]) -> None:
    """100,000 maps: five standard errors of each share, and the entropy with absences as a value."""
    wanted = law(*shape)
    births = lattice_birth_times(np.random.default_rng(0).random((100_000, *shape), dtype=np.float32))
    assert set(np.unique(births)) == {0, *wanted}
    for birth, chance in wanted.items():
        assert np.mean(births == birth) == pytest.approx(chance, abs=5 * math.sqrt(chance / 100_000))
    parts = [*wanted.values(), 1 - sum(wanted.values())]
    counted = channel_entropies(births[:, None], missing="bin0")[0]
    assert counted == pytest.approx(-sum(p * math.log(p) for p in parts), abs=0.01)
