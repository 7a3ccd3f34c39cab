import pytest

from mixbit.attacks import InputGrid
from mixbit.certification import need_cover
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.integer.arithmetic import Grid

PIXELS = InputSpace.of_images(mean=(0.5, 0.4), std=(0.25, 0.2))


def grid(low: float, high: float, space: InputSpace = PIXELS) -> InputGrid:
    """From `low` to `high` in the network's unit."""
    scale = (high - low) / 255
    return InputGrid(grid=Grid(scale=scale, zero_point=round(-128 - low / scale), qmin=-128, qmax=127), space=space)


@pytest.mark.parametrize(("low", "high", "fits"), [(-7, 8, True), (-3.5, 8, False), (-7, 4.0, False), (-2, 2.4, False)])
def test_every_channel_must_reach_three_sigma_beyond_the_bounds(low: float, high: float, fits: bool) -> None:
    # Noise of 0.3 reaches -0.9 to 1.9: in the network's unit -5.6 to 5.6, and -6.5 to 7.5.
    if fits:
        need_cover(grid(low, high), 0.3)
        return
    with pytest.raises(MixbitError, match=r"noise of sigma 0.3 on inputs of 0 to 1 reaches -0.9 to 1.9. Calibrate"):
        need_cover(grid(low, high), 0.3)


def test_a_smaller_sigma_may_fit() -> None:
    need_cover(grid(-2.6, 3.6), 0.03)
    with pytest.raises(MixbitError, match=r"covers -0.1.* to 1.1"):
        need_cover(grid(-2.6, 3.6), 0.1)


def test_a_step_too_few_is_no_matter() -> None:
    """A grid of whole steps rarely ends where noise does; steps of the first channel are the wider ones."""
    step = (7.5 + 6.5) / 255
    need_cover(grid(-6.5 + 1.1 * step, 7.5), 0.3)
    with pytest.raises(MixbitError, match="covers"):
        need_cover(grid(-6.5 + 3 * step, 7.5), 0.3)


def test_a_space_without_bounds_is_refused() -> None:
    with pytest.raises(MixbitError, match=r"Give InputSpace\(bounds="):
        need_cover(grid(-7, 7, InputSpace()), 0.1)
