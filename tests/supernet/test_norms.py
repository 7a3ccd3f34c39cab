"""Which layer a batch norm belongs to, and that each bit-width has batch norms of its own."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from mixbit.errors import MixbitError, WeightsError
from mixbit.evaluation import reestimate_batch_norm
from mixbit.network import capture
from mixbit.quantization import attach, calibrate
from mixbit.quantizers import SampleRows
from mixbit.supernet import select, settle
from mixbit.supernet.norms import SwitchableBatchNorm, make_switchable

X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def net(weights: tuple[int, ...] = (8, 4, 2), activations: tuple[int, ...] = (8, 4, 2)) -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.uniform_(0.5, 2.0)
            norm.running_mean.uniform_(-1.0, 1.0)
    network = capture(model.eval(), X)
    attach(model, network, {"0": (weights, activations), "3": (weights, activations)})
    calibrate(model, [X])
    return model


def switchable(rows: int = 3) -> tuple[SwitchableBatchNorm, list[nn.BatchNorm2d]]:
    """One of several rows, and as many batch norms of PyTorch's that are to do the same."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=0.3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.uniform_(-1.0, 1.0)
    return SwitchableBatchNorm(norm, "conv", [(b,) for b in (8, 4, 2)[:rows]]), [
        copy.deepcopy(norm) for _ in range(rows)
    ]


def same(ours: SwitchableBatchNorm, theirs: list[nn.BatchNorm2d]) -> None:
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(ours, name), torch.stack([getattr(one, name) for one in theirs])), name


def test_every_row_is_a_batch_norm_of_pytorchs() -> None:
    """Outputs, gradients and statistics of each row, trained in turns, are those of a norm that is alone."""
    ours, theirs = switchable()
    same(ours, theirs)
    for batch, row in ((X, 1), (2 * X + 1, 1), (X - 3, 2)):
        ours.use_row(row)
        one, two = ours(batch), theirs[row](batch)
        assert torch.equal(one, two)
        one.square().sum().backward()
        two.square().sum().backward()
    same(ours, theirs)
    assert ours.num_batches_tracked.tolist() == [0, 2, 1]
    assert ours.weight.grad is not None and not ours.weight.grad[0].any(), "a row that was not used has no gradient"
    assert all(torch.equal(ours.weight.grad[row], theirs[row].weight.grad) for row in (1, 2))  # type: ignore[arg-type]
    ours.eval(), [one.eval() for one in theirs]
    for row in range(3):
        ours.use_row(row)
        assert torch.equal(ours(X), theirs[row](X))


@pytest.mark.parametrize("training", [True, False])
def test_each_sample_is_normalised_with_those_of_its_own_row(training: bool) -> None:
    ours, theirs = switchable()
    rows = torch.tensor([2, 0, 2, 0])
    ours.train(training).select_samples(SampleRows.of(rows))
    found = ours(X)
    for row in (0, 2):
        assert torch.equal(found[rows == row], theirs[row].train(training)(X[rows == row]))
    same(ours, theirs)
    ours.use_row(1)
    assert torch.equal(ours(X), theirs[1].train(training)(X)), "another selection ends it"


def test_a_norm_without_affine_or_without_statistics_is_itself() -> None:
    for options in ({"affine": False}, {"track_running_stats": False}):
        norm = nn.BatchNorm2d(3, **options)
        ours = SwitchableBatchNorm(copy.deepcopy(norm), "conv", [(8,), (2,)])
        for training in (True, False):
            assert torch.equal(ours.train(training)(X), norm.train(training)(X))


def test_rows_are_found_by_bits_the_coarser_side_or_the_pair() -> None:
    norm = nn.BatchNorm2d(3)
    bits = SwitchableBatchNorm(norm, "conv", [(8,), (4,), (2,)])
    assert [bits.row_of(8, 4), bits.row_of(2, 8), bits.row_of(4, None), bits.row_of(None, 2)] == [1, 2, 1, 2]
    pairs = SwitchableBatchNorm(norm, "conv", [(8, 4), (4, 4), (8, 2)])
    assert [pairs.row_of(8, 2), pairs.row_of(4, 4)] == [2, 1]
    with pytest.raises(MixbitError, match=r"behind layer 'conv' has no row of \(4, 2\)"):
        pairs.row_of(4, 2)


@pytest.mark.parametrize(("norms", "keys"), [("bits", 3), ("pair", 6)])
def test_norms_are_made_switchable_where_a_layer_has_a_choice(norms: str, keys: int) -> None:
    model = net(activations=(8, 2))
    plain = copy.deepcopy(model).eval()
    assert make_switchable(model, X, norms) == {"1": "0", "4": "3"}  # type: ignore[arg-type]
    assert [len(model[at].keys) for at in (1, 4)] == [keys, keys]
    select(plain, 8)
    select(model, 8)
    assert torch.equal(model.eval()(X), plain(X)), "every row begins as the norm that was there"


def test_shared_norms_and_layers_without_a_choice_are_left() -> None:
    model = net()
    assert make_switchable(model, X, "shared") == {} and type(model[1]) is nn.BatchNorm2d
    assert make_switchable(net((4,), (4,)), X) == {}
    with pytest.raises(MixbitError, match="norms='each' is unknown. Legal: shared, bits, pair"):
        make_switchable(model, X, "each")  # type: ignore[arg-type]


def test_a_norm_that_computes_in_its_own_way_has_no_copies() -> None:
    with pytest.raises(MixbitError, match="SyncBatchNorm has a forward of its own"):
        SwitchableBatchNorm(nn.SyncBatchNorm(3), "conv", [(8,), (2,)])


def test_the_state_brings_the_row_and_refuses_another_place() -> None:
    model, other = net(), net()
    make_switchable(model, X)
    make_switchable(other, X)
    select(model, 2)
    with torch.no_grad():
        model[1].weight[2].fill_(7.0)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert int(other[1].row) == 2 and torch.equal(other.eval()(X), model.eval()(X))
    state = model.state_dict()
    for key, wrong, told in (
        ("1.layer_name", torch.tensor(list(b"3"), dtype=torch.uint8), "1 is of '0' here and of '3' in the state"),
        ("1.key_bits", torch.tensor([[8], [4], [3]]), r"\[\[8\], \[4\], \[2\]\] here and of \[\[8\], \[4\], \[3\]\]"),
    ):
        with pytest.raises(WeightsError, match=told):
            other.load_state_dict({**state, key: wrong})


def test_the_state_of_shared_norms_is_refused_with_what_to_do() -> None:
    shared, model = net(), net()
    make_switchable(model, X, "pair")
    with pytest.raises(WeightsError, match=r"1 has a row for each of \[\[8, 8\], .*one norm for all.*before mixbit"):
        model.load_state_dict(shared.state_dict())
    again = net()
    again.load_state_dict(shared.state_dict())  # as the message says
    make_switchable(again, X, "pair")
    model.load_state_dict(again.state_dict())


def test_estimates_are_made_anew_for_the_rows_in_use_alone() -> None:
    model = net()
    make_switchable(model, X)
    before = {name: b.clone() for name, b in model.named_buffers() if "running" in name}
    select(model, 4)
    reestimate_batch_norm(model.eval(), [X, X + 1])
    first = model[1]
    assert all(torch.equal(first.running_mean[row], before["1.running_mean"][row]) for row in (0, 2))
    out = [model[0](x) for x in (X, X + 1)]
    wanted = torch.stack([one.mean((0, 2, 3)) for one in out]).mean(0)
    torch.testing.assert_close(first.running_mean[1], wanted)
    assert first.num_batches_tracked.tolist() == [0, 2, 0] and first.momentum == 0.1


def test_a_plain_norm_of_the_row_in_use() -> None:
    ours, theirs = switchable()
    for row in range(3):
        ours.use_row(row)
        theirs[row](X * (row + 1)), ours(X * (row + 1))
    ours.use_row(2)
    found = ours.eval().plain()
    assert type(found) is nn.BatchNorm2d and not found.training and found.momentum == 0.3
    assert torch.equal(found(X), theirs[2].eval()(X))
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), theirs[2].state_dict().values(), strict=True)
    )


def test_norms_within_parents_are_replaced_where_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), nn.BatchNorm2d(3)).eval()
    network = capture(model, X)
    attach(model, network, {"0.0": ((8, 2), (8, 2))})
    assert make_switchable(model, X) == {"0.1": "0.0", "1": "0.0"}
    assert isinstance(model[0][1], SwitchableBatchNorm)  # type: ignore[index]


def test_a_norm_of_two_names_is_one_norm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.first = self.second = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.two(self.first(self.one(x))))  # type: ignore[no-any-return]

    model = Twice().eval()
    attach(model, capture(model, X), {name: ([8, 4], [8, 4]) for name in ("one", "two")})
    told = "the norm 'first' is called behind 2 layers: one, two. Its rows follow the bits of the last one, two"
    with pytest.warns(UserWarning, match=told):
        make_switchable(model, X)
    assert isinstance(model.second, SwitchableBatchNorm) and model.first is model.second
    calibrate(model, [X])
    settle(model)
    assert type(model.second) is nn.BatchNorm2d and model.first is model.second


@pytest.mark.parametrize("training", [True, False])
def test_one_sample_alone_at_its_bits_has_no_variance_to_train_with(training: bool) -> None:
    norm = SwitchableBatchNorm(nn.BatchNorm1d(3), "fc", [(8,), (4,)]).train(training)
    norm.select_samples(SampleRows.of(torch.tensor([0, 0, 1])))
    if training:
        with pytest.raises(MixbitError, match=r"behind layer 'fc' sees one sample alone with bits \(4,\)"):
            norm(X[:3, :, 0, 0])
    else:
        assert norm(X[:3, :, 0, 0]).shape == (3, 3)
    assert norm(X[:3]).shape == X[:3].shape
