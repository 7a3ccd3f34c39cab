"""The zoo's names, provenance and building."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from mixbit import models
from mixbit.errors import MixbitError
from mixbit.models.registry import ModelInfo, register
from mixbit.network import capture

# One needs the transformers package, the other puts out as much as it takes in.
NO_IMAGE_CLASSES = ("vit-tiny-hf", "ad-autoencoder")


def test_every_network_says_where_it_comes_from() -> None:
    for name in models.names():
        info = models.info(name)
        assert info.name == name
        assert info.paper
        assert info.reference
        assert info.licence
        assert info.summary
        assert len(info.mean) == len(info.std) == info.input_shape[0]


def test_the_zoo_holds_what_the_documentation_promises() -> None:
    promised = {"resnet20", "resnet32", "resnet56", "resnet18", "resnet50", "mobilenetv2", "ds-cnn"}
    small = {"mobilenetv1-0.25", "mobilenetv1-cifar", "resnet8", "ad-autoencoder", "digits-resnet"}
    assert promised | small | {"vit-tiny-hf"} == set(models.names())


@pytest.mark.parametrize("name", [name for name in models.names() if name not in NO_IMAGE_CLASSES])
def test_networks_give_one_logit_a_class(name: str) -> None:
    info = models.info(name)
    with torch.device("meta"):
        images = torch.zeros(2, *info.input_shape)
        assert models.build(name).eval()(images).shape == (2, info.num_classes)
        assert models.build(name, num_classes=3).eval()(images).shape == (2, 3)


SAID = {name: said for name in models.names() if (said := re.search(r"([\d.]+) M MACs", models.info(name).summary))}


@pytest.mark.parametrize("name", SAID)
def test_a_summary_says_the_macs_that_capture_counts(name: str) -> None:
    """To as many digits as it has."""
    info, said = models.info(name), SAID[name][1]
    network = capture(models.build(name), torch.zeros(2, *info.input_shape))
    millions = sum(layer.macs for layer in network.layers) / 1e6
    assert said == f"{millions:.{len(said.partition('.')[2])}f}"


def test_names_take_a_shell_pattern() -> None:
    assert models.names("resnet?0") == ["resnet20", "resnet50"]
    assert models.names("nothing*") == []


def test_unknown_name_and_argument() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'resnet20'"):
        models.build("resnet-20")
    with pytest.raises(MixbitError, match="Did you mean 'num_classes'"):
        models.build("resnet20", classes=3, num_class=3)


def test_a_name_is_registered_once() -> None:
    info = models.info("resnet20")
    fields = {key: getattr(info, key) for key in ModelInfo.__slots__} | {"name": "only-once"}

    @register(ModelInfo(**fields))
    def only_once(num_classes: int = 1) -> nn.Module:
        return nn.Linear(1, num_classes)

    try:
        assert models.build("only-once", num_classes=2).out_features == 2
        with pytest.raises(MixbitError, match="registered already"):
            register(ModelInfo(**fields))(only_once)
    finally:
        from mixbit.models import registry

        registry._ZOO.leave("only-once")
