"""Data of the datasets package, made here and kept in local folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbit import data
from mixbit.errors import DataError, MissingExtra
from tests.data.contract import check_split
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
