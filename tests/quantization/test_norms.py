"""Which layer a batch norm belongs to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixbit.quantization import norms_after_layers, norms_fed_by_layers
from mixbit.quantization._layers import put_on

X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Two branches whose norms are not called in the order of the layers, a norm behind an activation, one in front,
    and one behind a layer in float."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.direct, self.other, self.later = (nn.BatchNorm2d(3) for _ in range(4))
        self.a, self.b, self.plain, self.out = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.behind, self.last = nn.BatchNorm2d(3), nn.BatchNorm1d(7)
        self.head = nn.Linear(75, 7)
        for layer in (self.a, self.b, self.out, self.head):
            put_on(layer, None, None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        a, b = self.a(x), self.b(x)
        x = self.direct(a) + self.other(b)  # b ran last
        x = self.later(torch.relu(self.out(x)))
        x = self.behind(self.plain(x))
        return self.last(self.head(x.flatten(1)))  # type: ignore[no-any-return]


def test_a_norm_belongs_to_the_layer_whose_output_it_reads_or_to_the_nearest_before() -> None:
    model = Branches().train()
    assert norms_after_layers(model, X) == {"direct": "a", "other": "b", "later": "out", "last": "head"}
    assert model.training and model.front.num_batches_tracked == 0, "looking changes nothing"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_only_a_norm_that_reads_the_very_output_can_be_folded() -> None:
    found = norms_fed_by_layers(Branches(), X)
    assert found == {"a": "direct", "b": "other", "plain": "behind", "head": "last"}
