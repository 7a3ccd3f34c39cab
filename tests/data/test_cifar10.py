"""CIFAR-10's binary files, small ones made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mixbit import data
from mixbit.data.cifar10 import TEST_FILES, TRAIN_FILES
from mixbit.errors import DataError
from tests.data.contract import check_split

RECORDS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    for number, name in enumerate((*TRAIN_FILES, *TEST_FILES)):
        rows = random.integers(0, 256, (RECORDS, 3073), dtype=np.uint8)
        rows[:, 0] = (np.arange(RECORDS) + number) % 10
        rows.tofile(place / name)
    return tmp_path


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
