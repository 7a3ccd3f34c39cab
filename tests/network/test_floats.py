"""Every parameter is counted once: as a layer's weight, as part of its bias, or in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixbit.network import Network, capture
from tests.network.conftest import Call


def sizes(network: Network) -> dict[str, tuple[int, int]]:
    """Name -> elements and MACs."""
    return {one.name: (one.size, one.macs) for one in network.float_parameters}


def test_what_is_folded_into_a_layer_is_in_no_list() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    network = capture(net, torch.randn(2, 3, 6, 6))
    assert network.float_parameters == ()
    assert (network.float_size, network.float_macs) == (0, 0)


def test_a_norm_with_another_reader_or_another_source_stays() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.shared(y) + self.after(F.relu(y))

    net = Call(forward, conv=nn.Conv2d(3, 3, 1), shared=nn.BatchNorm2d(3), after=nn.BatchNorm2d(3))
    assert sizes(capture(net, torch.randn(2, 3, 4, 4))) == {
        "shared.weight": (3, 0),
        "shared.bias": (3, 0),
        "after.weight": (3, 0),
        "after.bias": (3, 0),
    }


@pytest.mark.parametrize(
    ("forward", "members", "example", "expected"),
    [
        # 7 steps of (4 gates) * (3 * 5 + 5 * 5) MACs, put down to the first of the two matrices.
        (
            lambda self, x: self.rnn(x)[0],
            {"rnn": nn.LSTM(3, 5)},
            (7, 2, 3),
            {
                "rnn.weight_ih_l0": (60, None),
                "rnn.weight_hh_l0": (100, 0),
                "rnn.bias_ih_l0": (20, 0),
                "rnn.bias_hh_l0": (20, 0),
            },
        ),
        (
            lambda self, x: self.up(x),
            {"up": nn.ConvTranspose2d(2, 3, 2, stride=2)},
            (2, 2, 4, 4),
            {"up.weight": (24, 2 * 16 * 3 * 4), "up.bias": (3, 0)},
        ),
        (
            lambda self, x: self.emb(x.long()),
            {"emb": nn.Embedding(9, 4)},
            (2, 5),
            {"emb.weight": (36, 0)},
        ),
        (
            lambda self, x: self.norm(x + self.token) * self.gate,
            {
                "norm": nn.LayerNorm(4),
                "token": nn.Parameter(torch.zeros(1, 1, 4)),
                "gate": nn.Parameter(torch.ones(())),
            },
            (2, 5, 4),
            {"token": (4, 0), "gate": (1, 0), "norm.weight": (4, 0), "norm.bias": (4, 0)},
        ),
        (
            lambda self, x: self.conv(x),
            {"conv": nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 1))},
            (2, 2, 5),
            {
                "conv.bias": (3, 0),
                "conv.parametrizations.weight.original0": (3, 5 * 6),
                "conv.parametrizations.weight.original1": (6, 0),
            },
        ),
        # Twice the MACs, once the weights.
        (
            lambda self, x: self.fc(F.relu(self.fc(x))),
            {"fc": nn.Linear(4, 4)},
            (2, 4),
            {"fc.weight": (16, 32), "fc.bias": (4, 0)},
        ),
    ],
    ids=["recurrent", "transposed", "embedding", "norm-token-scalar", "weight-norm", "called-twice"],
)
def test_sizes_and_macs_of_what_stays(
    forward: Any, members: dict[str, Any], example: tuple[int, ...], expected: dict[str, tuple[int, int | None]]
) -> None:
    network = capture(Call(forward, **members), torch.randn(*example).abs())
    found = sizes(network)
    assert {name: size for name, (size, _) in found.items()} == {name: size for name, (size, _) in expected.items()}
    assert {n: m for n, (_, m) in found.items() if expected[n][1] is not None} == {
        name: macs for name, (_, macs) in expected.items() if macs is not None
    }
    assert network.float_macs == network.other_macs
    assert all(one.reason for one in network.float_parameters)


def test_tied_weights_are_counted_once_and_what_is_not_reached_not_at_all() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight
            self.unused = nn.Linear(100, 100)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(x))

    network = capture(Tied(), torch.zeros(2, 3, dtype=torch.long))
    assert sizes(network) == {"embedding.weight": (36, 3 * 36)}
    assert {one.name: one.reason for one in network.skipped}["unused"] == "not reached by the example"


def test_a_buffer_that_is_used_as_a_weight_is_counted() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.ones(1, 1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv1d(x, self.kernel)

    assert sizes(capture(Fixed(), torch.randn(2, 1, 6))) == {"conv1d": (3, 12)}


def test_products_of_two_tensors_are_macs_without_parameters() -> None:
    network = capture(Call(lambda self, x: self.fc(x @ x), fc=nn.Linear(4, 4)), torch.randn(2, 4, 4))
    assert (network.other_macs, network.float_macs) == (64, 0)


def test_without_a_graph_all_but_weights_and_biases_of_layers_are_counted() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(x)) if x.sum() > -1e9 else x
        return self.norm(self.fc(x))

    net = Call(forward, twice=nn.Linear(4, 4), fc=nn.Linear(4, 3), norm=nn.BatchNorm1d(3))
    network = capture(net, torch.randn(2, 4))
    assert [layer.name for layer in network.layers] == ["fc"]
    assert sizes(network) == {
        "twice.weight": (16, 32),
        "twice.bias": (4, 0),
        "norm.weight": (3, 0),
        "norm.bias": (3, 0),
    }
