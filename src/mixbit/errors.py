"""The errors that mixbit raises.

Every message gives the received value, the legal set and the remedy. Catch `MixbitError` to catch them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

__all__ = [
    "BudgetError",
    "CaptureError",
    "DataError",
    "ExportError",
    "FileError",
    "InfeasibleBudget",
    "MissingExtra",
    "MixbitError",
    "PolicyError",
    "ProcessLost",
    "StaleRun",
    "TrainingDiverged",
    "WeightsError",
    "did_you_mean",
    "shown",
]


class MixbitError(Exception):
    """Root of all errors that mixbit raises on purpose."""


class CaptureError(MixbitError):
    """The model cannot be captured: the message names the line of the user's code."""


class PolicyError(MixbitError):
    """A policy or score file is malformed, newer than this version, or of another model."""


class BudgetError(MixbitError):
    """A budget or pin cannot be understood."""


class InfeasibleBudget(BudgetError):
    """No policy meets the budget.

    Attributes:
        nearest: limit name -> the smallest value of that limit which can be reached, in the limit's own unit.
        blocking: names of the groups that use most of the broken limit at their cheapest option.
    """

    def __init__(self, message: str, *, nearest: Mapping[str, float], blocking: Iterable[str]) -> None:
        super().__init__(message)
        self.nearest = dict(nearest)
        self.blocking = list(blocking)


class WeightsError(MixbitError):
    """A weights file is unreadable or does not fit the model."""


class DataError(MixbitError):
    """A data set is missing, truncated or carries labels out of range."""


class ExportError(MixbitError):
    """A network has no integer form, or an exported file cannot be read; the message names the module or the file."""


class FileError(MixbitError):
    """A file or folder cannot be read or written; the message names the path, what the system says, and what to do."""


class TrainingDiverged(MixbitError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class ProcessLost(MixbitError):
    """Another process of the same run ended, was stopped, or gave no answer in time."""


class StaleRun(MixbitError):
    """A run folder holds state of other settings; the message names the key that differs."""


class MissingExtra(MixbitError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def did_you_mean(word: str, legal: Iterable[str]) -> str:
    """Suffix for an error message that offers the nearest legal word.

    >>> did_you_mean("bitop", ["bitops", "weight-bytes"])
    " Did you mean 'bitops'?"
    >>> did_you_mean("zzz", ["bitops"])
    ''
    """
    near = get_close_matches(word, list(legal), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: object, most: int = 80) -> str:
    """A received value for a message: as Python writes it, or its kind where that is longer than `most` characters.

    >>> shown("bitops"), shown(10**5000), shown([0] * 100)
    ("'bitops'", 'a whole number of 16610 bits', 'a list of 100')
    """
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to write thousands of digits
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = ""
    if text and len(text) <= most:
        return text
    if isinstance(value, list | tuple | dict):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    ends = (most - 3) // 2  # both are told: of a path, the name of the file is the end
    return f"{text[:ends]}...{text[-ends:]}" if text else f"a {type(value).__name__}"
