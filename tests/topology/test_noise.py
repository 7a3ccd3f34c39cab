"""The control depends on sizes and seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from mixbit.errors import MixbitError
from mixbit.topology import map_births, noise_births


def test_same_seed_same_noise() -> None:
    one = noise_births((8, 8), 10, 3, seed=1)
    assert one.shape == (10, 3)
    assert (one == noise_births((8, 8), 10, 3, seed=1)).all()
    assert (one != noise_births((8, 8), 10, 3, seed=2)).any()


def test_fewer_channels_are_the_first_of_more() -> None:
    assert (noise_births((8, 8), 10, 2) == noise_births((8, 8), 10, 5)[:, :2]).all()


def test_tokens_and_maps_that_are_not_square() -> None:
    assert noise_births((50,), 20, 2).any() and noise_births((6, 9), 20, 2).any()
    zero, absent = (noise_births((50,), 60, 4, fill=fill) for fill in (0.0, -np.inf))
    assert (zero != absent).any()


def test_pixels_as_vertices() -> None:
    """The same noise, read in the other way; maps need not be square, tokens have to be."""
    assert (noise_births((8, 8), 40, 2) != noise_births((8, 8), 40, 2, graph="grid")).any()
    assert noise_births((6, 9), 20, 2, graph="grid").any() and noise_births((49,), 20, 2, graph="grid").any()
    births = noise_births((8, 8), 40, 2, graph="grid")
    median = int(np.median(births))
    cut = noise_births((8, 8), 40, 2, graph="grid", v_max=median)
    assert (cut == np.where(births > median, 0, births)).all() and (cut != births).any()


def test_v_max() -> None:
    births = noise_births((10, 10), 50, 2)
    assert (noise_births((10, 10), 50, 2, v_max=9) == np.where(births > 9, 0, births)).all()


def test_it_is_gaussian_noise_of_the_seed_and_the_sizes() -> None:
    random = np.random.default_rng([3, 6, 9, 10])
    maps = [random.standard_normal((10, 6, 9), dtype=np.float32) for _ in range(2)]
    wanted = np.stack([map_births(one, graph="grid") for one in maps], axis=1)
    assert (noise_births((6, 9), 10, 2, seed=3, graph="grid") == wanted).all() and wanted.any()


def test_bad_shape() -> None:
    with pytest.raises(MixbitError, match=r"is \(2, 3, 4\), legal is \(h, w\)"):
        noise_births((2, 3, 4), 2, 2)
