"""Images in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixbit import data
from mixbit.errors import DataError
from tests.data.contract import check_split


def write(folder: Path, name: str, seed: int = 0, size: tuple[int, int] = (10, 12)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    (image.convert("L") if name.endswith(".png") else image).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("dog", "cat"):
        for number in range(6):
            write(tmp_path / "train" / label, f"{number}.{'png' if number % 2 else 'jpg'}", number)
        write(tmp_path / "val" / label, "0.bmp")
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
