"""Image classification data of the datasets package, from the hub or from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from mixbit._settings import LARGEST_SIDE, Range, Seed
from mixbit.data.base import DataSet
from mixbit.data.images import Crop, ImageSplit, Workers, need_pillow, to_mode, to_pixels
from mixbit.data.memory import TensorSplit
from mixbit.errors import DataError, MissingExtra, did_you_mean

__all__ = ["files", "hf"]

_TEST_NAMES = ("test", "validation", "valid", "val")
# Images up to this height and width are kept in memory, all of one size; larger ones are decoded when needed.
SMALL_PIXELS = 64


def hf(
    name: str,
    *,
    config: str = "",
    image: str = "",
    label: str = "",
    train: str = "train",
    test: str = "",
    size: Annotated[int, Range(least=0, most=LARGEST_SIDE)] = 0,
    crop: Crop = 0.875,
    workers: Workers = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: Seed = 0,
) -> DataSet:
    """A data set of the datasets package with one image and one label column.

    Images of at most 64 x 64 pixels that all have one size are kept in memory, grey ones with one channel; augmentation
    shifts them by up to an eighth and flips coloured ones. Larger images, or all if `size` is given, become RGB of that
    size (224 by default) as in `imagefolder`.

    Args:
        name: a name on the hub, or a folder written by `save_to_disk` or readable by `load_dataset`.
        config: the configuration, for data sets with several.
        image: image column; found by its type if it is the only one.
        label: label column; found by its type, or by the name label or labels.
        train: name of the training split.
        test: name of the test split; test, validation, valid or val if not given. Data without any are cut 9 : 1.
        size: height and width of what the model gets, in pixels.
        crop: share of the shorter side that the centre crop keeps.
        workers: decoding threads; 0 takes the cores of the machine, at most 8.
        mean: one number a channel on the scale of pixel / 255; ImageNet's for RGB, 0.5 for grey if not given.
        std: the same.
        seed: draws the 9 : 1 cut.

    Raises:
        DataError: data, split or column that is not there or not clear, labels out of range, images of several sizes.
        MissingExtra: datasets or pillow is not installed.
    """
    need_pillow("hf")
    parts = _splits(_fetch(name, config), name, train, test, seed)
    columns = _column(parts[0], name, "image", image), _column(parts[0], name, "label", label)
    classes, num_classes = _classes(parts[0], columns[1])
    if not size and max(_image(parts[0], 0, columns[0], name).size) <= SMALL_PIXELS:
        splits: list[TensorSplit] | list[ImageSplit] = [
            _in_memory(part, name, columns, num_classes, mean, std) for part in parts
        ]
    else:
        options = {"size": size or 224, "crop": crop, "workers": workers}
        splits = [_on_demand(part, name, columns, num_classes, mean, std, options) for part in parts]
    first, second = splits
    return DataSet(
        name=f"hf:{name}",
        train=first,
        test=second,
        num_classes=num_classes,
        input_shape=_shape(first),
        mean=tuple((first.mean.flatten() / 255).tolist()),
        std=tuple((first.std.flatten() / 255).tolist()),
        classes=classes,
    )


def files(name: str) -> list[Path]:
    """What `hf` reads of a folder; nothing for a name on the hub."""
    return sorted(file for file in Path(name).rglob("*") if file.is_file()) if Path(name).is_dir() else []


def _fetch(name: str, config: str) -> Any:
    try:
        import datasets
    except ImportError as cause:
        raise MissingExtra("hf needs the datasets package: pip install 'mixbit[data]'.") from cause
    folder = Path(name)
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        return datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config or None)
    except Exception as cause:  # Missing, damaged, offline, several configurations: each has another type.
        raise DataError(f"Cannot load hf data {name!r}: {type(cause).__name__}: {cause}") from cause


def _splits(found: Any, name: str, train: str, test: str, seed: int) -> tuple[Any, Any]:
    """The training and the test dataset."""
    if not isinstance(found, dict):
        found = {train: found}
    for wanted in filter(None, (train, test)):
        if wanted not in found:
            near = did_you_mean(wanted, found)
            raise DataError(f"{name!r} has no split {wanted!r}; there are: {', '.join(found)}.{near}")
    chosen = test or next((usual for usual in _TEST_NAMES if usual in found and usual != train), "")
    if chosen:
        return found[train].with_format(None), found[chosen].with_format(None)
    if len(found[train]) < 2:
        raise DataError(f"{name!r} has {len(found[train])} samples and no test split; there is nothing to cut.")
    cut = found[train].with_format(None).train_test_split(test_size=0.1, seed=seed)
    return cut["train"], cut["test"]


def _column(part: Any, name: str, kind: str, wanted: str) -> str:
    """The column that the user named, or the only one of its kind."""
    if wanted and wanted not in part.features:
        near = did_you_mean(wanted, part.features)
        raise DataError(f"{name!r} has no column {wanted!r}; there are: {', '.join(part.features)}.{near}")
    found = [wanted] if wanted else _candidates(part, kind)
    if len(found) != 1:
        what = f"several {kind} columns ({', '.join(found)})" if found else f"no {kind} column"
        raise DataError(f"{name!r} has {what}; name one by ?{kind}=COLUMN out of: {', '.join(part.features)}.")
    return found[0]


def _candidates(part: Any, kind: str) -> list[str]:
    wanted = {"image": "Image", "label": "ClassLabel"}[kind]
    typed = [column for column, feature in part.features.items() if type(feature).__name__ == wanted]
    named = [column for column in part.features if kind == "label" and column in ("label", "labels")]
    return typed or named


def _classes(part: Any, column: str) -> tuple[tuple[str, ...], int]:
    """Names of the classes, where there are any, and their number."""
    feature = part.features[column]
    if hasattr(feature, "names"):
        return tuple(feature.names), int(feature.num_classes)
    return (), int(_labels(part, column).max()) + 1


def _labels(part: Any, column: str) -> Tensor:
    values = part[column][:]
    if not all(isinstance(value, int) for value in values):
        odd = next(value for value in values if not isinstance(value, int))
        raise DataError(f"Column {column!r} holds {odd!r}; labels must be whole numbers, from 0.")
    return torch.tensor(values, dtype=torch.int64)


def _image(part: Any, index: int, column: str, name: str) -> Any:
    if len(part) == 0:
        raise DataError(f"{name!r} has an empty split.")
    found = part[index][column]
    if not hasattr(found, "convert"):
        raise DataError(f"{name!r}, column {column!r} holds a {type(found).__name__}, not an image.")
    return found


def _in_memory(
    part: Any, name: str, columns: tuple[str, str], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> TensorSplit:
    grey = _image(part, 0, columns[0], name).mode in ("1", "L", "LA")
    images = [_small(part, index, columns[0], name, "L" if grey else "RGB") for index in range(len(part))]
    sizes = {tuple(pixels.shape[1:]) for pixels in images}
    if len(sizes) > 1:
        raise DataError(f"{name!r} has images of several sizes, e.g. {sorted(sizes)[:3]}; choose one by ?size=PIXELS.")
    pixels = torch.stack(images)
    return TensorSplit(
        pixels,
        _labels(part, columns[1]),
        num_classes,
        mean or ((0.5,) if grey else (0.485, 0.456, 0.406)),
        std or ((0.5,) if grey else (0.229, 0.224, 0.225)),
        pad=pixels.shape[-1] // 8,
        flip=not grey,
        source=name,
    )


def _small(part: Any, index: int, column: str, name: str, mode: str) -> Tensor:
    try:
        return to_pixels(to_mode(_image(part, index, column, name), mode))
    except (OSError, SyntaxError, ValueError) as cause:
        raise DataError(f"Cannot read image {index} of {name!r}: {cause}.") from cause


def _on_demand(
    part: Any,
    name: str,
    columns: tuple[str, str],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    options: dict[str, Any],
) -> ImageSplit:
    return ImageSplit(
        lambda index: _image(part, index, columns[0], name),
        lambda index: f"{index} of {name!r}",
        _labels(part, columns[1]),
        num_classes,
        mean or (0.485, 0.456, 0.406),
        std or (0.229, 0.224, 0.225),
        source=name,
        **options,
    )


def _shape(split: TensorSplit | ImageSplit) -> tuple[int, ...]:
    return tuple(split.images.shape[1:]) if isinstance(split, TensorSplit) else (3, split.size, split.size)
