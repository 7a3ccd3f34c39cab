"""A short training of a policy's network before it is judged, on training images that judge nothing."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mixbit.data import Split
from mixbit.errors import MixbitError
from mixbit.methods._episodes import Episodic
from mixbit.task import Task
from mixbit.training import TrainConfig, train

__all__ = ["tuning"]


def tuning(task: Task, rest: Split, settings: Episodic) -> Callable[[nn.Module], object]:
    """What trains a calibrated network in place: momentum 0.9, a decay of 4e-5, as HAQ's code; always the same images.

    Args:
        task: loss and penalty.
        rest: the images that there are to train on.
        settings: epochs over how many of them, rate and batch.

    Raises:
        MixbitError: the images are less than a batch.
    """
    fraction = min(1.0, settings.train_images / len(rest))
    config = TrainConfig(
        epochs=max(settings.epochs, 1),
        batch_size=settings.batch_size,
        lr=settings.lr,
        weight_decay=4e-5,
        fraction=fraction,
        bn_samples=min(settings.train_images, len(rest), 1024),
        seed=settings.seed,
        validate_every=0,
    )
    if not rest.num_batches(config.batch_size, drop_last=True, fraction=fraction):
        raise MixbitError(
            f"batch_size={config.batch_size} is larger than what is left to train on: {len(rest)} images, of which "
            f"train_images={settings.train_images} are taken. Legal: at most that."
        )

    def tune(model: nn.Module) -> object:
        return train(model, rest, None, config, loss=task.objective, penalty=task.penalty, quiet=True)

    return tune
