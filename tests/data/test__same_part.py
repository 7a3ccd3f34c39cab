"""A part of a loader's samples: the loader's own ways, on fewer numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from mixbit.data._same_part import has_numbers, in_fixed_order, same_part
from mixbit.data.order import samples_of

DATA = TensorDataset(torch.arange(20.0)[:, None], torch.arange(20))


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(())


def doubled(samples: list[Any]) -> Any:
    return torch.stack([2 * x for x, _ in samples]), torch.stack([y for _, y in samples])


def prepared(worker: int) -> None:
    """Nothing to prepare."""


def test_the_part_is_read_as_the_whole_is() -> None:
    generator = torch.Generator()
    loader = DataLoader(
        DATA, 3, shuffle=True, num_workers=2, collate_fn=doubled, timeout=7, worker_init_fn=prepared,
        multiprocessing_context="spawn", generator=generator, prefetch_factor=3,
    )  # fmt: skip
    part = same_part(loader, range(20), 8, seed=3)
    for name in ("dataset", "batch_size", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn",
                 "multiprocessing_context", "generator", "prefetch_factor"):  # fmt: skip
        assert getattr(part, name) is getattr(loader, name) or getattr(part, name) == getattr(loader, name), name
    assert sorted(part.sampler) == samples_of(20, 8 / 20, 3).tolist() and len(part.sampler) == 8  # type: ignore[arg-type]


def test_the_order_is_the_samplers_and_the_choice_is_of_its_own_numbers() -> None:
    loader = DataLoader(DATA, 3, sampler=torch.utils.data.SubsetRandomSampler([9, 2, 7, 4, 13, 11]))
    part = same_part(loader, [13, 2, 9, 4, 7, 11], 3, seed=1)
    wanted = [sorted([2, 4, 7, 9, 11, 13])[place] for place in samples_of(6, 0.5, 1).tolist()]
    passes = {tuple(int(y) for _, ys in part for y in ys) for _ in range(12)}
    assert {tuple(sorted(one)) for one in passes} == {tuple(wanted)} and len(passes) > 1


def test_epochs_and_generators_reach_the_inner_sampler() -> None:
    class Told(SequentialSampler):
        generator, epoch = torch.Generator(), 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    inner = Told(DATA)
    sampler: Any = same_part(DataLoader(DATA, 3, sampler=inner), range(20), 5, seed=0).sampler
    sampler.set_epoch(4)
    assert inner.epoch == 4 and sampler.generator is inner.generator
    plain: Any = same_part(DataLoader(DATA, 3), range(20), 5, seed=0).sampler
    plain.set_epoch(4)
    assert plain.generator is None


@pytest.mark.parametrize(
    ("loader", "numbers", "fixed"),
    [
        (DataLoader(DATA, 3), True, False),
        (DataLoader(Stream(), 3), False, False),
        (DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 3, False)), False, False),
        (DataLoader(DATA, batch_sampler=[[0, 1], [2]]), False, True),
        ([DATA[:3]], False, True),
        ({1, 2}, False, False),
    ],
)
def test_who_has_numbers_and_who_an_order(loader: Any, numbers: bool, fixed: bool) -> None:
    assert has_numbers(loader) is numbers and in_fixed_order(loader) is fixed
