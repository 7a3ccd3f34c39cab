"""Between backward pass and optimizer: what a process's gradients count, their mean over all of them, clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _distributed
from mixbit.data.order import part_of
from mixbit.errors import MixbitError
from mixbit.task import Objective
from mixbit.training.config import TrainConfig


class Gradients:
    """The gradients of the parameters that one training moves: the model's, and those that a step brought."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        brought: Sequence[nn.Parameter],
        config: TrainConfig,
        objective: Objective,
    ) -> None:
        self.parameters, self.all, self.config, self.objective = (
            list(parameters),
            [*parameters, *brought],
            config,
            objective,
        )
        self.weight = part_of_mean(config.batch_size)

    def weigh(self, loss: Tensor, y: Any) -> Tensor:
        """The mean over this rank's part of the batch counts by the targets that it is a mean of."""
        weight = self._weight_of(y)
        if weight == 1:
            return loss
        for parameter in self.all:
            if parameter.grad is not None:  # a mean of nothing is NaN, which no factor makes nothing
                parameter.grad.mul_(weight) if weight else parameter.grad.zero_()
        return loss * weight if weight else torch.zeros_like(loss)

    def _weight_of(self, y: Any) -> float:
        """Samples, or, where the loss ignores some targets, those that count: then the ranks ask each other."""
        counts = self.objective.loss
        if counts.ignore_index is None or not _distributed.is_active():
            return self.weight
        world = _distributed.world_size()
        samples = self.weight * self.config.batch_size / world
        mine = float(counts.weight(y, round(samples)))
        total = torch.tensor([mine], dtype=torch.float64)
        _distributed.sum_([total])
        return mine * world / total.item() if total.item() else 1.0

    def share(self, loss: Tensor, due: bool) -> tuple[float, bool]:
        """Mean gradients and loss over all ranks, and rank 0's word on whether a checkpoint is due, in one message."""
        if not _distributed.is_active():
            return float(loss), due
        riders = torch.stack([loss.float(), loss.new_tensor(float(due and _distributed.rank() == 0)).float()])
        _distributed.mean_gradients_(self.all, riders)
        mean, share = riders.tolist()
        return mean, share > 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all samples of the batch, of a mean over those of this rank."""
        mine = value.detach() * self.weight
        _distributed.mean_([mine])
        return mine

    def finish(self) -> None:
        """Clip the model's, and leave out those that are zero, as the settings say."""
        parameters = [p for p in self.parameters if p.grad is not None]
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.config.clip_value)
        if self.config.drop_zero_gradients:
            for parameter in parameters:
                if parameter.grad is not None and not parameter.grad.any():
                    parameter.grad = None


def part_of_mean(batch_size: int) -> float:
    """What this rank's mean over its part of a batch counts in the mean of all ranks: 1 where all have as many."""
    rank, world = _distributed.rank(), _distributed.world_size()
    if batch_size < world:
        raise MixbitError(
            f"batch_size={batch_size} is that of all {world} processes together. Legal: at least one sample each."
        )
    part = part_of(batch_size, rank, world)
    samples: int = part.stop - part.start
    return samples * world / batch_size
