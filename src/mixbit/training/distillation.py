"""Distillation: the loss against a teacher's outputs, beside that on labels."""

from __future__ import annotations

from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.task import divergence

__all__ = ["distilled_loss"]


def distilled_loss(
    outputs: Tensor,
    teacher: Tensor,
    hard: Tensor,
    *,
    weight: float,
    temperature: float,
    class_axis: int | None = None,
) -> Tensor:
    """`(1 - w) * hard + w * T^2 * KL(softmax(teacher / T) || softmax(outputs / T))` (Hinton et al. 2015).

    Args:
        outputs: logits `(N, classes)`; of more dimensions with `class_axis`, and then the mean over all positions.
        teacher: the float network's logits, the same shape.
        hard: the loss on labels, a scalar.
        weight: w.
        temperature: T.
        class_axis: where the classes are; needed but for `(N, classes)`.

    Raises:
        MixbitError: it is not told where the classes are.

    >>> import torch
    >>> same = torch.tensor([[1.0, 2.0]])
    >>> float(distilled_loss(same, same, torch.tensor(2.0), weight=0.5, temperature=4.0))
    1.0
    """
    if class_axis is None and outputs.dim() != 2:
        raise MixbitError(
            f"distillation of outputs {tuple(outputs.shape)}: it is not known which axis has the classes. Give "
            "class_axis=, e.g. 1 for (N, C, H, W) and 2 for (N, T, C)."
        )
    soft = divergence(outputs, teacher, 1 if class_axis is None else class_axis, temperature)
    return (1 - weight) * hard + weight * temperature**2 * soft
