"""The zoo's register: names, where each network comes from, and how to build it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from mixbit._registry import Registry
from mixbit.errors import MixbitError, did_you_mean

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ModelInfo", "build", "factory_parameters", "info", "names", "register"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Where a network of the zoo comes from, and what it eats."""

    name: str
    paper: str
    """Who defined the architecture, and where."""
    reference: str
    """The code or weights whose state_dict keys and numbers this definition follows."""
    licence: str
    """Licence of that reference; the code here is the project's own."""
    input_shape: tuple[int, ...]
    """Shape of one sample, (C, H, W); of features (C,)."""
    num_classes: int
    """Numbers in one output."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Inputs are (pixel / 255 - mean) / std, one number a channel."""
    summary: str = ""


_ZOO = Registry[tuple[ModelInfo, Callable[..., nn.Module]]]("model")


def register(metadata: ModelInfo) -> Callable[[Factory], Factory]:
    """Enter a factory into the zoo under `metadata.name`.

    Raises:
        MixbitError: the name is taken.
    """

    def enter(factory: Factory) -> Factory:
        _ZOO.enter(metadata.name, (metadata, factory))
        return factory

    return enter


def names(pattern: str = "*") -> list[str]:
    """Sorted names of the zoo that match a shell pattern.

    >>> names("resnet?0")
    ['resnet20', 'resnet50']
    """
    return _ZOO.names(pattern)


def info(name: str) -> ModelInfo:
    """Provenance of a network of the zoo.

    Raises:
        MixbitError: no network of this name; the message lists those there are.

    >>> info("resnet20").input_shape
    (3, 32, 32)
    """
    return _ZOO.find(name)[0]


def build(name: str, **kwargs: object) -> nn.Module:
    """Build a network of the zoo, with fresh random weights from torch's global generator.

    Args:
        name: a name from `names()`.
        kwargs: passed to the factory; every network takes `num_classes`.

    Raises:
        MixbitError: no network of this name, or an argument that it does not take.

    >>> sum(p.numel() for p in build("resnet20").parameters())
    269722
    """
    parameters = factory_parameters(name)
    for key in kwargs:
        if key not in parameters:
            legal = ", ".join(parameters)
            raise MixbitError(f"{name!r} takes no argument {key!r}; it takes: {legal}.{did_you_mean(key, parameters)}")
    return _ZOO.find(name)[1](**kwargs)


def factory_parameters(name: str) -> tuple[str, ...]:
    """Arguments that `build` takes for a network of the zoo.

    >>> factory_parameters("resnet20")
    ('num_classes', 'width', 'in_channels')
    """
    return tuple(inspect.signature(_ZOO.find(name)[1]).parameters)
