"""Bits by map size: the side of the output map, its logarithm, and what has no map."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mixbit import models
from mixbit.allocation import allocate
from mixbit.cost import Budget
from mixbit.data import TensorSplit
from mixbit.errors import MixbitError
from mixbit.methods import MapSize, Method
from mixbit.methods.map_size import map_side
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.needs import need
from tests.tasks import tiny_task


class TestContract(MethodCases):
    def method(self, seed: int) -> Method:
        return MapSize(seed=seed)

    def task(self) -> Task:
        return tiny_task()


def image_task(model: nn.Module, size: int, channels: int = 3) -> Task:
    pixels = torch.zeros(2, channels, size, size, dtype=torch.uint8)
    half = [0.5] * channels
    split = TensorSplit(pixels, torch.tensor([0, 1]), num_classes=10, mean=half, std=half)
    return Task(model=model, train=split, test=split)


def test_harm_is_the_logarithm_times_the_noise_power() -> None:
    found = MapSize().search(image_task(models.build("resnet20"), 32)).layers
    assert found["layer1.0.conv1"].weight[4] == pytest.approx(math.log(32) * 4**-4)
    assert found["layer2.0.conv1"].activation[2] == pytest.approx(math.log(16) / 16)
    assert found["layer3.2.conv2"].weight[8] == pytest.approx(math.log(8) * 4**-8)


def test_one_choice_a_layer_unless_asked() -> None:
    task = image_task(models.build("resnet20"), 32)
    # Bytes of weights leave inputs free: only the coupling keeps them down.
    budget = Budget.parse(["weight-bytes=4x4"])
    policy, _ = allocate(task.network, MapSize().search(task), budget)
    assert all(bits.weight_bits == bits.activation_bits for bits in policy.layers.values())
    apart, _ = allocate(task.network, MapSize(coupled=False).search(task), budget)
    assert {bits.activation_bits for bits in apart.layers.values()} == {8}


def test_large_maps_never_get_fewer_bits_at_equal_cost() -> None:
    task = image_task(models.build("resnet20"), 32)
    policy, _ = allocate(task.network, MapSize().search(task), Budget.parse(["bitops=5x5"]))
    # The 3x3 convolutions that keep width and stride do the same MACs in every stage, at falling map size.
    bits = [policy.layers[f"layer{stage}.2.conv1"].weight_bits or 0 for stage in (1, 2, 3)]
    assert bits == sorted(bits, reverse=True)


def test_layers_without_a_map_get_the_median_and_are_listed() -> None:
    scores = MapSize().search(tiny_task())
    assert scores.layers["hidden"] == scores.layers["conv1"]  # two maps of 6 x 6: the median is theirs
    (line,) = scores.settings["without_map"]  # type: ignore[misc, union-attr]
    assert line == "hidden: no map, median importance 1.792"


def test_maps_of_one_pixel_count_as_none_and_the_median_is_that_of_all_others() -> None:
    """Maps of 12, 6 and 2 pixels a side are searched; the logarithms' mean would be 1.656."""
    sizes = ((3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 3, 0), (2, 1, 0))
    body = [nn.Conv2d(1 if not at else 2, 2, *size) for at, size in enumerate(sizes)]
    scores = MapSize().search(image_task(nn.Sequential(*body, nn.Flatten(), nn.Linear(2, 10)), 12, channels=1))
    assert scores.settings["without_map"] == ["4: a map of one pixel, median importance 1.792"]
    assert scores.layers["4"] == scores.layers["2"]


def test_tokens_stand_on_a_square() -> None:
    need("transformers")
    task = image_task(models.build("vit-tiny-hf", image_size=32, patch_size=8, hidden_size=24, layers=2), 32)
    importance = MapSize().search(task).settings["importance"]
    tokens = {la.name: la.output_shape[0] for la in task.network.layers[1:-1] if len(la.output_shape) == 2}
    assert set(tokens.values()) == {17}
    assert all(importance[key] == math.log(math.ceil(math.sqrt(n))) for key, n in tokens.items())  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("kind", "shape", "side"),
    [
        ("conv2d", (16, 8, 6), 8),
        ("conv2d", (16, 5, 9), 9),
        ("linear", (16, 7), 4),
        ("linear", (17, 7), 5),
        ("attention_in_proj", (25, 7), 5),
        ("linear", (10,), None),
        ("conv1d", (4, 100), None),
    ],
)
def test_the_side_is_that_of_the_square_that_holds_the_map(kind: str, shape: tuple[int, ...], side: int | None) -> None:
    """The longer side of a map that is not square; tokens in rows of the root of their number, rounded up."""
    assert map_side(SimpleNamespace(kind=kind, output_shape=shape)) == side  # type: ignore[arg-type]


def test_a_network_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(MixbitError, match="no searched layer has a map"):
        MapSize().search(image_task(model, 4, channels=1))


class TestMapSizeOptions(OptionCases):
    owner = MapSize
    options = fields_of(MapSize)
    rows = (
        seen.bits_row(MapSize),
        OptionRow(
            "coupled",
            (True, False),
            seen=lambda value: seen.search(MapSize(coupled=value)).program.coupled,
            holds=lambda a, b: (a, b) == (True, False),
            says="one decision a layer, or two",
        ),
        seen.first_last_row(MapSize),
        seen.unused_seed_row(MapSize),
    )


def test_defaults_are_those_that_are_documented() -> None:
    assert MapSize() == MapSize(bits=(8, 7, 6, 5, 4, 3, 2), coupled=True, first_last=False, seed=0)
