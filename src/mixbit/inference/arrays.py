"""Predictors whose arithmetic is not PyTorch's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.inference.predictor import check_inputs, need_gradients

__all__ = ["ArrayPredictor"]

Floats = NDArray[np.float32]


class ArrayPredictor(ABC):
    """A Predictor without gradients; a subclass says what becomes of an array.

    Args:
        name: see `Predictor`.
        space: of the inputs; without one, they are the network's as they are.
        shape: of one input.
        batch: inputs at once; more are cut into parts.
    """

    differentiable = False

    def __init__(self, name: str, space: InputSpace | None, shape: tuple[int, ...], *, batch: int = 256) -> None:
        if batch < 1:
            raise MixbitError(f"batch={batch}, legal is 1 or more.")
        self.name, self.space = name, InputSpace() if space is None else space
        self._shape, self._batch = shape, batch

    def logits(self, x: Tensor) -> Tensor:
        """Logits of inputs in their space, see `mixbit.inference.Predictor`."""
        check_inputs(x, self.name)
        if x.requires_grad and torch.is_grad_enabled():
            need_gradients(self, "a tensor that requires them")
        if tuple(x.shape[1:]) != self._shape:
            wanted = ", ".join(map(str, self._shape))
            raise MixbitError(f"{self.name} got inputs of shape {tuple(x.shape)}, legal is (N, {wanted}).")
        z = np.ascontiguousarray(self.space.enter(x.detach().cpu()).numpy())
        parts = [self._run(z[at : at + self._batch]) for at in range(0, len(z), self._batch)]
        return torch.from_numpy(np.concatenate(parts)).to(x.device)

    @abstractmethod
    def _run(self, z: Floats) -> Floats | Any:
        """Logits `(n, C)` float32 of inputs `(n, *shape)` as the network reads them."""
