"""Data named in one string."""

from __future__ import annotations

import pytest

from mixbit import data
from mixbit.data.spec import parse_spec
from mixbit.errors import DataError


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("digits", ("digits", "", {})),
        ("digits?seed=3", ("digits", "", {"seed": "3"})),
        ("cifar10:a/b", ("cifar10", "a/b", {})),
        ("cifar10:C:/data", ("cifar10", "C:/data", {})),
        ("hf:user/set?config=a=b", ("hf", "user/set", {"config": "a=b"})),
    ],
)
def test_name_argument_and_options(spec: str, parsed: tuple[str, str, dict[str, str]]) -> None:
    assert parse_spec(spec) == parsed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar:x", r"there are: digits, cifar10:DIR.*Did you mean 'cifar10'"),
        ("", "Unknown data ''"),
        ("cifar10", "write cifar10:DIR"),
        ("cifar10:", "write cifar10:DIR"),
        ("digits:x", "write digits"),
        ("digits?seed", "cannot read 'seed'"),
        ("digits?=1", "cannot read '=1'"),
        ("digits?seed=1&seed=2", "each option once"),
        ("digits?seeds=1", r"unknown option 'seeds'; there are: mean, seed, std\. Did you mean 'seed'"),
        ("digits?seed=x", "seed is 'x'; it must be a whole number"),
        ("digits?mean=a", "it must be numbers with commas between"),
        ("imagefolder:x?crop=y", "it must be a number"),
        ("digits?mean=1,2", "1 channels"),
    ],
)
def test_specs_that_cannot_be(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.load(spec)


def test_mean_and_std_of_the_caller_and_of_the_spec() -> None:
    found = data.load("digits", mean=(0.0,), std=(1 / 255,))
    images, _ = next(found.test.batches(360))
    assert images.max() == 255
    assert found.std == (1 / 255,)
    assert data.load("digits?mean=0.25", mean=(0.0,)).mean == (0.25,)


def test_every_source_can_be_named() -> None:
    for name, source in data.sources().items():
        assert source.summary
        with pytest.raises(DataError):
            data.load(f"{name}:none/such?nonsense=1" if source.argument else f"{name}?nonsense=1")
