"""What benchmarks share: the few images of smoke runs are the first of the real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mixbit import data
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import common


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six files of three records more than a smoke run takes, each byte its number."""
    folder = tmp_path / "runs" / "data" / common.CIFAR10
    folder.mkdir(parents=True)
    count = common.SMOKE_RECORDS + 3
    for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]):
        record = bytes([number]) + bytes((number + n) % 256 for n in range(common.RECORD_BYTES - 1))
        (folder / name).write_bytes(record * count)
    monkeypatch.setattr(common, "ROOT", tmp_path)
    return folder


def test_a_smoke_run_reads_the_first_images_of_each_file(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--smoke"])
    folder = common.cifar10_folder()
    assert folder != whole
    for path in whole.iterdir():
        wanted = path.read_bytes()[: common.SMOKE_RECORDS * common.RECORD_BYTES]
        assert (folder / path.name).read_bytes() == wanted
    found = data.load(common.cifar10(size=16))
    assert (len(found.train), len(found.test), found.input_shape) == (1280, 256, (3, 16, 16))


def test_a_real_run_reads_the_files_themselves(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--fresh"])
    assert common.cifar10_folder() == whole
    assert common.cifar10() == f"cifar10:{whole.resolve()}"
    assert common.cifar10(size=64) == f"cifar10:{whole.resolve()}?size=64"
