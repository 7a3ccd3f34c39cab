"""Images in folders."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mixbit import data
from mixbit.data import LoaderSplit
from mixbit.data.imagefolder import files, imagefolder
from mixbit.errors import DataError
from mixbit.testing.options import OptionCases, OptionRow
from tests.data.contract import check_split, defaults_of, keywords_of, normalises


def write(folder: Path, name: str, seed: int = 0, size: tuple[int, int] = (10, 12)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    (image.convert("L") if name.endswith(".png") else image).save(folder / name)


def fill(folder: Path) -> None:
    for label in ("dog", "cat"):
        for number in range(6):
            write(folder / "train" / label, f"{number}.{'png' if number % 2 else 'jpg'}", number)
        write(folder / "val" / label, "0.bmp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


def test_classes_are_the_sorted_folders(folder: Path) -> None:
    found = data.load(f"imagefolder:{folder}?size=8")
    assert found.classes == ("cat", "dog")
    assert found.input_shape == (3, 8, 8)
    assert found.train.labels.tolist() == [0] * 6 + [1] * 6
    check_split(found.train)


def test_options_reach_the_split(folder: Path) -> None:
    found = data.load(f"imagefolder:{folder}?size=10&crop=1&workers=3&mean=0,0,0&std=1,1,1")
    assert (found.train.size, found.train.crop, found.train.workers) == (10, 1.0, 3)
    assert found.mean == (0.0, 0.0, 0.0)
    images, _ = next(found.test.batches(1))
    raw = torch.from_numpy(np.array(Image.open(folder / "val" / "cat" / "0.bmp"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(images[0], raw[:, 1:11])


@pytest.mark.parametrize("name", ["test", "validation"])
def test_other_names_of_the_test_part(folder: Path, name: str) -> None:
    (folder / "val").rename(folder / name)
    assert len(data.load(f"imagefolder:{folder}").test) == 2


def test_other_files_are_passed_over_and_subfolders_read(folder: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / "cat" / "._0.jpg").write_bytes(b"shadow")
    (folder / "train" / ".cache").mkdir()
    write(folder / "train" / "cat" / "more", "7.JPEG")
    assert len(data.load(f"imagefolder:{folder}").train) == 13


def test_a_class_may_be_missing_in_the_test_part(folder: Path) -> None:
    (folder / "val" / "cat" / "0.bmp").unlink()
    (folder / "val" / "cat").rmdir()
    assert data.load(f"imagefolder:{folder}").test.labels.tolist() == [1]


def test_missing_parts(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="No train/ in"):
        data.load(f"imagefolder:{tmp_path / 'none'}")
    (folder / "val").rename(folder / "holdout")
    with pytest.raises(DataError, match="No val/ or test/ or validation/ in"):
        data.load(f"imagefolder:{folder}")


def test_empty_folders_are_named(folder: Path) -> None:
    (folder / "train" / "eel").mkdir()
    with pytest.raises(DataError, match=r"train/eel' has no images"):
        data.load(f"imagefolder:{folder}")


def test_a_part_without_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"train' is empty"):
        data.load(f"imagefolder:{tmp_path}")


def test_a_class_that_training_has_not(folder: Path) -> None:
    (folder / "val" / "cat").rename(folder / "val" / "cats")
    with pytest.raises(DataError, match="'cats', which the training part has not. Did you mean 'cat'"):
        data.load(f"imagefolder:{folder}")


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_an_unreadable_image_is_named(folder: Path, content: bytes | None) -> None:
    file = folder / "train" / "dog" / "2.jpg"
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    split = data.load(f"imagefolder:{folder}?size=8").train
    with pytest.raises(DataError, match=r"Cannot read image '.*train/dog/2\.jpg'"):
        list(split.batches(4))


def test_the_test_part_is_val_before_test_before_validation(folder: Path) -> None:
    for number, name in ((3, "test"), (5, "validation")):
        for one in range(number):
            write(folder / name / "cat", f"{one}.png", one)
    sizes = [len(imagefolder(str(folder)).test)]
    for name in ("val", "test"):
        shutil.rmtree(folder / name)
        sizes.append(len(imagefolder(str(folder)).test))
    assert sizes == [2, 3, 5]


def test_files_are_those_of_both_parts(folder: Path) -> None:
    wanted = sorted(path for part in ("train", "val") for path in (folder / part).rglob("*") if path.is_file())
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    assert sorted(files(str(folder))) == wanted


def seen_with(**options: Any) -> dict[str, Any]:
    """The first test image as bytes, the shape that is told, and the threads of a pass."""
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place))
        found = imagefolder(place, **options)
        with mock.patch("mixbit.data.images.ThreadPoolExecutor", side_effect=ThreadPoolExecutor) as pool:
            x, _ = next(found.test.batches(1))
            next(found.train.batches(1))
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (found.mean, found.std))
        threads = {call.args[0] for call in pool.call_args_list}
        return {"pixels": (x[0] * std + mean) * 255, "shape": found.input_shape, "threads": threads}


def cropped(size: int, crop: float) -> torch.Tensor:
    """The 10 x 12 image of the test part, its middle of `size` pixels after resizing the shorter side."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)).permute(2, 0, 1)
    short = round(size / crop)
    tall = int(12 * short / 10)
    whole = F.interpolate(pixels[None].float(), (tall, short), mode="bilinear", antialias=True)[0]
    top, left = round((tall - size) / 2), round((short - size) / 2)
    return whole[:, top : top + size, left : left + size]


def crops(first: tuple[int, float], second: tuple[int, float]) -> Callable[[Any, Any], bool]:
    """Both are the middles of (size, crop), to two of 255 levels."""
    pairs = ((first, 0), (second, 1))
    return lambda *found: all(
        found[at]["shape"] == (3, how[0], how[0]) and float((found[at]["pixels"] - cropped(*how)).abs().max()) <= 2
        for how, at in pairs
    )


def loaded(**options: Any) -> Any:
    """Read whole before the folder goes."""
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place))
        found = imagefolder(place, size=8, **options)
        parts = {name: LoaderSplit(list(getattr(found, name).batches(4)), num_classes=2) for name in ("train", "test")}
        return replace(found, **parts)


def test_defaults_are_those_of_imagenet() -> None:
    """Resize to 256, centre crop of 224."""
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert defaults_of(imagefolder) == {"size": 224, "crop": 0.875, "workers": 0, **imagenet}


class TestImagefolderOptions(OptionCases):
    """What `imagefolder:DIR?name=value` does."""

    owner = "imagefolder"
    options = keywords_of(imagefolder)
    rows = (
        OptionRow("size", (8, 14), seen=lambda value: seen_with(size=value), holds=crops((8, 0.875), (14, 0.875))),
        OptionRow(
            "crop", (0.875, 0.5), seen=lambda value: seen_with(size=8, crop=value),
            holds=crops((8, 0.875), (8, 0.5)),
        ),
        OptionRow(
            "workers", (1, 3), seen=lambda value: seen_with(size=8, workers=value)["threads"],
            holds=lambda one, other: (one, other) == ({1}, {3}),
        ),
        normalises("mean", (0.485, 0.456, 0.406), (0.1, 0.2, 0.3), loaded),
        normalises("std", (0.229, 0.224, 0.225), (0.5, 0.7, 0.9), loaded),
    )  # fmt: skip
