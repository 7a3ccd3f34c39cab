"""Losses as people have them: functions of PyTorch, its modules, and their own."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit import _batch
from mixbit.errors import MixbitError
from mixbit.metric import check_labels

Loss: TypeAlias = Callable[..., Any]
"""`(outputs, targets) -> scalar`, the mean over the batch. One that takes `label_smoothing` by that name gets it."""

_SMOOTHING = "label_smoothing"
_IGNORED = -100
"""Target that PyTorch's losses over classes leave out where nothing is said."""


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of logits `(N, classes)` against class numbers `(N,)`.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """
    return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)


# PyTorch's losses over classes have these on axis 1; its losses of differences have no accuracy.
_OVER_CLASSES = (cross_entropy, F.cross_entropy, F.nll_loss, nn.CrossEntropyLoss, nn.NLLLoss)
_OF_DIFFERENCES = (
    F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss,
)  # fmt: skip


class LossFunction:
    """A loss, called as it wants to be, whose value is checked.

    Only outputs and targets are passed by position: what the third argument of somebody's function means is nobody's
    guess (of `F.mse_loss` it is `size_average`). Label smoothing goes to a parameter of that name, or to the attribute
    of that name of a module, as `nn.CrossEntropyLoss` has it.

    Args:
        function: the user's loss.
        output: what of the model's outputs it gets.

    Attributes:
        over_classes: it is one of PyTorch's losses over classes, which have these on axis 1.
        of_differences: it is one of PyTorch's losses of differences.
        of_pytorch: it is any of PyTorch's losses, which compare one tensor.
        ignore_index: target that PyTorch's losses over classes leave out, as it was given or as they have it by
            themselves; None for all other losses.

    Raises:
        MixbitError: no function, or one that cannot be called with outputs and targets.

    >>> LossFunction(F.mse_loss)(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    >>> LossFunction(F.mse_loss)(torch.tensor([1.0]), torch.tensor([1.0]), 0.1)
    Traceback (most recent call last):
    mixbit.errors.MixbitError: label_smoothing=0.1, and the loss 'mse_loss' does not take it. Set it to 0 (--set ...
    """

    def __init__(self, function: Loss, output: Callable[[Any], Any] | None = None) -> None:
        if isinstance(function, type) or not callable(function):
            hint = f" Call the class first: {function.__name__}()." if isinstance(function, type) else ""
            raise MixbitError(f"loss={function!r} is no loss. Legal: a function (outputs, targets) -> scalar.{hint}")
        self.function, self.output = function, output
        self.name = getattr(function, "__name__", type(function).__name__)
        inner = function.func if isinstance(function, functools.partial) else function
        self.over_classes, self.of_differences = (
            _is_one_of(inner, known) for known in (_OVER_CLASSES, _OF_DIFFERENCES)
        )
        home = inner if hasattr(inner, "__name__") else type(inner)
        self.of_pytorch = inner is cross_entropy or str(home.__module__).startswith("torch.nn.")
        self.ignore_index = _ignored(function) if self.over_classes else None
        self._by_name, self._required = self._takes_smoothing(function)

    def _takes_smoothing(self, function: Loss) -> tuple[bool, bool]:
        """Whether it takes label smoothing by name, and whether it must be told."""
        try:
            signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
        except (TypeError, ValueError):  # written in C: nothing is known of it
            return False, False
        try:
            signature.bind(None, None)
        except TypeError as error:
            if _SMOOTHING in signature.parameters and _binds(signature, {_SMOOTHING: 0.0}):
                return True, True
            raise MixbitError(
                f"the loss {self.name!r} {signature} cannot be called with outputs and targets: {error}. Legal: "
                "(outputs, targets) -> scalar, with label_smoothing by that name if it takes it."
            ) from None
        return _SMOOTHING in signature.parameters, False

    def __call__(self, outputs: Any, targets: Any, label_smoothing: float = 0.0) -> Tensor:
        """The loss of a batch, a scalar.

        Raises:
            MixbitError: it gives something else, or cannot take the smoothing.
        """
        outputs = outputs if self.output is None else self.output(outputs)
        self._check_output(outputs)
        if isinstance(targets, Tensor) and targets.is_cuda:  # there a label too many ends the process
            self._check_targets(outputs, targets)
        try:
            found = self._call(outputs, targets, label_smoothing)
        except (IndexError, RuntimeError):
            self._check_targets(outputs, targets)
            raise
        if isinstance(found, int | float):
            return torch.tensor(float(found))
        if not isinstance(found, Tensor) or found.numel() != 1 or found.is_complex():
            raise MixbitError(
                f"the loss {self.name!r} gave {_batch.describe(found)} of outputs {_batch.describe(outputs)} and "
                f"targets {_batch.describe(targets)}. Legal: one number, the mean over the batch (reduction='mean')."
            )
        return found.reshape(())

    @property
    def smooths(self) -> bool:
        """Whether it can be told to smooth labels."""
        own = isinstance(self.function, nn.Module) and isinstance(getattr(self.function, _SMOOTHING, None), float)
        return self._by_name or own

    def weight(self, targets: Any, samples: int) -> int:
        """What the loss of a batch counts in the mean over batches: its samples, or the targets that it is a mean of.

        >>> LossFunction(nn.CrossEntropyLoss(ignore_index=255)).weight(torch.tensor([[0, 255, 1]]), 1)
        2
        """
        numbers = isinstance(targets, Tensor) and not targets.is_floating_point()
        return int((targets != self.ignore_index).sum()) if self.ignore_index is not None and numbers else samples

    def _check_output(self, outputs: Any) -> None:
        """What PyTorch's losses say of several outputs is of their insides."""
        if self.of_pytorch and not isinstance(outputs, Tensor):
            raise MixbitError(
                f"the loss {self.name!r} needs one tensor, and the model gives {_batch.describe(outputs)}. Say which "
                "it is: output='logits' (a name or a number), output=lambda outputs: ..., or give a loss= of your own."
            )

    def _check_targets(self, outputs: Any, targets: Any) -> None:
        """Labels that have no output, which PyTorch's losses over classes name without saying so."""
        numbers = isinstance(targets, Tensor) and not targets.is_floating_point()
        if self.over_classes and numbers and outputs.dim() > 1:
            check_labels(targets, outputs.shape[1], self.ignore_index, f"the loss {self.name!r}")

    def _call(self, outputs: Any, targets: Any, label_smoothing: float) -> Any:
        if self._required or (self._by_name and label_smoothing):
            return self.function(outputs, targets, label_smoothing=label_smoothing)
        if not label_smoothing:  # what it smooths by itself stays
            return self.function(outputs, targets)
        if not self.smooths:
            raise MixbitError(
                f"label_smoothing={label_smoothing}, and the loss {self.name!r} does not take it. Set it to 0 (--set "
                "label_smoothing=0), or give the loss a parameter of that name."
            )
        smoothed: Any = copy.copy(self.function)
        smoothed.label_smoothing = label_smoothing
        return smoothed(outputs, targets)


def _is_one_of(function: object, known: tuple[Any, ...]) -> bool:
    return any(function is one or (isinstance(one, type) and type(function) is one) for one in known)


def _ignored(function: Loss) -> int:
    """Of one of PyTorch's losses over classes, or of a `functools.partial` of one."""
    given = function.keywords if isinstance(function, functools.partial) else vars(function)
    found: int = given.get("ignore_index", _IGNORED)
    return found


def _binds(signature: inspect.Signature, named: dict[str, float]) -> bool:
    try:
        signature.bind(None, None, **named)
    except TypeError:
        return False
    return True


def as_loss(given: Loss, output: Callable[[Any], Any] | None = None) -> LossFunction:
    """The user's loss as it can be called everywhere; one that is so already stays."""
    if isinstance(given, LossFunction):
        return given if output is None or output is given.output else LossFunction(given.function, output)
    return LossFunction(given, output)
