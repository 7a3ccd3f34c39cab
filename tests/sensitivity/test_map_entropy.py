"""Entropies of the maps of layers: what is read, and what it is held against."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixbit.network import capture, layer_maps
from mixbit.sensitivity.map_entropy import MapOptions, measure
from mixbit.topology import channel_entropies, layer_entropy, map_births, noise_births

X = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def _net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(192, 2)).eval()


def test_a_layer_has_the_entropy_of_its_own_maps_and_that_of_noise_of_their_size() -> None:
    model = _net()
    network, options = capture(model, X), MapOptions(seed=3, null_channels=2)
    told: list[int] = []
    maps = layer_maps(model, X[:2])
    found = measure(maps, network.layers, [X[:4], X[4:]], options, lambda steps, _: told.append(steps))
    conv = found.layers["0"]
    births = map_births(model[0](X).detach().numpy(), tokens=False, graph="unit", fill=None, v_max=None)
    assert conv.te == pytest.approx(options.entropy(births))
    assert conv.null == pytest.approx(options.entropy(noise_births((8, 8), 6, 2, seed=3)))
    assert (conv.size, conv.shape, conv.channels, found.maps, told) == (8, (8, 8), 3, 18, [1, 1])
    assert found.bytes_peak == 4 * 3 * 64 * 4, "of the larger batch"
    assert found.without == {"2": "its output (2,) has no two-dimensional map"}


def test_options_reach_the_entropy() -> None:
    births = noise_births((8, 8), 6, 3, seed=0)
    of = {weighting: MapOptions(weighting=weighting).entropy(births) for weighting in ("prop", "mean")}
    for weighting, found in of.items():
        per_channel = channel_entropies(births, missing="drop", blind="sensitive", miller_madow=False)
        assert found == pytest.approx(layer_entropy(per_channel, weighting=weighting))
    assert MapOptions(miller_madow=True).entropy(births) > of["prop"]
