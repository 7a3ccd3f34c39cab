"""Whether a quantized network sees the noise that its certificate is about."""

from __future__ import annotations

from mixbit.attacks import InputGrid
from mixbit.errors import MixbitError

__all__ = ["need_cover"]

_SIGMAS = 3.0
"""Of a pixel at a bound noise lies within so many of them but for one draw in 700."""


def need_cover(grid: InputGrid, sigma: float) -> None:
    """Raise unless the input quantizer reaches as far as noise on the user's inputs, three sigma beyond the bounds.

    The theorem holds of any network, also of one that cuts its input at 0 and 1. But such a network was not made for
    noise: half of what is added to a black pixel is lost, and its certificates are small without a word.

    Args:
        grid: of the network's input.
        sigma: standard deviation of the noise, in the unit of the input space.

    Raises:
        MixbitError: it does not; with what it covers, what noise covers, and the remedy.

    >>> from mixbit.data import InputSpace
    >>> from mixbit.integer.arithmetic import Grid
    >>> space = InputSpace(bounds=(0.0, 1.0))
    >>> need_cover(InputGrid(grid=Grid(scale=0.01, zero_point=-50, qmin=-128, qmax=127), space=space), 0.25)
    >>> need_cover(InputGrid(grid=Grid(scale=1 / 255, zero_point=-128, qmin=-128, qmax=127), space=space), 0.25)
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: the input quantizer covers 0 to 1, noise of sigma 0.25 on inputs of 0 to 1 ...
    """
    if grid.space.bounds is None:
        raise MixbitError(
            f"noise of sigma {sigma:g} may go beyond the input quantizer, and the space has no bounds that say so. "
            "Give InputSpace(bounds=(least, largest))."
        )
    low, high = grid.space.bounds
    least, most = max(one for one, _ in grid.ends), min(one for _, one in grid.ends)  # of all channels
    step = max(grid.step)
    if least - step > low - _SIGMAS * sigma or most + step < high + _SIGMAS * sigma:
        raise MixbitError(
            f"the input quantizer covers {least:.3g} to {most:.3g}, noise of sigma {sigma:g} on inputs of {low:g} to "
            f"{high:g} reaches {low - _SIGMAS * sigma:.3g} to {high + _SIGMAS * sigma:.3g}. Calibrate the network on "
            "noisy inputs, x + sigma * noise, by a rule that covers them all (minmax), or take a smaller sigma."
        )
