"""From birth times over images to the entropy of channels and layers."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError, did_you_mean

__all__ = ["Blind", "Missing", "Weighting", "birth_share", "channel_entropies", "layer_entropy"]

Missing = Literal["drop", "bin0"]
"""Images without a birth: left out, or counted as a value of their own."""
Blind = Literal["sensitive", "printed", "keep"]
"""What a channel gets whose births are rarer than `threshold`: see `channel_entropies`."""
Weighting = Literal["prop", "mean", "softmax"]
"""How a layer's channels are weighted: by their entropy, equally, or by its exponential."""

Floats = npt.NDArray[np.float64]


def birth_share(births: npt.ArrayLike) -> Floats:
    """Share of images with a birth, a channel: births (images, channels) -> (channels,).

    >>> birth_share([[4, 0], [5, 0], [4, 7], [0, 0]]).tolist()
    [0.75, 0.25]
    """
    share: Floats = np.mean(_table(births) > 0, axis=0, dtype=np.float64)
    return share


def channel_entropies(
    births: npt.ArrayLike,
    *,
    missing: Missing = "drop",
    blind: Blind = "sensitive",
    threshold: float = 0.1,
    miller_madow: bool = False,
) -> Floats:
    """Entropy of each channel's birth times over images, `H = -sum_x P(x) ln P(x)`, in nats.

    The plug-in estimate from the shares of the values (Zhao and Zhang, equations 8 to 12). It grows with the number of
    images and is at most the logarithm of it, so compare layers at the same number.

    Args:
        births: (images, channels), 0 for none.
        missing: "drop" leaves images without a birth out (as the released code of Zhao and Zhang); "bin0" counts them
            as one more value (a reading of GMPQ-TE's appendix C.2), and no channel is blind then.
        blind: a channel whose share of births is below `threshold`: "sensitive" gives it `(1 - share) * ln(images)`
            (our completion: it is called the most sensitive in words), "printed" the `share * ln(images)` of their
            equation 12, "keep" what the births give.
        threshold: 0.1 in Zhao and Zhang.
        miller_madow: add `(values - 1) / (2 * counted images)`, which takes most of the bias off (our option).

    Returns:
        (channels,).

    Raises:
        MixbitError: a word that is not legal, or a table without images.

    >>> channel_entropies([[4], [4], [5], [6]]).round(6).tolist()
    [1.039721]
    >>> with_none = [[4], [4], [5], [6], [0]]
    >>> float(channel_entropies(with_none).round(6)[0]), float(channel_entropies(with_none, missing="bin0").round(6)[0])
    (1.039721, 1.332179)
    """
    table = _table(births)
    _legal("missing", missing, get_args(Missing))
    _legal("blind", blind, get_args(Blind))
    images, channels = table.shape
    owner, value, count = _run_lengths(table)
    if missing == "drop":
        kept = value > 0
        owner, count = owner[kept], count[kept]
    total = _sums(owner, count.astype(np.float64), channels)
    part = count / total[owner]
    entropy = _sums(owner, -part * np.log(part), channels)
    if miller_madow:
        values = np.bincount(owner, minlength=channels)
        entropy = entropy + np.maximum(values - 1, 0) / (2 * np.maximum(total, 1))
    if missing == "drop" and blind != "keep":
        share = birth_share(table)
        instead = (1 - share if blind == "sensitive" else share) * math.log(images)
        entropy = np.where(share < threshold, instead, entropy)
    return entropy + 0.0  # no negative zero


def layer_entropy(entropies: npt.ArrayLike, *, weighting: Weighting = "prop") -> float:
    """Weighted mean of a layer's channel entropies.

    GMPQ-TE gives a channel of lower entropy a lower weight; its formula is not legible to us. Our completion: "prop",
    `w_i = H_i / sum_j H_j`. "softmax" fits those words too, and "mean" is that of Zhao and Zhang.

    Raises:
        MixbitError: no channels, or an unknown weighting.

    >>> layer_entropy([1, 2, 3], weighting="mean"), round(layer_entropy([1, 2, 3]), 6)
    (2.0, 2.333333)
    >>> round(layer_entropy([1, 2, 3], weighting="softmax"), 6)
    2.57521
    """
    values = np.asarray(entropies, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise MixbitError(f"entropies have the shape {values.shape}, legal is (channels,) with one channel or more.")
    _legal("weighting", weighting, get_args(Weighting))
    if weighting == "mean" or not values.any():
        return float(values.mean())
    weights = values if weighting == "prop" else np.exp(values - values.max())
    return float(weights @ values / weights.sum())


def _table(births: npt.ArrayLike) -> npt.NDArray[np.int64]:
    table = np.asarray(births)
    if table.ndim != 2 or 0 in table.shape:
        raise MixbitError(f"births have the shape {table.shape}, legal is (images, channels) with one or more of each.")
    return table.astype(np.int64)


def _run_lengths(
    table: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Channel, value and count of every value that a channel takes."""
    ordered = np.sort(table.T, axis=1)
    new = np.ones(ordered.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, ordered.size))
    return starts // ordered.shape[1], ordered.ravel()[starts], counts


def _sums(owner: npt.NDArray[np.int64], values: Floats, channels: int) -> Floats:
    sums = np.zeros(channels)
    np.add.at(sums, owner, values)
    return sums


def _legal(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise MixbitError(f"{name} is {value!r}.{did_you_mean(value, legal)} Legal: {', '.join(legal)}.")
