"""Images in one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mixbit._settings import Side
from mixbit.data.base import DataSet
from mixbit.data.images import Crop, ImageSplit, Workers, need_pillow
from mixbit.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["files", "imagefolder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_TEST_FOLDERS = ("val", "test", "validation")


def imagefolder(
    folder: str,
    *,
    size: Side = 224,
    crop: Crop = 0.875,
    workers: Workers = 0,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> DataSet:
    """Images under `folder`/train/CLASS/ and `folder`/val/CLASS/ (or test/, validation/), decoded when needed, as RGB.

    Classes are the folders of train, sorted by name. Files with other suffixes than an image's, and hidden ones, are
    passed over. The augmentation is a random resized crop and a flip; without it, resize and centre crop.

    Args:
        folder: what holds train/ and val/.
        size: height and width of what the model gets, in pixels.
        crop: share of the shorter side that the centre crop keeps; 1 keeps the whole of a square image.
        workers: decoding threads; 0 takes the cores of the machine, at most 8.
        mean: three numbers, on the scale of pixel / 255.
        std: the same.

    Raises:
        DataError: a folder is missing or has no images, or the test part has a class that train has not. An image that
            cannot be read is an error of the batch that needs it, and names the file.
        MissingExtra: pillow is not installed.
    """
    need_pillow("imagefolder")
    root = Path(folder)
    train = _subfolder(root, ("train",))
    test = _subfolder(root, _TEST_FOLDERS)
    classes = _classes(train)
    splits = [
        _split(part, classes, mean, std, size=size, crop=crop, workers=workers, partial=part is test)
        for part in (train, test)
    ]
    return DataSet(
        name="imagefolder",
        train=splits[0],
        test=splits[1],
        num_classes=len(classes),
        input_shape=(3, size, size),
        mean=tuple(mean),
        std=tuple(std),
        classes=tuple(classes),
    )


def files(folder: str) -> list[Path]:
    """The files that `imagefolder` reads."""
    parts = [_subfolder(Path(folder), names) for names in (("train",), _TEST_FOLDERS)]
    return [file for part in parts for name in _classes(part) for file in _images(part / name, may_miss=True)]


def _split(
    part: Path,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    size: int,
    crop: float,
    workers: int,
    partial: bool,
) -> ImageSplit:
    strangers = [name for name in _classes(part) if name not in classes]
    if strangers:
        near = did_you_mean(strangers[0], classes)
        raise DataError(f"{str(part)!r} has the class {strangers[0]!r}, which the training part has not.{near}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(part / name, may_miss=partial)
        files += found
        labels += [label] * len(found)
    return ImageSplit(
        lambda index: _open(files[index]),
        lambda index: repr(str(files[index])),
        torch.tensor(labels, dtype=torch.int64),
        len(classes),
        mean,
        std,
        size=size,
        crop=crop,
        workers=workers,
        source=str(part),
    )


def _open(file: Path) -> Image:
    import PIL.Image

    with PIL.Image.open(file) as image:
        image.load()
        return image


def _subfolder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    raise DataError(f"No {wanted} in {str(root)!r}; images belong into DIR/train/CLASS/ and DIR/val/CLASS/.")


def _classes(part: Path) -> list[str]:
    found = sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise DataError(f"{str(part)!r} is empty; it needs one folder a class, with images in it.")
    return found


def _images(folder: Path, *, may_miss: bool) -> list[Path]:
    """Image files below a class folder, sorted; none is an error, but the test part may lack the whole folder."""
    if may_miss and not folder.is_dir():
        return []
    hidden = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    found = sorted(file for file in hidden if file.is_file())
    if not found:
        raise DataError(f"{str(folder)!r} has no images ({', '.join(sorted(SUFFIXES))}); fill or remove it.")
    return found
