"""Which layer a batch norm belongs to, and that each bit-width has batch norms of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixbit.quantization._layers import put_on
from mixbit.supernet.norms import (
    SwitchableBatchNorm,
    make_switchable,
    norms_after_layers,
    norms_fed_by_layers,
    select_norms,
)

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


def test_every_bit_width_has_a_norm_of_its_own() -> None:
    """What one row learns and sees is not the others'; each is the batch norm that it was copied from."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), norm)
    make_switchable(model, ["1"], 3)
    switchable = model[1]
    assert isinstance(switchable, SwitchableBatchNorm) and len(switchable.copies) == 3
    assert torch.equal(switchable.eval()(X), norm.eval()(X))
    switchable.train()
    switchable.row = 1
    switchable(X).square().sum().backward()
    assert [int(one.num_batches_tracked) for one in switchable.copies] == [0, 1, 0]  # type: ignore[arg-type]
    assert [one.weight.grad is not None for one in switchable.copies] == [False, True, False]
    with torch.no_grad():
        switchable.copies[2].weight.fill_(7.0)  # type: ignore[union-attr,operator]
    assert switchable.eval().copies[0].weight.equal(norm.weight)  # type: ignore[operator]
    switchable.row = 2
    assert not torch.equal(switchable(X), norm(X))


def test_norms_within_parents_are_replaced_where_they_are() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), nn.BatchNorm2d(3))
    make_switchable(model, ["0.1"], 2)
    assert isinstance(model[0][1], SwitchableBatchNorm) and isinstance(model[1], nn.BatchNorm2d)  # type: ignore[index]


def test_each_norm_is_pointed_at_the_bits_of_its_own_layer() -> None:
    model = nn.ModuleDict({name: SwitchableBatchNorm(nn.BatchNorm2d(3), 3) for name in ("x", "y", "z")})
    after = {"x": "conv1", "y": "conv2", "z": "conv1"}
    select_norms(model, after, (8, 4, 2), {"conv1": 2, "conv2": 4, "conv3": 8})
    assert [model[name].row for name in ("x", "y", "z")] == [2, 1, 2]
    select_norms(model, after, (8, 4, 2), {"conv1": 8, "conv2": 2})
    assert [model[name].row for name in ("x", "y", "z")] == [0, 2, 0]
