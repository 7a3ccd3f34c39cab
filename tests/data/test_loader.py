"""A user's own loader as a split."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from mixbit.data import LoaderSplit
from mixbit.data.order import samples_of
from mixbit.errors import DataError
from tests.data.contract import check_split


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """Samples that show their number, with augmentation from all three global generators."""

    classes = ("a", "b", "c")

    def __init__(self, count: int = 22) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(1).item(), np.random.rand(), random.random()
        return torch.tensor([index, *noise], dtype=torch.float32).view(4, 1, 1), index % 3


class Stream(IterableDataset[tuple[torch.Tensor, int]]):
    """Samples without a length."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([(torch.full((1, 1, 1), float(i)), i % 2) for i in range(11)])


@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
@pytest.mark.parametrize("shuffle", [False, True])
def test_contract(batch_size: int, shuffle: bool) -> None:
    check_split(LoaderSplit(DataLoader(Noisy(), batch_size, shuffle=shuffle)))


def test_contract_of_a_plain_list_and_of_a_stream() -> None:
    pairs = [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])) for _ in range(4)]
    check_split(LoaderSplit(pairs, num_classes=2))
    split = LoaderSplit(DataLoader(Stream(), 3), num_classes=2)
    assert len(split) == 11
    check_split(split)


def test_a_generator_of_the_loaders_own_is_seeded() -> None:
    check_split(LoaderSplit(DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator())))


def test_workers_resume_as_well() -> None:
    split = LoaderSplit(DataLoader(Noisy(8), 2, shuffle=True, num_workers=1))
    whole = list(split.batches(2, seed=1))
    assert torch.equal(whole[3][0], next(split.batches(2, seed=1, start=3))[0])


def test_seeds_and_epochs_give_other_orders() -> None:
    split = LoaderSplit(DataLoader(Noisy(), 22, shuffle=True))
    orders = {
        str(next(split.batches(22, seed=seed, epoch=epoch))[0][:, 0].flatten().tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_every_generator_is_seeded_by_seed_and_epoch(change: dict[str, int]) -> None:
    """Those of torch, NumPy and `random`, each by itself; and they go on from batch to batch."""
    split = LoaderSplit(DataLoader(Noisy(), 4))
    first, other = (torch.cat([x.flatten(1) for x, _ in split.batches(4, **how)]) for how in ({}, change))
    assert torch.equal(first[:, 0], other[:, 0])
    assert not bool((first[:, 1:] == other[:, 1:]).any())
    assert all(len(first[:, column].unique()) == 22 for column in (1, 2, 3))


def test_the_callers_numpy_and_python_random_numbers_stay() -> None:
    split = LoaderSplit(DataLoader(Noisy(), 4, shuffle=True))
    np.random.seed(3)
    random.seed(3)
    before = np.random.get_state()[1].copy(), random.getstate()
    list(split.batches(4))
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert before[1] == random.getstate()


def test_a_distributed_sampler_is_told_the_epoch_and_not_cut_again() -> None:
    data = Noisy(16)
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True)
        split = LoaderSplit(DataLoader(data, 2, sampler=sampler))
        batches = list(split.batches(4, epoch=3, rank=rank, world=2))
        assert sampler.epoch == 3
        assert [len(y) for _, y in batches] == [2] * 4
        assert len(batches) == split.num_batches(4) == 4
        seen += [int(i) for x, _ in batches for i in x[:, 0].flatten()]
    assert sorted(seen) == list(range(16))
    with pytest.raises(DataError, match="2 processes, which must divide the batch 5"):
        list(split.batches(5, world=2))


def numbers(split: LoaderSplit, epoch: int, **options: object) -> list[int]:
    """The sample numbers of a pass, in its order."""
    return [int(i) for x, _ in split.batches(4, epoch=epoch, **options) for i in x[:, 0].flatten()]  # type: ignore[arg-type]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sampler", [None, torch.utils.data.SubsetRandomSampler(range(3, 19))])
def test_a_fraction_is_the_same_part_in_every_epoch(sampler: object, drop_last: bool) -> None:
    """Whatever order the loader draws; and every pass has an order of its own."""
    settings = {"sampler": sampler} if sampler else {"shuffle": True}
    split = LoaderSplit(DataLoader(Noisy(), 4, drop_last=drop_last, **settings))  # type: ignore[arg-type]
    passes = [numbers(split, epoch, fraction=0.25) for epoch in range(4)]
    assert len(passes[0]) == round(len(split) * 0.25) and len(set(passes[0])) == len(passes[0])
    assert all(sorted(one) == sorted(passes[0]) for one in passes)
    assert len({str(one) for one in passes}) > 1
    assert any(sorted(numbers(split, 0, fraction=0.25, seed=seed)) != sorted(passes[0]) for seed in (1, 2))
    assert passes[2] == numbers(split, 2, fraction=0.25)


def test_a_fraction_is_the_part_that_every_split_takes() -> None:
    split = LoaderSplit(DataLoader(Noisy(), 4))
    assert numbers(split, 1, fraction=0.5, seed=3) == samples_of(22, 0.5, 3).tolist()


def test_a_fraction_of_samplers_that_draw_other_samples_is_refused() -> None:
    data = Noisy(16)
    again = torch.utils.data.RandomSampler(data, replacement=True, num_samples=60)
    with pytest.raises(DataError, match="several times"):
        numbers(LoaderSplit(DataLoader(data, 4, sampler=again)), 0, fraction=0.5)
    few = torch.utils.data.RandomSampler(data, num_samples=6)
    with pytest.raises(DataError, match="other samples in every epoch"):
        [numbers(LoaderSplit(DataLoader(data, 4, sampler=few)), epoch, fraction=0.5) for epoch in range(1, 5)]
    dealt = DistributedSampler(data, num_replicas=2, rank=0)
    with pytest.raises(DataError, match="without a DistributedSampler"):
        list(LoaderSplit(DataLoader(data, 2, sampler=dealt)).batches(4, world=2, fraction=0.5))


def test_a_fraction_of_a_stream_says_that_its_order_matters() -> None:
    with pytest.warns(UserWarning, match="only if the stream's order is the same"):
        list(LoaderSplit(DataLoader(Stream(), 3), num_classes=2).batches(3, fraction=0.5))


def test_lengths_are_what_the_loader_gives() -> None:
    assert len(LoaderSplit(DataLoader(Noisy(22), 4, drop_last=True))) == 20
    subset = torch.utils.data.SubsetRandomSampler(range(7))
    assert len(LoaderSplit(DataLoader(Noisy(22), 4, sampler=subset))) == 7
    assert len(LoaderSplit(DataLoader(Noisy(22), batch_sampler=[[0, 1], [2]]))) == 3
    assert len(LoaderSplit(DataLoader(Noisy(22), 4), samples=9)) == 9


def test_a_pass_that_ends_early_is_an_error() -> None:
    split = LoaderSplit(DataLoader(Noisy(8), 4), samples=20)
    with pytest.raises(DataError, match="ended after 2 batches of 4, its 20 samples promise 5"):
        list(split.batches(4))


def test_an_iterator_can_be_read_once_only() -> None:
    with pytest.raises(DataError, match="once only"):
        LoaderSplit(iter([]), num_classes=2)


def test_the_number_of_classes_need_not_be_known() -> None:
    split = LoaderSplit(DataLoader(TensorDataset(torch.zeros(2, 1), torch.tensor([0.5, 1.5])), 1))
    assert split.num_classes is None and len(split) == 2


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(2), "gives a Tensor: .*pairs"),
        ({"x": torch.zeros(1)}, "gives a dict"),
        ((torch.zeros(1), torch.zeros(1), torch.zeros(1)), "gives a tuple: .*pairs"),
        ((torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1])), "must be float"),
        ((torch.zeros(2, 1, 1, 1), torch.tensor([0, 2])), "sample 1 has label 2"),
    ],
)
def test_what_is_no_batch(item: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(LoaderSplit([item], num_classes=2, samples=2).batches(1))
