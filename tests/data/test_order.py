"""Order, subsets and ranks are functions of their numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixbit.data.order import count_batches, count_samples, generator, key, part_of, plan_batches, samples_of
from mixbit.errors import DataError


def order(length: int, size: int, **options: object) -> list[int]:
    return [i for plan in plan_batches(length, size, **options) for i in plan.samples[plan.part].tolist()]


def test_keys_are_the_same_for_ever() -> None:
    """A resumed run of another version must meet the same order."""
    assert (key(0), key(1, 2)) == (893442142816765029, 5934340693050249675)
    assert len({key(a, b) for a in range(30) for b in range(30)}) == 900
    assert 0 <= key(-1, 2**40) < 2**63
    assert generator(1, 2).initial_seed() == key(1, 2)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_every_sample_comes_once(length: int, size: int, seed: int, epoch: int, shuffle: bool) -> None:
    found = order(length, size, seed=seed, epoch=epoch, shuffle=shuffle)
    assert sorted(found) == list(range(length))
    if not shuffle:
        assert found == list(range(length))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 8), st.floats(0.05, 1.0), st.booleans())
def test_start_resumes(length: int, size: int, start: int, fraction: float, drop_last: bool) -> None:
    options = {"seed": 1, "epoch": 2, "shuffle": True, "fraction": fraction, "drop_last": drop_last}
    whole = [plan.samples.tolist() for plan in plan_batches(length, size, **options)]
    rest = list(plan_batches(length, size, start=start, **options))
    assert [plan.samples.tolist() for plan in rest] == whole[start:]
    assert [plan.index for plan in rest] == list(range(start, len(whole)))
    assert len(whole) == count_batches(length, size, drop_last=drop_last, fraction=fraction)


@given(st.integers(0, 40), st.integers(1, 9))
def test_parts_of_ranks_cover_the_batch_evenly(length: int, world: int) -> None:
    parts = [part_of(length, rank, world) for rank in range(world)]
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_seeds_and_epochs_give_other_orders_but_the_same_subset() -> None:
    base = order(100, 10, shuffle=True, fraction=0.3, seed=1)
    assert sorted(base) == sorted(order(100, 10, shuffle=True, fraction=0.3, seed=1, epoch=4))
    assert base != order(100, 10, shuffle=True, fraction=0.3, seed=1, epoch=4)
    assert sorted(base) != sorted(order(100, 10, shuffle=True, fraction=0.3, seed=2))
    assert len(base) == 30


def test_counts_are_rounded_and_subsets_ascend() -> None:
    assert [count_samples(10, share) for share in (0.01, 0.27, 0.33, 0.96, 1.0)] == [1, 3, 3, 10, 10]
    for seed in range(3):
        chosen = samples_of(50, 0.3, seed).tolist()
        assert chosen == sorted(set(chosen)) and len(chosen) == 15
    assert samples_of(5, 1.0, 3).tolist() == [0, 1, 2, 3, 4]


def test_a_plan_tells_its_place() -> None:
    plans = list(plan_batches(10, 4, seed=3, epoch=2, shuffle=True, rank=1, world=2, start=1))
    told = [(one.seed, one.epoch, one.index, one.first, one.part) for one in plans]
    assert told == [(3, 2, 1, 4, slice(2, 4)), (3, 2, 2, 8, slice(1, 2))]
    assert [part_of(5, rank, 2) for rank in (0, 1)] == [slice(0, 2), slice(2, 5)]


@pytest.mark.parametrize(
    ("drop_last", "fraction", "wanted"), [(False, 1.0, 4), (True, 1.0, 3), (False, 0.5, 2), (True, 0.5, 1)]
)
def test_counts_of_batches(drop_last: bool, fraction: float, wanted: int) -> None:
    assert count_batches(10, 3, drop_last=drop_last, fraction=fraction) == wanted
    assert len(order(10, 3, drop_last=drop_last, fraction=fraction)) == (
        3 * wanted if drop_last else round(10 * fraction)
    )


def test_the_subset_is_spread_over_the_data() -> None:
    """Data sorted by class must not lose classes."""
    chosen = samples_of(10_000, 0.05, seed=0)
    counts = torch.bincount(chosen // 1000, minlength=10)
    assert int(counts.min()) > 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size is 0"),
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 1.5}, "at most 1"),
        ({"rank": 2, "world": 2}, "rank is 2 of world 2"),
        ({"rank": -1}, "rank is -1"),
        ({"start": -1}, "start is -1"),
    ],
)
def test_arguments_that_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(plan_batches(10, **({"batch_size": 2} | options)))
