"""Model, weights and data as the user names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixbit import data, models
from mixbit.errors import MixbitError
from mixbit.runs import Subject


def test_json_round_trip() -> None:
    subject = Subject(model="digits-resnet", data="digits", weights=Path("a/b.safetensors"), seed=3)
    assert Subject.from_json(subject.to_json()) == subject


def test_seed_moves_the_weights_but_not_the_split() -> None:
    """A network must never be tested on what it was trained on, whatever the seed of a later command."""
    one, two = (Subject(model="digits-resnet", data="digits", seed=seed) for seed in (0, 1))
    images = [next(s.load_data().test.batches(360))[0] for s in (one, two)]
    assert torch.equal(*images)
    weights = [s.build().state_dict()["conv1.weight"] for s in (one, two, two)]
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])


def test_zoo_networks_get_the_normalisation_of_their_weights() -> None:
    found = Subject(model="digits-resnet", data="digits").load_data()
    assert found.mean == models.info("digits-resnet").mean
    other = Subject(model="resnet8", data="digits").load_data()  # three channels, so the data keep their own
    assert other.mean == data.load("digits").mean


def test_data_are_needed() -> None:
    with pytest.raises(MixbitError, match="--data"):
        Subject(model="digits-resnet").load_data()


def test_networks_are_made_for_the_channels_of_their_images() -> None:
    """Grey images need no copy in three channels where the factory takes a number of channels."""
    task, _ = Subject(model="resnet20", data="digits").task()
    assert task.network.layers[0].weight_shape == (16, 1, 3, 3)
