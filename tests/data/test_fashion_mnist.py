"""idx files, packed and plain."""

from __future__ import annotations

import gzip
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbit import data
from mixbit.data.fashion_mnist import CLASSES, fashion_mnist, files, read_idx
from mixbit.errors import DataError
from mixbit.testing.options import OptionCases
from tests.data.contract import all_moves, check_split, defaults_of, keywords_of, moves_of, normalises


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">I{array.ndim}I", kind << 8 | array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(folder: Path, *, packed: bool, count: int = 12) -> None:
    random = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        images, labels = random.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            content = idx(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_packed_and_plain_files(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, packed=packed)
    found = data.load(f"fashion-mnist:{tmp_path}")
    assert (len(found.train), found.num_classes, found.input_shape) == (12, 10, (1, 28, 28))
    assert found.train.labels.tolist() == [*range(10), 0, 1]
    expected = np.random.default_rng(0).integers(0, 256, (12, 28, 28))[3, 5, 7]
    assert found.train.images[3, 0, 5, 7].item() == expected
    check_split(found.train)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither train-images-idx3-ubyte\.gz nor train-images-idx3-ubyte"):
        data.load(f"fashion-mnist:{tmp_path}")


@pytest.mark.parametrize("packed", [True, False])
def test_truncated_files(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, packed=packed)
    file = tmp_path / ("train-images-idx3-ubyte" + (".gz" if packed else ""))
    file.write_bytes(file.read_bytes()[:-50])
    message = "is truncated or no gzip file" if packed else r"holds 9374 bytes, its head .* promises 9424"
    with pytest.raises(DataError, match=message):
        data.load(f"fashion-mnist:{tmp_path}")


def test_labels_out_of_range_and_counts_that_differ(tmp_path: Path) -> None:
    write(tmp_path, packed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.full(12, 10)))
    with pytest.raises(DataError, match="t10k: sample 0 has label 10"):
        data.load(f"fashion-mnist:{tmp_path}")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(11)))
    with pytest.raises(DataError, match="12 images but 11 labels"):
        data.load(f"fashion-mnist:{tmp_path}")


def test_images_of_another_size(tmp_path: Path) -> None:
    write(tmp_path, packed=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((12, 14, 14))))
    with pytest.raises(DataError, match=r"expected \(N, 28, 28\)"):
        data.load(f"fashion-mnist:{tmp_path}")


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00", b"PNG rubbish", idx(np.zeros(3), kind=0x0D), b"\x00\x00\x08\x03\x00"]
)
def test_files_that_are_no_idx_of_bytes(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(DataError, match="no idx file of unsigned bytes|promises"):
        read_idx(file)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (1, 2, 3, 4)])
def test_any_shape_is_read_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    (tmp_path / "x").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "x"), array)


@pytest.mark.parametrize("shape", [(2**16,) * 4, (2**31, 2**31, 4)])
def test_a_head_that_promises_more_than_can_be_counted(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The product of the sizes is 0 in 64 bits."""
    (tmp_path / "a").write_bytes(struct.pack(f">I{len(shape)}I", 8 << 8 | len(shape), *shape))
    with pytest.raises(DataError, match="its head .* promises"):
        read_idx(tmp_path / "a")


def loaded(**options: Any) -> data.DataSet:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), packed=False, count=40)
        return fashion_mnist(folder, **options)


def test_augmentation_shifts_by_two_pixels_and_mirrors() -> None:
    found = loaded()
    for split in (found.train, found.test):
        assert isinstance(split, data.TensorSplit)
        assert set(moves_of(split, passes=12, reach=3)) == all_moves(2, flip=True)


def test_the_test_part_is_its_own_file(tmp_path: Path) -> None:
    write(tmp_path, packed=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.full((5, 28, 28), 7)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(5)))
    found = fashion_mnist(str(tmp_path))
    assert (len(found.train), len(found.test)) == (12, 5) and set(found.test.images.flatten().tolist()) == {7}  # type: ignore[attr-defined]
    assert found.classes == CLASSES and found.classes[9] == "ankle boot"
    assert sorted(files(str(tmp_path))) == sorted(tmp_path.iterdir())


def test_defaults_are_those_that_are_told() -> None:
    """Mean and deviation of the published training images."""
    assert defaults_of(fashion_mnist) == {"mean": (0.2860,), "std": (0.3530,)}


class TestFashionMnistOptions(OptionCases):
    """What `fashion-mnist:DIR?name=value` does."""

    owner = "fashion-mnist"
    options = keywords_of(fashion_mnist)
    rows = (normalises("mean", (0.286,), (0.1,), loaded), normalises("std", (0.353,), (0.9,), loaded))
