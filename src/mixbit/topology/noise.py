"""What topological entropy gives for maps without any content: the control of every measured value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError
from mixbit.topology.maps import Graph, map_births

__all__ = ["noise_births"]


def noise_births(
    shape: tuple[int, ...],
    images: int,
    channels: int,
    *,
    seed: int = 0,
    graph: Graph = "unit",
    fill: float | None = None,
    v_max: int | None = None,
) -> npt.NDArray[np.int32]:
    """Births (images, channels) of maps of independent Gaussian noise; only the shape of the maps is in them.

    For continuous noise every order of the edges, or of the pixels, is equally likely, so the law does not depend on
    the distribution.

    Args:
        shape: (h, w) of a map, or (N,) for tokens.
        images: maps a channel.
        channels: how many.
        seed: of the noise; the result depends on it and the sizes alone.
        graph: "unit" or "grid"; see `map_births`.
        fill: value of padding; None takes the default of `square`, or of `token_grid` for tokens.
        v_max: births after this step count as none.

    Raises:
        MixbitError: the shape has not one or two dimensions.

    >>> births = noise_births((8, 8), images=64, channels=16)
    >>> births.shape, float(np.median(births[births > 0]))
    ((64, 16), 8.0)
    """
    if len(shape) not in (1, 2):
        raise MixbitError(f"the shape of a map is {shape}, legal is (h, w), or (N,) for tokens.")
    random = np.random.default_rng([seed, *shape, images])
    births = [
        map_births(
            random.standard_normal((images, *shape), dtype=np.float32),
            tokens=len(shape) == 1,
            graph=graph,
            fill=fill,
            v_max=v_max,
        )
        for _ in range(channels)
    ]
    return np.stack(births, axis=1)
