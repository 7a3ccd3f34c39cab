"""How far an accuracy may be off by the draw of its images: standard errors and Wilson's interval, in points.

Two networks on the same images are compared here as if their images were others: the files hold no results by image,
which a paired test needs. So a difference that passes is one; what does not is not distinguishable by these figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

TWO_SIDED_95 = 1.959963984540054


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy between 0 and 1, in points.

    >>> round(standard_error(0.8, 10_000), 2)
    0.4
    """
    return 100 * math.sqrt(accuracy * (1 - accuracy) / images)


def said(accuracies: Iterable[float], images: int) -> str:
    """The standard errors of a table's accuracies, as a note under it.

    >>> said([0.9, 0.5], 10_000)
    'Standard error of an accuracy by the draw of 10,000 samples: 0.3 to 0.5 points.'
    """
    errors = sorted(f"{standard_error(one, images):.1f}" for one in accuracies)
    if not errors:
        return "No accuracy was measured."
    texts = " to ".join(dict.fromkeys((errors[0], errors[-1])))
    return f"Standard error of an accuracy by the draw of {images:,} samples: {texts} points."


def of_difference(one: float, other: float, images: int) -> float:
    """Standard error of the difference of two accuracies on as many images each, in points.

    >>> round(of_difference(0.8, 0.8, 10_000), 2)
    0.57
    """
    return math.hypot(standard_error(one, images), standard_error(other, images))


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """Wilson's interval of 95 % of an accuracy, in percent.

    >>> [round(end, 2) for end in wilson(0.8, 10_000)]
    [79.2, 80.77]
    """
    z = TWO_SIDED_95**2 / images
    middle = (accuracy + z / 2) / (1 + z)
    half = math.sqrt(z * accuracy * (1 - accuracy) + z**2 / 4) / (1 + z)
    return 100 * (middle - half), 100 * (middle + half)


def differ(one: float, other: float, images: int) -> bool:
    """Whether two accuracies are apart by more than twice the standard error of their difference."""
    return 100 * abs(one - other) > 2 * of_difference(one, other, images)


def of_median(values: Sequence[float]) -> tuple[float, float]:
    """An interval of at least 95 % for the median, of two of the values themselves; of all where they are too few.

    >>> of_median([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    (1.0, 8.0)
    >>> of_median(range(50))
    (17, 32)
    """
    ordered, count = sorted(values), len(values)
    outside = [2 * sum(math.comb(count, below) for below in range(cut + 1)) / 2**count for cut in range(count // 2)]
    cut = max(sum(share <= 0.05 for share in outside) - 1, 0)
    return ordered[cut], ordered[-1 - cut]
