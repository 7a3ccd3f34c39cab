"""What topological entropy gives for maps without any content: the control of every measured value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError
from mixbit.topology.birth import birth_times
from mixbit.topology.graphs import square, token_grid

__all__ = ["noise_births"]


def noise_births(
    shape: tuple[int, ...],
    images: int,
    channels: int,
    *,
    seed: int = 0,
    fill: float | None = None,
    v_max: int | None = None,
) -> npt.NDArray[np.int32]:
    """Births (images, channels) of maps of independent Gaussian noise; only the shape of the maps is in them.

    For continuous noise every order of the edges is equally likely, so the law does not depend on the distribution.

    Args:
        shape: (h, w) of a map, or (N,) for tokens.
        images: maps a channel.
        channels: how many.
        seed: of the noise; the result depends on it and the sizes alone.
        fill: value of padding; None takes the default of `square`, or of `token_grid` for tokens.
        v_max: see `birth_times`.

    Raises:
        MixbitError: the shape has not one or two dimensions.

    >>> births = noise_births((8, 8), images=64, channels=16)
    >>> births.shape, float(np.median(births[births > 0]))
    ((64, 16), 8.0)
    """
    if len(shape) not in (1, 2):
        raise MixbitError(f"the shape of a map is {shape}, legal is (h, w), or (N,) for tokens.")
    random = np.random.default_rng([seed, *shape, images])
    pad = square if len(shape) == 2 else token_grid
    options = {} if fill is None else {"fill": fill}
    births = [
        birth_times(pad(random.standard_normal((images, *shape), dtype=np.float32), **options), v_max=v_max)
        for _ in range(channels)
    ]
    return np.stack(births, axis=1)
