"""Data named in one string."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mixbit import data
from mixbit.data import MixedQuality, TensorSplit
from mixbit.data._quality_spec import OPTIONS
from mixbit.data.spec import parse_spec
from mixbit.errors import DataError
from mixbit.testing.options import OptionCases, OptionRow, alike, unlike


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
        ("digits?seed=1&seed=2", "each setting once"),
        ("digits?seeds=1", r"unknown option 'seeds'; there are: mean, seed, std\. Did you mean 'seed'"),
        ("digits?seed=x", "seed is 'x'; it must be a whole number"),
        ("digits?mean=a", "it must be a list, each a number"),
        ("imagefolder:x?crop=y", "it must be a number"),
        ("digits?mean=1,2", "1 channels"),
        ("digits?mean=nan", "it must be a list, each a number"),
        ("digits?std=0", "std=0 is illegal. Legal: a number above 0"),
        ("digits?std=-1", "std=-1 is illegal"),
        ("digits?seed=-1", "it must be a whole number from 0"),
        ("digits?corupt=jpeg", r"there are: mean, seed, std\. Did you mean 'corrupt'"),
        ("digits?corrupt=jpg", "Unknown corruption 'jpg'.*Did you mean 'jpeg'"),
        ("digits?corrupt=jpeg&severity=6", "severity 6; it must be 1, 2, 3, 4 or 5"),
        ("digits?corrupt=jpeg&severity=x", "severities, weights and quality_seed are numbers"),
        ("digits?corrupt=jpeg&scale=mnist", "Unknown scale 'mnist'"),
        ("digits?severity=3", "has severity; say either corrupt=KIND or quality=mixed"),
        ("digits?corrupt=jpeg&quality=mixed", "and not both"),
        ("digits?corrupt=jpeg&kinds=jpeg", "kinds does not go with corrupt=; there are: severity, quality_seed, scale"),
        ("digits?quality=mixd", "there are: mixed, mixed-batch, mixed-stream. Did you mean 'mixed'"),
        ("digits?quality=mixed&severity=3", "severity does not go with quality="),
        ("digits?quality=mixed&kinds=clean,jpg", "Unknown corruption 'jpg'"),
        ("digits?quality=mixed&weights=1,2", "3 kinds need as many"),
        ("digits?quality=mixed&severities=", "severities, weights and quality_seed are numbers"),
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


def test_the_seed_of_the_caller_holds_where_the_spec_has_none() -> None:
    own = [data.load("digits?seed=4"), data.load("digits", seed=4), data.load("digits?seed=4", seed=2)]
    assert all(torch.equal(one.test.images, own[0].test.images) for one in own)  # type: ignore[attr-defined]
    assert not torch.equal(data.load("digits").test.images, own[0].test.images)  # type: ignore[attr-defined]


def test_every_source_can_be_named() -> None:
    for name, source in data.sources().items():
        assert source.summary
        with pytest.raises(DataError):
            data.load(f"{name}:none/such?nonsense=1" if source.argument else f"{name}?nonsense=1")


def test_a_corruption_is_of_the_test_split_alone() -> None:
    found = data.load("digits?corrupt=gaussian_noise&severity=5&quality_seed=3&scale=imagenet")
    clean = data.load("digits")
    assert isinstance(found.train, TensorSplit)
    assert isinstance(found.test, MixedQuality)
    assert set(found.test.quality_of(range(360))) == {("gaussian_noise", 5)}
    images, _ = next(found.test.batches(360))
    own = MixedQuality(clean.test, ["gaussian_noise"], [5], seed=3, scale="imagenet")
    assert torch.equal(images, next(own.batches(360))[0])
    assert not torch.equal(images, next(clean.test.batches(360))[0])
    assert data.load("digits?corrupt=contrast").test.quality_of([0]) == [("contrast", 3)]


def test_mixed_quality_is_of_both_splits() -> None:
    found = data.load("digits?quality=mixed-stream&kinds=clean,contrast&severities=2,4&weights=1,3&seed=5")
    for split in (found.train, found.test):
        assert isinstance(split, MixedQuality)
        assert (split.kinds, split.severities, split.mode) == (("clean", "contrast"), (2, 4), "stream")
        assert split.weights == (0.25, 0.75)
    assert torch.equal(found.test.labels, data.load("digits?seed=5").test.labels)
    assert data.load("digits?quality=mixed").train.kinds == ("clean", "gaussian_noise", "gaussian_blur")


def test_the_noise_is_the_same_for_every_seed_of_the_command() -> None:
    """The seed of the command may cut the data differently; the noise of image k is that of `quality_seed`."""
    first, second = (data.load("digits?quality=mixed", seed=seed).test.quality_of(range(50)) for seed in (0, 1))
    assert first == second
    assert data.load("digits?quality=mixed&quality_seed=1").test.quality_of(range(50)) != first


def as_built(option: str, first: Any, second: Any, given: str, **how: Any) -> OptionRow:
    """`digits?given&option=value` has the images of a `MixedQuality` that is built by hand with (first, second)."""

    def seen(value: tuple[str, dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        words, own = value
        found = data.load(f"digits?{given}{words}").test
        assert isinstance(found, MixedQuality)
        arguments: dict[str, Any] = {**how, **own}
        return tuple(next(one.batches(120))[0] for one in (found, MixedQuality(found.base, **arguments)))  # type: ignore[return-value]

    def holds(one: Any, other: Any) -> bool:
        return alike(*one) and alike(*other) and unlike(one[0], other[0])

    return OptionRow(option, (first, second), seen=seen, holds=holds)


CORRUPT: dict[str, Any] = {"kinds": ["gaussian_noise"], "severities": [3]}


class TestQualityOptions(OptionCases):
    """What `?corrupt=` and `?quality=` and their partners do, with every kind of data."""

    owner = "quality"
    options = OPTIONS
    rows = (
        as_built(
            "corrupt", ("=contrast", {"kinds": ["contrast"]}), ("=jpeg", {"kinds": ["jpeg"]}), "corrupt",
            severities=[3],
        ),
        as_built(
            "severity", ("", {"severities": [3]}), ("&severity=5", {"severities": [5]}), "corrupt=gaussian_noise",
            kinds=["gaussian_noise"],
        ),
        as_built("quality_seed", ("", {}), ("&quality_seed=4", {"seed": 4}), "corrupt=gaussian_noise", **CORRUPT),
        as_built("quality_seed", ("", {}), ("&quality_seed=4", {"seed": 4}), "quality=mixed"),
        as_built("scale", ("", {}), ("&scale=imagenet", {"scale": "imagenet"}), "corrupt=gaussian_noise", **CORRUPT),
        as_built("scale", ("&scale=cifar", {}), ("&scale=imagenet", {"scale": "imagenet"}), "quality=mixed"),
        as_built("quality", ("=mixed", {}), ("=mixed-batch", {"mode": "batch"}), "quality"),
        as_built("quality", ("=mixed-batch", {"mode": "batch"}), ("=mixed-stream", {"mode": "stream"}), "quality"),
        as_built("kinds", ("", {}), ("&kinds=clean,jpeg", {"kinds": ["clean", "jpeg"]}), "quality=mixed"),
        as_built("severities", ("", {}), ("&severities=1,2", {"severities": [1, 2]}), "quality=mixed"),
        as_built("weights", ("", {}), ("&weights=1,5,0.5", {"weights": [1, 5, 0.5]}), "quality=mixed"),
    )  # fmt: skip


def test_digests_follow_the_files(tmp_path: Path) -> None:
    """Of each file that is read; embedded data have none."""
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / part / "cat" / "0.png")
    spec, found = f"imagefolder:{tmp_path}", list[str | None]()
    for part in ("train", "val", None):
        found.append(data.digest(f"{spec}?size=8"))
        if part is not None:
            Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / part / "cat" / "0.png")
    assert len(set(found)) == 3 and None not in found and data.digest("digits?seed=1") is None
