"""Norms of perturbations, image by image, and the nearest point of a ball."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["NORMS", "Norm", "norm_of", "per_image", "project"]

Norm = Literal["L0", "L1", "L2", "Linf"]
NORMS: tuple[Norm, ...] = ("L0", "L1", "L2", "Linf")


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """One number an image `(N,)`, shaped to be combined with images `(N, ...)`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def norm_of(delta: Tensor, norm: Norm) -> Tensor:
    """Norm of each image's perturbation `(N, ...)`; L0 counts the numbers that are not 0.

    >>> delta = torch.tensor([[0.0, 3.0, -4.0]])
    >>> [float(norm_of(delta, norm)) for norm in NORMS]
    [2.0, 7.0, 5.0, 4.0]
    """
    order = {"L0": 0.0, "L1": 1.0, "L2": 2.0, "Linf": torch.inf}[norm]
    found: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)
    return found


def project(delta: Tensor, norm: Norm, radius: Tensor | float) -> Tensor:
    """The nearest perturbation within the radius: cut at it for Linf, shortened to it for L2.

    >>> project(torch.tensor([[3.0, 4.0]]), "L2", 1.0), project(torch.tensor([[3.0, 4.0]]), "Linf", 1.0)
    (tensor([[0.6000, 0.8000]]), tensor([[1., 1.]]))
    """
    radius = per_image(torch.as_tensor(radius, dtype=delta.dtype, device=delta.device).expand(len(delta)), delta)
    if norm == "Linf":
        return torch.maximum(torch.minimum(delta, radius), -radius)
    if norm == "L2":
        length = per_image(norm_of(delta, norm), delta)
        return delta * torch.clamp(radius / length.clamp_min(1e-30), max=1.0)
    raise ValueError(f"no projection onto a ball of {norm}")
