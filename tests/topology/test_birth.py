"""Birth times: named graphs, invariances, ties, bad input; and equality with homology packages where they are there."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from mixbit.errors import MixbitError
from mixbit.topology import birth_times, first_betti
from mixbit.topology._complex import CliqueComplex, python_birth
from mixbit.topology._library import library
from mixbit.topology.birth import _births
from tests.needs import need

Maps = npt.NDArray[np.float32]


def smooth(maps: Maps) -> Maps:
    """Mean of each value and its neighbours to the right and below."""
    return ((maps + np.roll(maps, 1, -1) + np.roll(maps, 1, -2)) / 3).astype(np.float32)


KINDS: dict[str, Callable[[np.random.Generator, int, int], Maps]] = {
    "noise": lambda random, n, m: random.standard_normal((n, m, m), dtype=np.float32),
    "relu": lambda random, n, m: np.maximum(random.standard_normal((n, m, m), dtype=np.float32), 0),
    "smooth": lambda random, n, m: smooth(random.standard_normal((n, m, m), dtype=np.float32)),
    "two-bit": lambda random, n, m: random.integers(0, 4, (n, m, m)).astype(np.float32),
    "four-bit": lambda random, n, m: np.rint(4 * random.standard_normal((n, m, m), dtype=np.float32)),
    "binary": lambda random, n, m: (random.random((n, m, m)) < 1.5 / m).astype(np.float32),
    "sparse": lambda random, n, m: np.maximum(random.standard_normal((n, m, m), dtype=np.float32) - 1.7, 0),
    "absent": lambda random, n, m: np.where(
        random.random((n, m, m)) < 0.8, -np.inf, random.integers(0, 3, (n, m, m))
    ).astype(np.float32),
}


def rank(rows: list[int]) -> int:
    """Rank over GF(2) of rows written as integers."""
    pivots: dict[int, int] = {}
    for row in rows:
        while row:
            top = row.bit_length()
            if top not in pivots:
                pivots[top] = row
                break
            row ^= pivots[top]
    return len(pivots)


def betti_by_ranks(adjacency: npt.NDArray[np.bool_]) -> int:
    """First Betti number from its definition: edges - rank of boundary 1 - rank of boundary 2."""
    vertices = range(len(adjacency))
    edges = [pair for pair in itertools.combinations(vertices, 2) if adjacency[pair]]
    number = {pair: at for at, pair in enumerate(edges)}
    triangles = [
        t for t in itertools.combinations(vertices, 3) if all(p in number for p in itertools.combinations(t, 2))
    ]
    first = rank([1 << a | 1 << b for a, b in edges])
    second = rank([sum(1 << number[pair] for pair in itertools.combinations(t, 2)) for t in triangles])
    return len(edges) - first - second


def birth_by_ranks(weights: Maps) -> int:
    """Birth from its definition: the Betti number of every step."""
    heavier = np.maximum(weights, weights.T)
    values = np.unique(heavier[np.triu_indices(len(weights), 1)])[::-1]
    for step, value in enumerate(values[np.isfinite(values)], start=1):
        joined = heavier >= value
        np.fill_diagonal(joined, False)
        if betti_by_ranks(joined):
            return step
    return 0


def both(maps: Maps, v_max: int = 2**62) -> npt.NDArray[np.int32]:
    """Births by the compiled routine and by Python, which must agree."""
    plain = _births(maps, v_max, compiled=False)
    assert (plain == _births(maps, v_max)).all()
    return plain


def edges_of(text: str) -> list[tuple[int, int]]:
    return [(int(pair[0]), int(pair[1])) for pair in text.split()]


def test_the_library_is_compiled_here() -> None:
    """Without it the tests below compare Python with itself."""
    assert library() is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [4, 5, 6, 8])
def test_births_are_those_of_the_definition(kind: str, m: int) -> None:
    maps = KINDS[kind](np.random.default_rng(m), 25, m)
    assert both(maps).tolist() == [birth_by_ranks(one) for one in maps]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "count"), [(12, 30), (23, 20), (24, 10), (40, 6), (64, 3), (65, 3), (90, 2), (130, 2)])
def test_compiled_births_are_those_of_python(kind: str, m: int, count: int) -> None:
    """Also where one word holds no row (over 64 vertices), and where edges are picked in stages."""
    both(KINDS[kind](np.random.default_rng(m), count, m))


def test_many_classes_alive_at_once() -> None:
    """Equal edges between two halves: (n - 1)^2 holes in one step, which edges within a half then kill."""
    for half in (4, 12, 40):
        joined = np.zeros((2 * half, 2 * half), dtype=np.float32)
        joined[:half, half:] = 2
        assert both(joined[None]).tolist() == [1]
        joined[:half, :half] = 2
        assert both(joined[None]).tolist() == [0]  # each of the first half sees all: a cone


def test_triangles_of_vertices_beyond_the_64th_fill_holes_too() -> None:
    """A sphere of 7 dimensions joined with 8 points has no hole of one dimension, and no vertex sees all others."""
    joined = np.zeros((80, 80), dtype=np.float32)
    near = np.arange(64, 72)
    joined[64:72, 64:] = joined[64:, 64:72] = 2
    joined[near, near ^ 1] = 0
    assert both(joined[None]).tolist() == [0]


@pytest.mark.parametrize("shift", [-100.0, -1.0, 0.0, 100.0])
def test_a_hole_that_comes_late_comes_at_any_sign(shift: float) -> None:
    """Points on three quarters of a circle, joined by nearness: the gap closes when most edges are there."""
    random = np.random.default_rng(0)
    angles = random.uniform(0, 1.5 * np.pi, (4, 40))
    points = np.stack([np.cos(angles), np.sin(angles)], -1)
    apart = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    maps = (np.round(shift * 64 - 64 * apart)).astype(np.float32)
    found = both(maps)
    assert (found > 60).all()  # of the some 128 steps
    assert (found == both(np.round(-64 * apart).astype(np.float32))).all()


def test_a_call_does_not_see_the_maps_of_the_one_before() -> None:
    """A map that ends within a tied group leaves nothing to the next one."""
    ties = KINDS["two-bit"](np.random.default_rng(0), 60, 14)
    alone = np.concatenate([birth_times(one[None]) for one in ties])
    assert (birth_times(ties) == alone).all()


def test_births_do_not_depend_on_threads() -> None:
    import torch

    maps = KINDS["four-bit"](np.random.default_rng(0), 3000, 14)
    before, threads = birth_times(maps), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (birth_times(maps) == before).all()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("change", ["transpose", "rename", "exp", "scale"])
def test_invariances(change: str) -> None:
    random = np.random.default_rng(0)
    maps = np.concatenate([KINDS[kind](random, 40, 10) for kind in ("noise", "relu", "four-bit")])
    order = random.permutation(10)
    changed = {
        "transpose": maps.swapaxes(1, 2),
        "rename": maps[:, order][:, :, order],
        "exp": np.exp(2 * maps.astype(np.float64)).astype(np.float32),
        "scale": 3 * maps,
    }[change]
    assert (birth_times(changed) == birth_times(maps)).all()


def test_the_diagonal_does_not_matter() -> None:
    maps = KINDS["noise"](np.random.default_rng(0), 20, 9)
    other = maps.copy()
    other[:, range(9), range(9)] = np.nan
    assert (both(other) == both(maps)).all()


def test_padding_with_absent_edges_does_not_matter() -> None:
    maps = KINDS["four-bit"](np.random.default_rng(0), 20, 9)
    padded = np.full((20, 12, 12), -np.inf, dtype=np.float32)
    padded[:, :9, :9] = maps
    assert (both(padded) == both(maps)).all()


def test_extreme_values() -> None:
    """Infinite weights are the heaviest ones, and the two zeros are one value."""
    circle = np.full((4, 4), -1.0, dtype=np.float32)
    for a, b in edges_of("01 12 23 03"):
        circle[a, b] = np.inf
    assert both(circle[None]).tolist() == [1]
    circle[0, 1], circle[1, 2], circle[2, 3], circle[0, 3] = 0.0, -0.0, 0.0, -0.0
    assert both(circle[None]).tolist() == [1]


@pytest.mark.parametrize("m", [0, 1, 2, 3])
def test_too_few_vertices_have_no_birth(m: int) -> None:
    assert birth_times(np.random.default_rng(0).random((5, m, m))).tolist() == [0] * 5


def test_constant_maps_have_no_birth() -> None:
    assert both(np.zeros((1, 6, 6), dtype=np.float32)).tolist() == [0]
    assert both(np.full((1, 6, 6), -np.inf, dtype=np.float32)).tolist() == [0]


def test_one_bright_row_has_no_birth() -> None:
    maps = KINDS["noise"](np.random.default_rng(0), 20, 8)
    maps[:, 3] += 100
    assert not both(maps).any()


@pytest.mark.parametrize(("kind", "v_max"), [("noise", 11), ("four-bit", 3)])
def test_v_max_forgets_later_births(kind: str, v_max: int) -> None:
    maps = KINDS[kind](np.random.default_rng(0), 60, 12)
    births = birth_times(maps)
    cut = birth_times(maps, v_max=v_max)
    assert (cut == np.where(births > v_max, 0, births)).all() and cut.any() and (cut != births).any()
    assert (both(maps, v_max) == cut).all()


def test_shapes_are_kept() -> None:
    assert birth_times(np.zeros((2, 3, 5, 5))).shape == (2, 3)
    assert birth_times(np.zeros((0, 5, 5))).shape == (0,)
    assert birth_times(np.zeros((5, 5))).shape == ()


def test_bad_input() -> None:
    with pytest.raises(MixbitError, match=r"shape \(2, 3\), legal is \(..., m, m\)"):
        birth_times(np.zeros((2, 3)))
    with pytest.raises(MixbitError, match="v_max is 0"):
        birth_times(np.zeros((4, 4)), v_max=0)
    maps = np.zeros((3, 4, 4))
    maps[1, 0, 2] = np.nan
    with pytest.raises(MixbitError, match="1 of 3 maps have values that are not a number"):
        birth_times(maps)
    with pytest.raises(MixbitError, match=r"adjacency has the shape \(2, 3\)"):
        first_betti(np.zeros((2, 3)))
    assert python_birth(np.full((4, 4), np.nan, dtype=np.float32), 9) == -1


def test_betti_numbers_are_those_of_the_ranks() -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        m = int(random.integers(4, 12))
        joined = np.triu(random.random((m, m)) < random.random(), 1)
        joined |= joined.T
        assert first_betti(joined) == betti_by_ranks(joined)


def test_a_complex_counts_its_holes_step_by_step() -> None:
    graph = CliqueComplex(4)
    holes = []
    for a, b in edges_of("01 23 13 02 12 03"):
        graph.insert(a, b)
        holes.append(graph.holes)
    assert holes == [0, 0, 0, 1, 0, 0]


def all_kinds(total: int) -> list[Maps]:
    """Maps of sizes 4 to 28, all kinds in turn."""
    random = np.random.default_rng(5)
    sizes, kinds = (4, 5, 6, 7, 8, 10, 14, 20, 28), list(KINDS.values())
    return [kinds[at % len(kinds)](random, 1, sizes[at % len(sizes)])[0] for at in range(total)]


def distances(weights: Maps) -> tuple[npt.NDArray[np.float64], int]:
    """Step in which each edge enters, as a distance, and the number of steps; absent edges are far beyond it."""
    heavier = np.maximum(weights, weights.T).astype(np.float64)
    off = heavier[np.triu_indices(len(weights), 1)]
    values = np.unique(off[np.isfinite(off)])[::-1]
    far = np.searchsorted(-values, -heavier).astype(np.float64) + 1
    far[np.isneginf(heavier)] = 1e6
    np.fill_diagonal(far, 0)
    return far, len(values)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["gudhi", "ripser"])
def test_two_thousand_maps_against_homology_packages(package: str) -> None:
    """Sizes 4 to 28, five of eight kinds full of ties. Extra `oracles`."""
    need(package)
    oracle = importlib.import_module(package)

    def born(weights: Maps) -> int:
        far, steps = distances(weights)
        if package == "ripser":
            bars = oracle.ripser(far, distance_matrix=True, maxdim=1, thresh=float(steps))["dgms"][1]
        else:
            tree = oracle.RipsComplex(distance_matrix=far, max_edge_length=float(steps)).create_simplex_tree(
                max_dimension=2
            )
            tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=True)
            bars = tree.persistence_intervals_in_dimension(1)
        return int(min((bar[0] for bar in bars if bar[1] > bar[0]), default=0))

    maps = all_kinds(2000)
    wrong = [at for at, one in enumerate(maps) if int(birth_times(one)) != born(one)]
    assert wrong == []
