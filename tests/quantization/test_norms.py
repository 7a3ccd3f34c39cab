"""Which layer a batch norm belongs to."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from mixbit.errors import MixbitError, WeightsError
from mixbit.network import capture
from mixbit.quantization import attach, calibrate, detach, norms_after_layers, norms_fed_by_layers
from mixbit.quantization._layers import put_on
from mixbit.quantization.norms import layers_before_norms
from mixbit.supernet import PerSample, make_switchable, select

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


class Shared(nn.Module):
    """One norm behind two layers, twice behind the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.one(self.norm(self.one(x))))
        return self.norm(self.two(x))  # type: ignore[no-any-return]


def test_all_layers_that_a_norm_is_called_behind() -> None:
    assert layers_before_norms(Shared(), X) == {"norm": ["one", "two"]}


# -------------------------------------------------------------------------------------- norms of rows, on and off


def net() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.running_mean.uniform_(-1.0, 1.0)  # type: ignore[union-attr,operator]
    return model.eval()


def with_rows(norms: str = "bits") -> nn.Sequential:
    model = net()
    attach(model, capture(model, X), dict.fromkeys(("0", "3"), ((8, 2), (8, 2))))
    make_switchable(model, X, norms)  # type: ignore[arg-type]
    calibrate(model, [X])
    return model


def test_detach_gives_ordinary_norms_back_each_with_the_row_in_use() -> None:
    model, plain = with_rows(), net()
    with torch.no_grad():
        model[1].weight[1] = plain[1].weight.fill_(3.0)  # type: ignore[index,union-attr,operator]
        model[4].running_mean[1] = plain[4].running_mean.fill_(-2.0)  # type: ignore[index,union-attr,operator]
    select(model, 2)
    detach(model)
    assert [type(module) for module in model] == [type(module) for module in plain]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model(X), plain(X))
    model.load_state_dict(with_rows("shared").state_dict(), strict=False)  # nothing is left that looks at a state
    assert not model._load_state_dict_pre_hooks


def test_detach_refuses_norms_with_a_row_a_sample_and_takes_nothing_off() -> None:
    model = with_rows()
    select(model, PerSample(("0", "3"), torch.tensor([[8, 8], [2, 2], [8, 8], [2, 2]])))
    before = [type(module) for module in model.modules()]
    with pytest.raises(MixbitError, match=r"behind layer '0' has a row a sample in use.*select\(model, 8\)"):
        detach(model)
    assert [type(module) for module in model.modules()] == before
    select(model, 8)
    detach(model)
    assert torch.equal(model(X), net()(X))


@pytest.mark.parametrize("made", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model])
def test_a_state_of_norms_with_rows_does_not_go_into_ordinary_ones(made: object) -> None:
    state, other = with_rows().state_dict(), made(with_rows("shared"))  # type: ignore[operator]
    told = r"1 is one norm for all bits here, and the state has a row for each of \[\[8\], \[2\]\].*make_switchable"
    with pytest.raises(WeightsError, match=told):
        other.load_state_dict(state)
    with pytest.raises(WeightsError, match=told):
        nn.Sequential(other).load_state_dict({f"0.{key}": value for key, value in state.items()})
    other.load_state_dict(with_rows("shared").state_dict())
