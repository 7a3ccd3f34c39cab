"""Training and evaluation mode for a while: afterwards each module has its own flag back, frozen batch norms too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["in_evaluation", "in_training", "is_frozen", "modes_kept", "start_training"]


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Whatever is done with the modes inside, each module gets its own `training` back.

    `model.train(flag)` alone gives all modules one flag, which thaws the batch norms that a user froze with `eval()`.
    It is called all the same, as classes may do more in it than to set the flag.
    """
    flags = [(module, module.training) for module in model.modules()]
    was = model.training
    try:
        yield
    finally:
        if model.training != was:
            model.train(was)
        for module, flag in flags:
            module.training = flag


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).eval())
    >>> with in_evaluation(model):
    ...     [module.training for module in model.modules()]
    [False, False, False]
    >>> [module.training for module in model.modules()]
    [True, True, False]
    """
    with modes_kept(model):
        model.eval()
        yield


@contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """Training mode as `start_training` sets it."""
    with modes_kept(model):
        start_training(model)
        yield


def start_training(model: nn.Module) -> None:
    """Training mode, in which modules that the user froze stay in evaluation mode.

    Frozen are those in evaluation mode while the model as a whole is in training mode. A model that is in evaluation
    mode as a whole is put into training mode as a whole, by its own `train`.
    """
    if not model.training:
        model.train()


def is_frozen(model: nn.Module, module: nn.Module) -> bool:
    """Whether the user froze a module of this model with `eval()`."""
    return model.training and not module.training
