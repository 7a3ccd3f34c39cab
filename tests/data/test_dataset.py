"""A user's own Dataset as a split."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from mixbit.data import DatasetSplit
from mixbit.errors import DataError
from tests.data.contract import check_split


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """Samples that show their number, with augmentation from all three global generators."""

    classes = ("a", "b", "c")

    def __init__(self, count: int = 22) -> None:
        self.count, self.asked = count, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.asked.append(index)
        noise = torch.rand(1).item(), np.random.rand(), random.random()
        return torch.tensor([index, *noise], dtype=torch.float32).view(4, 1, 1), index % 3


def test_contract() -> None:
    check_split(DatasetSplit(Noisy()))


def test_batches_that_are_passed_over_are_not_made() -> None:
    data = Noisy()
    list(DatasetSplit(data).batches(4, start=5))
    assert data.asked == [20, 21]


def test_epochs_have_other_orders_and_other_noise() -> None:
    split = DatasetSplit(Noisy())
    first, second = (next(split.batches(22, shuffle=True, epoch=epoch))[0].flatten(1) for epoch in (0, 1))
    assert first[:, 0].tolist() != second[:, 0].tolist()
    sorted_first, sorted_second = (one[one[:, 0].argsort()] for one in (first, second))
    assert torch.equal(sorted_first[:, 0], sorted_second[:, 0])
    assert not bool((sorted_first[:, 1:] == sorted_second[:, 1:]).any())


def test_seeds_give_other_noise_to_every_generator() -> None:
    split = DatasetSplit(Noisy())
    first, second = (next(split.batches(22, seed=seed))[0].flatten(1) for seed in (0, 1))
    assert torch.equal(first[:, 0], second[:, 0]) and not bool((first[:, 1:] == second[:, 1:]).any())
    assert all(len(first[:, column].unique()) == 22 for column in (1, 2, 3))


def test_a_subset_is_read_as_the_whole() -> None:
    part = DatasetSplit(Noisy(), num_classes=3, collate=lambda samples: (torch.ones(1), len(samples))).subset([3, 5])
    assert len(part) == 2 and part.num_classes == 3 and next(part.batches(2))[1] == 2


def test_collating_of_the_users_own() -> None:
    def boxes(samples: list[Any]) -> Any:
        return torch.stack([x for x, _ in samples]), [torch.zeros(y, 4) for _, y in samples]

    _, targets = next(DatasetSplit(Noisy(), collate=boxes).batches(3))
    assert [len(one) for one in targets] == [0, 1, 2]


def test_what_is_no_dataset() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(DataError, match="no samples by number"):
        DatasetSplit(Stream())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no samples"):
        DatasetSplit(TensorDataset(torch.zeros(0, 2)))
