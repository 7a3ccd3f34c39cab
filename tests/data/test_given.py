"""Whatever the user has for data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from mixbit.data import DatasetSplit, LoaderSplit, ReadSplit, as_split, inputs_of, read_keys
from mixbit.errors import DataError, MixbitError
from mixbit.integer import lower
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize, quantizers

DATA = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10.0))


class Stream(IterableDataset[tuple[torch.Tensor, float]]):
    def __iter__(self) -> Any:
        return iter((torch.tensor([float(at)]), float(at)) for at in range(10))


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (DATA, DatasetSplit),
        (DataLoader(DATA, 3), LoaderSplit),
        ([DATA[:4], DATA[4:]], LoaderSplit),
        (Stream(), LoaderSplit),
    ],
)
def test_everything_gives_the_same_batches(given: Any, kind: type) -> None:
    split = as_split(given)
    assert isinstance(split, kind) and len(split) == 10 and as_split(split) is split
    batches = list(split.batches(4))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert torch.cat([y for _, y in batches]).tolist() == list(range(10))


def test_a_split_is_read_once_by_a_rule() -> None:
    def both(batch: Any) -> Any:
        return batch[0], batch[0]

    split = as_split(as_split(DATA), both)
    assert isinstance(split, ReadSplit) and as_split(split, both) is split
    x, y = next(split.batches(3))
    assert torch.equal(x, y) and split.num_batches(3) == 4 and split.num_classes is None


@pytest.mark.parametrize("wrong", [3, None, "digits", {"x": 1}])
def test_what_is_no_data(wrong: Any) -> None:
    with pytest.raises(DataError, match="cannot be read as data"):
        as_split(wrong)


class Two(nn.Module):
    """Two positional inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(z)  # type: ignore[no-any-return]


def steps(model: nn.Module, batches: Any, example: Any, **how: Any) -> list[float]:
    network = capture(model.eval(), example)
    quantize(model, Policy.uniform(network, 4, 4, {}), network)
    calibrate(model, batches, **how)
    return [q.steps.sum().item() for q in quantizers(model).values()]


def test_calibration_reads_the_inputs_of_whatever_it_is_given() -> None:
    torch.manual_seed(0)
    x, y, model = torch.randn(8, 3), torch.zeros(8), nn.Sequential(nn.Linear(3, 2))
    state = model.state_dict()
    wanted = steps(model, [x[:4], x[4:]], x)
    dicts = [{"x": one, "y": 0} for one in x]
    for batches, read in (
        (DataLoader(TensorDataset(x, y), batch_size=4), None),
        ([(x[:4], y[:4]), (x[4:], y[4:])], None),
        (DataLoader(dicts, batch_size=4), read_keys("x", "y")),  # type: ignore[arg-type]
        (DataLoader(x, batch_size=4), None),  # type: ignore[arg-type]
    ):
        other = nn.Sequential(nn.Linear(3, 2))
        other.load_state_dict(state)
        assert steps(other, batches, x, read=read) == wanted


def test_tuples_are_arguments_where_the_model_takes_so_many() -> None:
    x, z = torch.randn(4, 3), torch.randn(4, 2)
    assert steps(Two(), [(x, z)], (x, z))
    for batch in (((x, z), torch.zeros(4)), [x, z]):
        (found,) = inputs_of([batch], Two())
        assert isinstance(found, tuple) and found[0] is x and found[1] is z
    with pytest.raises(DataError, match="the model takes .*Give the inputs alone"):
        list(inputs_of([(x, z, z, z)], Two()))


def test_empty_batches_and_what_is_no_list_of_them() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    for batches, message in (
        ([torch.zeros(0, 3)], "no samples"),
        (torch.zeros(2, 3), "a Tensor"),
        ([{}], "no samples"),
    ):
        with pytest.raises(MixbitError, match=message):
            list(inputs_of(batches, model))


def test_lowering_reads_a_loader_of_pairs() -> None:
    x, model = torch.randn(8, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network = capture(model.eval(), x)
    quantize(model, Policy.uniform(network, 8, 8), network)
    loader = DataLoader(TensorDataset(x, torch.zeros(8)), batch_size=4)
    calibrate(model, loader)
    assert lower(model, network, loader).tensors.keys() == lower(model, network, [x]).tensors.keys()
