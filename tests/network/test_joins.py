"""Adds and concats, and the layers that meet in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixbit.network import capture
from tests.network.conftest import Call


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 1)


def joins(model: nn.Module, *inputs: torch.Tensor) -> list[tuple[str, str, tuple[str, ...]]]:
    given = inputs or (torch.randn(2, 4, 6, 6),)
    return [(join.name, join.kind, join.layers) for join in capture(model, given).joins]


def test_adds_look_up_through_norms_activations_views_and_other_adds() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn(self.a(x)))
        y = y + self.b(y)
        z = F.max_pool2d(y, 2).flatten(1).view(-1, 4, 3, 3)
        return z + self.c(z)

    model = Call(forward, a=conv(), b=conv(), c=conv(), bn=nn.BatchNorm2d(4))
    assert joins(model) == [("add", "add", ("a", "b")), ("add:2", "add", ("a", "b", "c"))]


def test_every_spelling_of_an_add() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y += x
        y = torch.add(self.b(y), y, alpha=2)
        y = y.add_(self.c(y))
        return sum([self.d(y), y])

    found = joins(Call(forward, a=conv(), b=conv(), c=conv(), d=conv()))
    assert [layers for _, _, layers in found] == [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")]


def test_concats() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y, z = self.a(x), self.b(x)
        return torch.cat([F.relu(y), z, y], 1) + torch.stack([y, z], 1).flatten(1, 2).repeat(1, 2, 1, 1)[:, :12]

    assert joins(Call(forward, a=conv(), b=conv())) == [
        ("cat", "concat", ("a", "b")),
        ("stack", "concat", ("a", "b")),
        ("add", "add", ("a", "b")),
    ]


def test_differences_and_products_are_no_joins_and_the_order_is_that_of_execution() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y, z = self.a(x), self.b(x)
        w = self.c(z - y) * z
        return torch.cat([w, z, y], 1)

    assert joins(Call(forward, a=conv(), b=conv(), c=conv())) == [("cat", "concat", ("a", "b", "c"))]


def test_constants_and_a_tensor_with_itself_are_no_join() -> None:
    token = nn.Parameter(torch.zeros(1, 1, 6, 6))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x) + 1
        y = y + y
        return torch.cat([self.token.expand(x.shape[0], -1, -1, -1), y], 1)

    assert joins(Call(forward, a=conv(), token=token)) == []


@pytest.mark.parametrize("like", ["expand_as", "view_as", "reshape_as", "type_as"])
def test_a_constant_in_the_shape_of_an_activation_stays_a_constant(like: str) -> None:
    token = nn.Parameter(torch.zeros(1, 4, 6, 6))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(y + getattr(self.token, like)(y.mean(0, keepdim=True)))

    network = capture(Call(forward, a=conv(), b=conv(), token=token), torch.randn(2, 4, 6, 6))
    assert network.joins == ()


def test_the_way_up_ends_at_products_and_skipped_operations() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.up(y) + torch.softmax(y @ y, -1) @ y + self.b(y)

    model = Call(forward, a=conv(), b=conv(), up=nn.ConvTranspose2d(4, 4, 1))
    assert joins(model) == [("add", "add", ()), ("add:2", "add", ("b",))]
