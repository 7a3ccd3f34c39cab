"""Data of the datasets package, made here and kept in local folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from mixbit import data
from mixbit.data.hf import files, hf
from mixbit.errors import DataError, MissingExtra
from mixbit.testing.options import OptionCases, OptionRow
from tests.data.contract import all_moves, check_split, defaults_of, keywords_of, moves_of, normalises
from tests.needs import why

datasets = pytest.importorskip("datasets", reason=why("datasets"))
from PIL import Image  # noqa: E402


def picture(seed: int, size: tuple[int, int], grey: bool) -> Image.Image:
    shape = (size[1], size[0]) if grey else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def part(count: int, *, size: tuple[int, int] = (8, 8), grey: bool = False, **columns: Any) -> Any:
    content = {"img": [picture(i, size, grey) for i in range(count)], "label": [i % 3 for i in range(count)], **columns}
    features = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    features |= {name: datasets.Value("int64") for name in columns if name != "label"}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def saved(folder: Path, **parts: Any) -> str:
    datasets.DatasetDict(parts).save_to_disk(folder / "set")
    return f"hf:{folder / 'set'}"


def test_small_images_are_kept_in_memory(tmp_path: Path) -> None:
    found = data.load(saved(tmp_path, train=part(12), test=part(3)))
    assert isinstance(found.train, data.TensorSplit)
    assert (len(found.train), len(found.test), found.num_classes) == (12, 3, 3)
    assert found.classes == ("a", "b", "c")
    assert found.input_shape == (3, 8, 8)
    assert found.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-6)
    assert found.train.images[5].permute(1, 2, 0).tolist() == np.array(picture(5, (8, 8), False)).tolist()
    assert (found.train.pad, found.train.flip) == (1, True)
    check_split(found.train)


def test_grey_images_have_one_channel_and_are_not_mirrored(tmp_path: Path) -> None:
    found = data.load(saved(tmp_path, train=part(4, grey=True), test=part(3, grey=True)))
    assert found.input_shape == (1, 8, 8)
    assert found.train.flip is False


def test_a_format_that_was_set_does_not_matter(tmp_path: Path) -> None:
    both = {name: part(4).with_format("numpy") for name in ("train", "test")}
    assert data.load(saved(tmp_path, **both)).input_shape == (3, 8, 8)


def test_large_images_are_decoded_on_demand(tmp_path: Path) -> None:
    spec = saved(tmp_path, train=part(11, size=(90, 70)), validation=part(3, size=(66, 80)))
    assert data.load(spec).input_shape == (3, 224, 224)
    found = data.load(f"{spec}?size=16&workers=2")
    assert found.input_shape == (3, 16, 16)
    check_split(found.train)


def test_data_without_a_test_split_are_cut_by_the_seed(tmp_path: Path) -> None:
    part(40).save_to_disk(tmp_path / "one")
    spec = f"hf:{tmp_path / 'one'}"
    first, again, other = data.load(spec), data.load(spec), data.load(spec, seed=1)
    assert (len(first.train), len(first.test)) == (36, 4)
    assert first.test.images.equal(again.test.images)
    assert not first.test.images.equal(other.test.images)


def test_a_folder_of_images_is_read_by_the_package(tmp_path: Path) -> None:
    for name in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "pets" / name / label).mkdir(parents=True)
            for number in range(2):
                picture(number, (8, 8), False).save(tmp_path / "pets" / name / label / f"{number}.png")
    found = data.load(f"hf:{tmp_path / 'pets'}")
    assert (len(found.train), found.classes) == (4, ("cat", "dog"))


def test_columns_and_splits_by_name(tmp_path: Path) -> None:
    spec = saved(tmp_path, train=part(6, fine=[1] * 6), eval=part(3, fine=[0] * 3))
    found = data.load(f"{spec}?test=eval&label=fine&image=img")
    assert found.train.labels.tolist() == [1] * 6
    assert (found.num_classes, found.classes) == (2, ())
    for option, message in [
        ("test=evals", "Did you mean 'eval'"),
        ("label=fin", "Did you mean 'fine'"),
        ("image=im", "Did you mean 'img'"),
        ("image=fine", "not an image"),
    ]:
        with pytest.raises(DataError, match=message):
            data.load(f"{spec}?test=eval&{option}" if "test" not in option else f"{spec}?{option}")


def test_several_label_columns_must_be_told_apart(tmp_path: Path) -> None:
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["a"]), "coarse": datasets.ClassLabel(names=["b"])}
    )
    content = {"img": [picture(0, (8, 8), False)], "fine": [0], "coarse": [0]}
    one = datasets.Dataset.from_dict(content, features=features)
    with pytest.raises(DataError, match=r"several label columns \(fine, coarse\).*label=COLUMN"):
        data.load(saved(tmp_path, train=one, test=one))


def test_no_image_column(tmp_path: Path) -> None:
    one = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    with pytest.raises(DataError, match=r"no image column.*text, label"):
        data.load(saved(tmp_path, train=one, test=one))


def test_labels_out_of_range_and_unlabelled(tmp_path: Path) -> None:
    hidden = part(3)
    hidden = hidden.remove_columns("label").add_column("label", [-1, -1, -1])
    with pytest.raises(DataError, match="sample 0 has label -1"):
        data.load(saved(tmp_path, train=part(3), test=hidden))


def test_small_images_of_several_sizes(tmp_path: Path) -> None:
    mixed = datasets.concatenate_datasets([part(2), part(2, size=(9, 8))])
    spec = saved(tmp_path, train=mixed, test=part(2))
    with pytest.raises(DataError, match=r"several sizes.*size=PIXELS"):
        data.load(spec)
    assert data.load(f"{spec}?size=8").input_shape == (3, 8, 8)


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="Cannot load hf data") as caught:
        data.load(f"hf:{tmp_path / 'none'}")
    assert caught.value.__cause__ is not None
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"mixbit\[data\]"):
        data.load(f"hf:{tmp_path / 'none'}")


@pytest.mark.parametrize("grey", [False, True])
def test_augmentation_shifts_by_an_eighth_and_mirrors_colours_alone(tmp_path: Path, grey: bool) -> None:
    found = data.load(saved(tmp_path, train=part(20, size=(16, 16), grey=grey), test=part(3, size=(16, 16), grey=grey)))
    assert isinstance(found.train, data.TensorSplit)
    assert set(moves_of(found.train, passes=16, reach=3)) == all_moves(2, flip=not grey)


def test_the_test_part_is_the_first_of_the_usual_names(tmp_path: Path) -> None:
    parts = {"val": part(5), "valid": part(4), "validation": part(3), "test": part(2), "train": part(6)}
    sizes = []
    for name in ("test", "validation", "valid", "val"):
        sizes.append(len(data.load(saved(tmp_path / name, **parts)).test))
        del parts[name]
    assert sizes == [2, 3, 4, 5]


def test_files_are_those_of_a_folder(tmp_path: Path) -> None:
    saved(tmp_path, train=part(2), test=part(2))
    assert files(str(tmp_path / "set")) == sorted(one for one in (tmp_path / "set").rglob("*") if one.is_file())
    assert files("some/name-of-the-hub") == []


def loaded(*, pixels: tuple[int, int] = (8, 8), **options: Any) -> data.DataSet:
    """Two image columns, of which one is black; two label columns, of which one is 2 throughout; three splits."""

    def made(count: int, first: int) -> Any:
        content = {
            "img": [picture(first + i, pixels, False) for i in range(count)],
            "black": [Image.new("RGB", pixels)] * count,
            "label": [i % 3 for i in range(count)],
            "other": [2] * count,
        }
        kinds = {"img": datasets.Image(), "black": datasets.Image()}
        kinds |= {name: datasets.ClassLabel(names=["a", "b", "c"]) for name in ("label", "other")}
        return datasets.Dataset.from_dict(content, features=datasets.Features(kinds))

    parts = datasets.DatasetDict({"train": made(20, 0), "more": made(6, 50), "test": made(4, 90), "val": made(3, 99)})
    options = {"image": "img", "label": "label", **options}
    asked: list[Any] = []

    def load(*words: Any) -> Any:
        asked.append(words)
        return datasets.DatasetDict({"train": parts["train"]}) if "whole" in words else parts

    with mock.patch.object(datasets, "load_dataset", load):
        found = hf("whole" if options.pop("cut", False) else "some/name", **options)
    object.__setattr__(found, "name", str(asked))
    return found


def first_image(**options: Any) -> Any:
    """(3, size, size) bytes of the first training image, where images are decoded when needed."""
    found = loaded(pixels=(90, 70), **options)
    mean, std = (np.array(one)[:, None, None] for one in (found.mean, found.std))
    return next(found.train.batches(1))[0][0].numpy() * std + mean


def middle(size: int, crop: float) -> Any:
    """The same by pillow alone: resized so that the shorter side is `size / crop`, and cut."""
    short = round(size / crop)
    wide = picture(0, (90, 70), False).resize((int(90 * short / 70), short), Image.Resampling.BILINEAR)
    left, top = round((wide.width - size) / 2), round((short - size) / 2)
    return np.array(wide.crop((left, top, left + size, top + size))).transpose(2, 0, 1) / 255


def middles(first: tuple[int, float], second: tuple[int, float]) -> Any:
    return lambda one, other: (
        np.allclose(one, middle(*first), atol=5e-3) and np.allclose(other, middle(*second), atol=5e-3)
    )


def brightest(found: data.DataSet) -> float:
    assert isinstance(found.train, data.TensorSplit)
    return float(found.train.images.max())


def cut_by(seed: int) -> list[bytes]:
    """The test images of data that came without any."""
    found = loaded(cut=True, seed=seed)
    assert isinstance(found.test, data.TensorSplit) and len(found.train) == 18
    return sorted(one.numpy().tobytes() for one in found.test.images)


def test_defaults(tmp_path: Path) -> None:
    """Statistics are ImageNet's of colours and 0.5 of grey, both also of images that are decoded when needed."""
    words = {"config": "", "image": "", "label": "", "train": "train", "test": "", "mean": (), "std": ()}
    assert defaults_of(hf) == {**words, "size": 0, "crop": 0.875, "workers": 0, "seed": 0}
    for name, size, grey, mean, std in (
        ("a", (8, 8), False, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("b", (8, 8), True, (0.5,), (0.5,)),
        ("c", (65, 8), False, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ):
        found = data.load(
            saved(tmp_path / name, train=part(2, size=size, grey=grey), test=part(2, size=size, grey=grey))
        )
        assert found.mean == pytest.approx(mean) and found.std == pytest.approx(std)
        assert isinstance(found.train, data.TensorSplit) is (max(size) <= 64)


@pytest.mark.parametrize(("side", "memory"), [(64, True), (65, False)])
def test_images_up_to_64_pixels_are_kept_in_memory(tmp_path: Path, side: int, memory: bool) -> None:
    found = data.load(saved(tmp_path, train=part(2, size=(side, 9)), test=part(2, size=(side, 9))))
    assert isinstance(found.train, data.TensorSplit) is memory


class TestHfOptions(OptionCases):
    """What `hf:NAME?name=value` does."""

    owner = "hf"
    options = keywords_of(hf)
    rows = (
        OptionRow(
            "config", ("", "small"), seen=lambda value: loaded(config=value).name,
            holds=lambda one, other: (one, other) == ("[('some/name', None)]", "[('some/name', 'small')]"),
        ),
        OptionRow(
            "image", ("img", "black"), seen=lambda value: brightest(loaded(image=value)),
            holds=lambda one, other: (one, other) == (255, 0),
        ),
        OptionRow(
            "label", ("label", "other"), seen=lambda value: loaded(label=value).train.labels.tolist()[:4],  # type: ignore[attr-defined]
            holds=lambda one, other: (one, other) == ([0, 1, 2, 0], [2, 2, 2, 2]),
        ),
        OptionRow(
            "train", ("train", "more"), seen=lambda value: (len((it := loaded(train=value)).train), len(it.test)),
            holds=lambda one, other: (one, other) == ((20, 4), (6, 4)),
        ),
        OptionRow(
            "test", ("", "val"), seen=lambda value: (len((it := loaded(test=value)).train), len(it.test)),
            holds=lambda one, other: (one, other) == ((20, 4), (20, 3)), says="`test` comes first",
        ),
        OptionRow(
            "size", (0, 12), seen=lambda value: first_image(size=value), holds=middles((224, 0.875), (12, 0.875)),
            says="of large images, by default 224",
        ),
        OptionRow(
            "crop", (0.875, 0.5), seen=lambda value: first_image(size=12, crop=value),
            holds=middles((12, 0.875), (12, 0.5)),
        ),
        OptionRow(
            "workers", (1, 3), seen=lambda value: loaded(pixels=(90, 70), workers=value).train.workers,  # type: ignore[attr-defined]
            holds=lambda one, other: (one, other) == (1, 3),
        ),
        normalises("mean", (0.485, 0.456, 0.406), (0.1, 0.2, 0.3), loaded),
        normalises("std", (0.229, 0.224, 0.225), (0.5, 0.7, 0.9), loaded),
        OptionRow(
            "seed", (0, 1), seen=lambda value: cut_by(value), says="draws the cut of 9 to 1",
            holds=lambda one, other: len(one) == len(other) == 2 and one != other and one == cut_by(0),
        ),
    )  # fmt: skip
