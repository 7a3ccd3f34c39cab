"""Mixed quality: who gets what, in which order, and that nobody else learns of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn

from mixbit import data
from mixbit.data import LoaderSplit, MixedQuality, Quality, TensorSplit, corrupt, hold_out
from mixbit.data.memory import normalise
from mixbit.errors import DataError
from mixbit.evaluation import evaluate
from tests.data.contract import check_split, equal

TRAINING: dict[str, Any] = {"shuffle": True, "augment": True, "seed": 4}


def split_of(count: int = 23, *, channels: int = 3, pad: int = 2, flip: bool = True) -> TensorSplit:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 8, 6), dtype=torch.uint8, generator=random)
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.1][:channels]
    return TensorSplit(images, torch.arange(count) % 4, 4, mean, std, pad=pad, flip=flip)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 6), ("val", 3)):
        for label in ("cat", "dog"):
            place = tmp_path / part / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 256, (20, 26, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


# --------------------------------------------------------------------------------------- a split like any


@pytest.mark.parametrize("mode", ["sample", "batch", "stream"])
def test_contract(mode: Any) -> None:
    check_split(MixedQuality(split_of(), mode=mode))


def test_contract_of_grey_images_and_of_parts() -> None:
    check_split(MixedQuality(split_of(channels=1)))
    kept, held = hold_out(MixedQuality(split_of(32)), 0.3)
    check_split(kept)
    check_split(held, 3)


def test_contract_of_a_folder(folder: Path) -> None:
    check_split(MixedQuality(data.load(f"imagefolder:{folder}?size=12").train))


def test_labels_classes_and_length_are_the_wrapped_splits() -> None:
    base = split_of()
    mixed = MixedQuality(base)
    assert (len(mixed), mixed.num_classes) == (23, 4)
    assert torch.equal(mixed.labels, base.labels)


def test_clean_alone_changes_nothing() -> None:
    base = split_of()
    assert equal(list(base.batches(5, **TRAINING)), list(MixedQuality(base, ["clean"]).batches(5, **TRAINING)))


# ----------------------------------------------------------------------------------- order of the operations


@pytest.mark.parametrize("augment", [False, True])
def test_augmentation_then_corruption_then_normalisation(augment: bool) -> None:
    base = split_of()
    plain = TensorSplit(base.images, base.labels, 4, [0.0] * 3, [1 / 255] * 3, pad=2, flip=True)
    mixed = MixedQuality(base, ["gaussian_noise", "gaussian_blur"], [2, 5], seed=9, scale="imagenet")
    how: Any = {"epoch": 3, "augment": augment}
    bytes_of = torch.cat([x for x, _ in plain.batches(5, **how)]).round().to(torch.uint8)
    found = torch.cat([x for x, _ in mixed.batches(5, **how)])
    epoch = 3 if augment else None
    for index, (kind, severity) in enumerate(mixed.quality_of(range(23), epoch=epoch)):
        own = corrupt(bytes_of[index], kind, severity, indices=[index], seed=9, epoch=epoch, scale="imagenet")
        assert torch.equal(found[index], normalise(own, base.mean, base.std))


def test_geometric_augmentation_is_the_clean_splits() -> None:
    """Contrast keeps the places of things: the crop and the flip can be seen through it."""
    base = split_of()
    pairs = zip(base.batches(5, **TRAINING), MixedQuality(base, ["contrast"], [1]).batches(5, **TRAINING), strict=True)
    for (clean, _), (changed, _) in pairs:
        for image, other in zip(clean.flatten(0, 1), changed.flatten(0, 1), strict=True):
            assert torch.corrcoef(torch.stack([image.flatten(), other.flatten()]))[0, 1] > 0.999


# -------------------------------------------------------------------------------------------- what it hangs on


def test_epochs_differ_in_training_only() -> None:
    mixed = MixedQuality(split_of(pad=0, flip=False))

    def passed(**how: Any) -> list[tuple[Tensor, Tensor]]:
        return list(mixed.batches(5, **how))

    assert not equal(passed(augment=True, epoch=0), passed(augment=True, epoch=1))
    assert equal(passed(augment=True, epoch=1), passed(augment=True, epoch=1))
    assert equal(passed(epoch=0), passed(epoch=1))
    assert equal(passed(seed=0), passed(seed=1))
    assert not equal(passed(epoch=0), passed(augment=True, epoch=0))


def test_another_seed_is_another_draw() -> None:
    base = split_of()
    assert not equal(list(MixedQuality(base).batches(5)), list(MixedQuality(base, seed=1).batches(5)))


def test_neither_batch_size_nor_order_changes_an_image() -> None:
    mixed = MixedQuality(split_of(pad=0, flip=False))
    whole, _ = next(mixed.batches(23))
    assert torch.equal(whole, torch.cat([x for x, _ in mixed.batches(4)]))
    shuffled, _ = next(mixed.batches(23, shuffle=True))
    rows = [next(i for i in range(23) if torch.equal(whole[i], image)) for image in shuffled]
    assert sorted(rows) == list(range(23))
    assert rows != list(range(23))


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("mode", ["sample", "batch", "stream"])
def test_workers_change_no_byte(folder: Path, augment: bool, mode: Any) -> None:
    kinds = ["gaussian_noise", "shot_noise", "gaussian_blur", "jpeg"]
    passes = [
        list(
            MixedQuality(data.load(f"imagefolder:{folder}?size=16&workers={workers}").train, kinds, mode=mode).batches(
                5, shuffle=True, augment=augment
            )
        )
        for workers in (0, 1, 4)
    ]
    assert equal(passes[0], passes[1])
    assert equal(passes[1], passes[2])


def test_a_folder_is_corrupted_as_bytes_of_the_final_size(folder: Path) -> None:
    base = data.load(f"imagefolder:{folder}?size=16&mean=0,0,0&std=1,1,1").test
    clean, _ = next(base.batches(6))
    found, _ = next(MixedQuality(base, ["shot_noise"], [5], seed=2).batches(6))
    wanted = corrupt((clean * 255).round().to(torch.uint8), "shot_noise", 5, seed=2)
    torch.testing.assert_close(found, wanted / 255, rtol=0, atol=1e-6)


def test_a_held_out_image_has_the_quality_that_it_has_in_the_whole() -> None:
    base = split_of(40, pad=0, flip=False)
    _, inside = hold_out(MixedQuality(base), 0.25)
    _, around = hold_out(base, 0.25)
    mixed = MixedQuality(around)
    assert equal(list(inside.batches(4)), list(mixed.batches(4)))
    assert mixed.quality_of(range(10)) == MixedQuality(base).quality_of(around.samples)
    assert [q for qualities in mixed.qualities(4) for q in qualities] == mixed.quality_of(range(10))


# ------------------------------------------------------------------------------------------------------ shares


def test_shares_of_kinds_and_severities() -> None:
    split = TensorSplit(torch.zeros(10_000, 1, 1, 1, dtype=torch.uint8), torch.zeros(10_000), 1, [0.0], [1.0])
    counts = Counter(MixedQuality(split, seed=11).quality_of(range(10_000)))
    kinds = [counts[Quality("clean")]]
    for kind in ("gaussian_noise", "gaussian_blur"):
        severities = [counts[Quality(kind, severity)] for severity in range(1, 6)]
        assert stats.chisquare(severities).pvalue > 1e-3
        kinds.append(sum(severities))
    assert sum(kinds) == 10_000
    assert stats.chisquare(kinds).pvalue > 1e-3


def test_weights_and_epochs() -> None:
    split = TensorSplit(torch.zeros(4000, 1, 1, 1, dtype=torch.uint8), torch.zeros(4000), 1, [0.0], [1.0])
    mixed = MixedQuality(split, ["jpeg", "clean", "contrast"], [2, 4], [0, 1, 3])
    first, second = (mixed.quality_of(range(4000), epoch=epoch) for epoch in (0, 1))
    counts = Counter(kind for kind, _ in first)
    assert set(counts) == {"clean", "contrast"}
    assert counts["contrast"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {severity for kind, severity in first if kind == "contrast"} == {2, 4}
    same = sum(a == b for a, b in zip(first, second, strict=True)) / 4000
    assert same == pytest.approx(1 / 16 + 2 * (3 / 8) ** 2, abs=0.04)  # independent draws


# ------------------------------------------------------------------------------------------------------- modes


def test_a_batch_has_one_quality() -> None:
    mixed = MixedQuality(split_of(60), mode="batch")
    found = list(mixed.qualities(5))
    assert all(len(set(qualities)) == 1 for qualities in found)
    assert len({qualities[0] for qualities in found}) > 3
    assert found != list(mixed.qualities(5, augment=True, epoch=1))
    assert list(mixed.qualities(5, augment=True, epoch=1)) != list(mixed.qualities(5, augment=True, epoch=2))


def test_a_stream_changes_at_its_switch_points_and_nowhere_else() -> None:
    mixed = MixedQuality(split_of(60), mode="stream", switch_points=[7, 30, 31], seed=3)
    for size in (4, 60):
        stream = [quality for qualities in mixed.qualities(size) for quality in qualities]
        parts = [set(stream[first:last]) for first, last in ((0, 7), (7, 30), (30, 31), (31, 60))]
        assert [len(part) for part in parts] == [1, 1, 1, 1]
        assert len(set().union(*parts)) > 2
    shuffled = [quality for qualities in mixed.qualities(4, shuffle=True) for quality in qualities]
    assert shuffled == stream  # by place in the pass, not by sample
    later = [quality for qualities in mixed.qualities(4, start=5) for quality in qualities]
    assert later == stream[20:]
    ranks = [list(mixed.qualities(7, rank=rank, world=2)) for rank in (0, 1)]
    assert [quality for a, b in zip(*ranks, strict=True) for quality in a + b] == stream


def test_a_stream_has_ten_segments_by_default() -> None:
    assert MixedQuality(split_of(60), mode="stream").switch_points == (6, 12, 18, 24, 30, 36, 42, 48, 54)


@pytest.mark.parametrize("mode", ["sample", "batch", "stream"])
def test_qualities_are_those_of_the_batches(mode: Any) -> None:
    """Grey images turn white or black pixel by pixel with impulses, and flat with the strongest contrast."""
    images = torch.full((40, 1, 30, 30), 100, dtype=torch.uint8)
    images[:, :, :15] = 140
    split = TensorSplit(images, torch.zeros(40), 1, [0.0], [1 / 255])
    mixed = MixedQuality(split, ["clean", "impulse_noise", "contrast"], [5], mode=mode, seed=6)
    for how in ({}, {"augment": True, "epoch": 2, "shuffle": True}):
        for (x, _), qualities in zip(mixed.batches(4, **how), mixed.qualities(4, **how), strict=True):  # type: ignore[arg-type]
            for image, (kind, severity) in zip(x, qualities, strict=True):
                levels = image.unique().round().tolist()
                wanted = {"clean": [100, 140], "impulse_noise": [0, 100, 140, 255], "contrast": [117, 123]}
                assert levels == wanted[kind]
                assert severity == (0 if kind == "clean" else 5)


# ------------------------------------------------------------------------------------- nothing reaches the model


class Eavesdropper(nn.Module):
    """Keeps all that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.heard: list[tuple[Any, ...]] = []

    def forward(self, *given: Any, **named: Any) -> Tensor:
        self.heard.append((*given, *named.values()))
        return self.scale * given[0].flatten(1)[:, :4]


def test_the_model_is_given_images_and_nothing_else() -> None:
    mixed, model = MixedQuality(split_of()), Eavesdropper()
    evaluate(model, mixed, batch_size=5)
    for given, (images, labels) in zip(model.heard, mixed.batches(5), strict=True):
        assert len(given) == 1
        assert type(given[0]) is Tensor
        assert not [name for name in vars(given[0]) if not name.startswith("_")]
        assert torch.equal(given[0], images)
        assert type(labels) is Tensor


def test_permuted_qualities_change_no_output() -> None:
    mixed, model = MixedQuality(split_of()), Eavesdropper()
    before = [model(images) for images, _ in mixed.batches(5)]
    for qualities in mixed.qualities(5):
        qualities.reverse()
    told = mixed.quality_of(range(len(mixed)))
    told.reverse()
    after = [model(images) for images, _ in mixed.batches(5)]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": []}, r"kinds are \[\]; name at least one of clean, gaussian_noise"),
        ({"kinds": "jpeg"}, "kinds are 'jpeg'"),
        ({"kinds": ["jpeg", "jpeg"]}, "none twice"),
        ({"kinds": ["jpg"]}, "Unknown corruption 'jpg'.*Did you mean 'jpeg'"),
        ({"severities": []}, r"severities are \[\]"),
        ({"severities": [0]}, "severity 0; it must be 1, 2, 3, 4 or 5"),
        ({"severities": [2, 2]}, "none twice"),
        ({"weights": [1, 1]}, r"weights are \[1.0, 1.0\]; 3 kinds need as many"),
        ({"weights": [0, 0, 0]}, "one above 0"),
        ({"weights": [1, -1, 1]}, "from 0"),
        ({"weights": [1, float("nan"), 1]}, "weights are"),
        ({"weights": [1, float("inf"), 1]}, "weights are"),
        ({"mode": "streams"}, "Unknown mode 'streams'; there are: sample, batch, stream. Did you mean 'stream'"),
        ({"scale": "mnist"}, "Unknown scale 'mnist'"),
        ({"switch_points": [3]}, "switch_points are of mode 'stream', not of 'sample'"),
        ({"mode": "stream", "switch_points": [3, 3]}, "ascending"),
        ({"mode": "stream", "switch_points": [0]}, "from 1"),
    ],
)
def test_what_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MixedQuality(split_of(), **options)


def test_splits_that_cannot_be_corrupted() -> None:
    loader = LoaderSplit([(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))], num_classes=2)
    with pytest.raises(DataError, match="LoaderSplit gives images that are normalised already"):
        MixedQuality(loader)
    with pytest.raises(DataError, match="corrupted already"):
        MixedQuality(MixedQuality(split_of()))
    kept, _ = hold_out(MixedQuality(split_of()), 0.3)
    with pytest.raises(DataError, match="corrupted already"):
        next(MixedQuality(kept).batches(2))


def test_quality_of_a_sample_is_of_mode_sample() -> None:
    with pytest.raises(DataError, match=r"In mode 'batch' a sample has no quality.*use qualities\(batch_size"):
        MixedQuality(split_of(), mode="batch").quality_of([0])
