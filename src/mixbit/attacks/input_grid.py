"""The grid on which a network's input lies: what an integer network sees of a perturbation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.integer import IntegerGraph
from mixbit.integer.arithmetic import Grid, dequantize, quantize
from mixbit.integer.graph import QuantizeInput

__all__ = ["InputGrid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputGrid:
    """How an integer network rounds its input, in the user's unit.

    A perturbation of less than half a step of every pixel is erased, and one just above half a step becomes a whole
    one; images that do not lie on the grid themselves move by up to half a step without any attack.

    Attributes:
        grid: of the network's normalised input.
        space: from the user's unit to the network's, and back.

    >>> grid = Grid(scale=0.02, zero_point=0, qmin=-128, qmax=127)
    >>> pixels = InputGrid(grid=grid, space=InputSpace(mean=(0.5,), std=(0.25,), bounds=(0.0, 1.0)))
    >>> pixels.step                                      # 0.02 of a standard deviation of 0.25
    (0.005,)
    >>> [round(end, 3) for end in pixels.ends[0]]        # 128 steps below the mean, 127 above
    [-0.14, 1.135]
    >>> pixels.snap(torch.tensor([[[[0.5, 0.5024, 0.5026]]]]))
    tensor([[[[0.5000, 0.5000, 0.5050]]]])
    """

    grid: Grid
    space: InputSpace

    @classmethod
    def of(cls, graph: IntegerGraph, space: InputSpace) -> InputGrid:
        """The grid of a lowered network.

        Args:
            graph: from `mixbit.export.lower`.
            space: of the inputs of its Predictor.

        Raises:
            MixbitError: its input is not quantized.
        """
        for op in graph.ops:
            if isinstance(op, QuantizeInput) and (grid := graph.tensors[op.output].grid) is not None:
                return cls(grid=grid, space=space)
        raise MixbitError("the graph does not quantize its input. Legal: one from mixbit.export.lower.")

    @property
    def step(self) -> tuple[float, ...]:
        """Distance of two neighbours in the user's unit, a number a channel of the space."""
        return tuple(round(self.grid.scale * std, 12) for std in self.space.std)

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """The least and the largest number on the grid in the user's unit, a pair a channel of the space."""
        low, high = (self.grid.scale * (q - self.grid.zero_point) for q in (self.grid.qmin, self.grid.qmax))
        channels = zip(self.space.mean, self.space.std, strict=True)
        return tuple((low * std + mean, high * std + mean) for mean, std in channels)

    def integers(self, x: Tensor) -> Tensor:
        """What the network reads of inputs `(N, C, ...)`: int32 of the same shape."""
        return torch.from_numpy(quantize(self.space.enter(x.detach().cpu()).numpy(), self.grid))

    def snap(self, x: Tensor) -> Tensor:
        """Inputs on the grid, in the user's unit; what lies beyond its ends is cut there."""
        return self.space.leave(torch.from_numpy(dequantize(self.integers(x).numpy(), self.grid))).to(x.device)
