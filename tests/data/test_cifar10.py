"""CIFAR-10's binary files, small ones made here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixbit import data
from mixbit.data.cifar10 import CLASSES, TEST_FILES, TRAIN_FILES, cifar10, files
from mixbit.errors import DataError
from mixbit.testing.options import OptionCases, OptionRow
from tests.data.contract import check_split, defaults_of, keywords_of, moves_of, normalises

RECORDS = 4


def write(parent: Path, records: int = RECORDS) -> None:
    random = np.random.default_rng(0)
    place = parent / "cifar-10-batches-bin"
    place.mkdir()
    for number, name in enumerate((*TRAIN_FILES, *TEST_FILES)):
        rows = random.integers(0, 256, (records, 3073), dtype=np.uint8)
        rows[:, 0] = (np.arange(records) + number) % 10
        rows.tofile(place / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def loaded(records: int = RECORDS, **options: Any) -> data.DataSet:
    with tempfile.TemporaryDirectory() as parent:
        write(Path(parent), records)
        return cifar10(parent, records=records, **options)


def spec(folder: Path) -> str:
    return f"cifar10:{folder}?records={RECORDS}"


def test_records_are_label_then_red_green_blue_planes(folder: Path) -> None:
    found = data.load(spec(folder))
    assert (len(found.train), len(found.test), found.num_classes) == (20, 4, 10)
    assert found.input_shape == (3, 32, 32)
    assert found.classes[3] == "cat"
    raw = np.fromfile(folder / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8).reshape(RECORDS, 3073)[1]
    image, label = list(found.train.batches(1))[RECORDS + 1]
    assert label.item() == raw[0] == 2
    green = (raw[1 + 1024 + 5 * 32 + 7] / 255 - 0.456) / 0.224
    assert image[0, 1, 5, 7].item() == pytest.approx(green, abs=1e-5)


def test_contract(folder: Path) -> None:
    check_split(data.load(spec(folder)).train)


def test_the_folder_itself_or_its_parent(folder: Path) -> None:
    inner = data.load(spec(folder / "cifar-10-batches-bin"))
    assert torch.equal(inner.test.labels, data.load(spec(folder)).test.labels)


def test_missing_folder_and_missing_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No CIFAR-10 binary files.*data_batch_1\.bin"):
        data.load(f"cifar10:{tmp_path / 'none'}")
    (folder / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing"):
        data.load(spec(folder))


def test_a_truncated_file_states_both_sizes(folder: Path) -> None:
    file = folder / "cifar-10-batches-bin" / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        DataError, match=rf"test_batch.bin' has {RECORDS * 3073 - 100} bytes, expected {RECORDS * 3073}"
    ):
        data.load(spec(folder))


def test_the_public_size_is_the_default(folder: Path) -> None:
    with pytest.raises(DataError, match="expected 30730000"):
        data.load(f"cifar10:{folder}")


def test_a_label_out_of_range_names_file_and_record(folder: Path) -> None:
    file = folder / "cifar-10-batches-bin" / "data_batch_5.bin"
    content = bytearray(file.read_bytes())
    content[2 * 3073] = 10
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_5.bin' record 2 has label 10; labels must be 0 to 9"):
        data.load(spec(folder))


def test_another_size(folder: Path) -> None:
    """Resized once as bytes; crops shift by as large a part of the image."""
    plain, large = data.load(spec(folder)), data.load(spec(folder) + "&size=64")
    assert large.input_shape == (3, 64, 64) and large.test.images.dtype == torch.uint8  # type: ignore[attr-defined]
    assert large.train.pad == 8  # type: ignore[attr-defined]
    small, big = (one.test.images.float() for one in (plain, large))  # type: ignore[attr-defined]
    assert torch.allclose(big.mean((1, 2, 3)), small.mean((1, 2, 3)), atol=1.0)
    with pytest.raises(DataError, match="size is .0.; it must be a whole number from 1 to 4096"):
        data.load(spec(folder) + "&size=0")


def test_augmentation_shifts_by_four_pixels_and_mirrors(folder: Path) -> None:
    """A crop out of the image padded by 4; both ways in all combinations would need thousands of images."""
    found = cifar10(str(folder), records=RECORDS)
    for split, passes in ((found.train, 8), (found.test, 40)):
        assert isinstance(split, data.TensorSplit)
        moves = moves_of(split, passes=passes)
        assert {down for down, _, _ in moves} == {right for _, right, _ in moves} == set(range(-4, 5))
        mirrored = sum(count for move, count in moves.items() if move[2]) / moves.total()
        assert 0.4 < mirrored < 0.6 and len({down - right for down, right, _ in moves}) > 9


def test_files_and_classes(folder: Path) -> None:
    found = cifar10(str(folder), records=RECORDS)
    assert found.classes == CLASSES and CLASSES[0] == "airplane" and CLASSES[9] == "truck"
    assert sorted(files(str(folder))) == sorted((folder / "cifar-10-batches-bin").iterdir())


def test_doubled_pixels_are_weighed_by_the_distances_of_their_centres() -> None:
    """Three to one along each axis, and whole at the border."""
    small, large = (loaded(size=size).test.images[0, 0].double() for size in (32, 64))  # type: ignore[attr-defined]
    assert abs(float(large[0, 0] - small[0, 0])) <= 0.5
    wanted = (9 * small[3, 4] + 3 * small[3, 5] + 3 * small[4, 4] + small[4, 5]) / 16
    assert abs(float(large[7, 9] - wanted)) <= 0.5


def halved(large: torch.Tensor, small: torch.Tensor) -> bool:
    """Whether each pixel is the mean of four, rounded."""
    mean = torch.nn.functional.avg_pool2d(large.double(), 2)
    return small.shape[2:] == (16, 16) and float((mean - small).abs().max()) <= 0.5


def test_defaults_are_those_of_the_published_weights_and_files() -> None:
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert defaults_of(cifar10) == {**imagenet, "size": 32, "records": 10_000}


class TestCifar10Options(OptionCases):
    """What `cifar10:DIR?name=value` does."""

    owner = "cifar10"
    options = keywords_of(cifar10)
    rows = (
        normalises("mean", (0.485, 0.456, 0.406), (0.1, 0.2, 0.3), loaded),
        normalises("std", (0.229, 0.224, 0.225), (0.5, 0.7, 0.9), loaded),
        OptionRow("size", (32, 16), seen=lambda value: loaded(size=value).train.images, holds=halved),  # type: ignore[attr-defined]
        OptionRow(
            "size",
            (32, 16),
            seen=lambda value: (loaded(size=value).input_shape, loaded(size=value).train.pad),  # type: ignore[attr-defined]
            holds=lambda one, other: (one, other) == (((3, 32, 32), 4), ((3, 16, 16), 2)),
            says="crops shift by as large a part",
        ),
        OptionRow(
            "records",
            (4, 2),
            seen=lambda value: (len(loaded(value).train), len(loaded(value).test)),
            holds=lambda one, other: (one, other) == ((20, 4), (10, 2)),
        ),
    )
