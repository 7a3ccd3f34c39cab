"""What all birth times check, and the words in which they refuse."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError

_NO_LIMIT = 2**62


def step_limit(v_max: int | None) -> int:
    """The last step that counts, as a number."""
    if v_max is not None and v_max < 1:
        raise MixbitError(f"v_max is {v_max!r}. Legal: a whole number from 1 up, or None for no limit.")
    return _NO_LIMIT if v_max is None else v_max


def refuse_nan(births: npt.NDArray[np.int32]) -> None:
    """An error where a map had a NaN, which a birth of -1 says."""
    if (births < 0).any():
        raise MixbitError(
            f"{int((births < 0).sum())} of {len(births)} maps have values that are not a number. Check the network"
            " for overflow, and its weights."
        )
