"""A network file that was edited fits together, or is refused with the part that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from mixbit.errors import MixbitError
from mixbit.network import Network, Skipped, capture, check_network

NET = capture(
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(8, 3)),
    torch.randn(1, 1, 4, 4),
)


def layer(**changes: object) -> Network:
    return replace(NET, layers=(replace(NET.layers[0], **changes), *NET.layers[1:]))  # type: ignore[arg-type]


def tensor(**changes: object) -> Network:
    return replace(NET, tensors=(replace(NET.tensors[0], **changes), *NET.tensors[1:]))  # type: ignore[arg-type]


WRONG: dict[str, tuple[Callable[[], Network], str]] = {
    "no tensors": (lambda: replace(NET, tensors=()), "names the tensor 'input', which is not there"),
    "no steps": (lambda: replace(NET, steps=()), "lives from step 0 to 0 of 0|lives from step"),
    "twice": (lambda: layer(name="2"), "the layer '2' stands there twice"),
    "macs": (lambda: layer(macs=10**30), "has macs .*below 2"),
    "negative": (lambda: layer(macs_limpq=-5), "has macs_limpq -5"),
    "groups": (lambda: layer(groups=0), "has groups 0"),
    "shape": (lambda: layer(weight_shape=(-1, 2)), "has (weights|the shape)"),
    "tensor": (lambda: layer(input_tensor="inptu"), "'inptu', which is not there. Did you mean 'input'"),
    "readers": (lambda: tensor(readers=("zz",)), "is read by 'zz', which is no layer"),
    "lives": (lambda: tensor(first_step=3, last_step=1), "lives from step 3 to 1"),
    "huge": (lambda: tensor(shape=(2**40, 2**40)), "below 2.53 numbers"),
    "at the limit": (lambda: layer(macs=2**53), "has macs .*legal are 0 to below 2"),
    "limpq at the limit": (lambda: layer(macs_limpq=2**53), "has macs_limpq "),
    "no weights": (lambda: layer(weight_shape=(0, 2)), "has (weights 0|the shape)"),
    "input shape": (lambda: layer(input_shape=(1, 0, 4)), "has the shape"),
    "output shape": (lambda: layer(output_shape=(0,)), "has the shape"),
    "written": (lambda: layer(output_tensor="zz"), "names the tensor 'zz', which is not there"),
    "a tensor twice": (lambda: replace(NET, tensors=(*NET.tensors, NET.tensors[0])), "the tensor 'input' stands there"),
    "an empty tensor": (lambda: tensor(shape=(0, 3)), "has the shape"),
    "before the start": (lambda: tensor(first_step=-1), "lives from step -1"),
    "after the end": (lambda: tensor(last_step=len(NET.steps)), f"to {len(NET.steps)} of {len(NET.steps)}"),
    "skipped": (lambda: replace(NET, skipped=(Skipped(name="fc", reason="", macs=2**53),)), "the MACs of 'fc' are"),
    "other at the limit": (lambda: replace(NET, other_macs=2**53), "the MACs of 'other_macs' are"),
    "other": (lambda: replace(NET, other_macs=-1), "the MACs of 'other_macs' are -1"),
}


def test_what_capture_makes_fits_together() -> None:
    check_network(NET)


def test_what_is_just_within_the_limits_fits() -> None:
    check_network(layer(macs=2**53 - 1, macs_limpq=0))
    check_network(replace(NET, other_macs=2**53 - 1))
    check_network(tensor(last_step=len(NET.steps) - 1))
    check_network(replace(NET, layers=(), steps=(), tensors=(replace(NET.tensors[0], readers=(), last_step=0),)))


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(MixbitError, match=f"does not fit together: .*({message})"):
        check_network(make())
